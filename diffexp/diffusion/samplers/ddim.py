"""Denoising diffusion implicit models (Song et al. 2021)."""

from dataclasses import dataclass

from diffexp.diffusion.samplers.base import SingleStepSampler, StepCoefficients


@dataclass(frozen=True)
class DDIM(SingleStepSampler):
    """Denoising diffusion implicit models (Song et al. 2021, eq. 12):

        x_prev = √ᾱ_prev · x̂_0 + √(1-ᾱ_prev-σ²) · ε̂ + σ z,
        σ(η)   = η √((1-ᾱ_prev)/(1-ᾱ_t)) √(1-ᾱ_t/ᾱ_prev)      (eq. 16).

    η = 0 is deterministic; η = 1 over all T steps is DDPM with fixed_small variance. The last step has ᾱ_prev = 1, so
    that σ = 0 for any η: x_prev is x̂_0, without noise.

    Args:
        eta: η in [0, 1]; multiplies the standard deviation.
        sigma_hat: add the larger noise σ̂ = √(1-ᾱ_t/ᾱ_prev) while the mean keeps η = 1: over all T steps
            DDPM with fixed_large variance. The last step adds no noise.
    """

    eta: float = 0.0
    sigma_hat: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta: expected a number from 0 to 1, got {self.eta}")
        if self.sigma_hat and self.eta != 1:
            raise ValueError(f"eta: expected 1 with sigma_hat, got {self.eta}")

    def step(self, alpha_bar: float, alpha_bar_prev: float) -> StepCoefficients:
        """Coefficients of one step."""
        variance_hat = 1 - alpha_bar / alpha_bar_prev
        sigma = self.eta * ((1 - alpha_bar_prev) / (1 - alpha_bar) * variance_hat) ** 0.5
        noise = variance_hat**0.5 if self.sigma_hat and alpha_bar_prev < 1 else sigma
        return StepCoefficients(
            coef_x=0.0,
            coef_x0=alpha_bar_prev**0.5,
            coef_epsilon=max(0.0, 1 - alpha_bar_prev - sigma**2) ** 0.5,
            sigma=noise,
        )
