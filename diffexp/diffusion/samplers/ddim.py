"""Denoising diffusion implicit models (Song et al. 2021)."""

from dataclasses import dataclass

from diffexp.diffusion.samplers.base import SingleStepSampler, StepCoefficients


@dataclass(frozen=True)
class DDIM(SingleStepSampler):
    """Denoising diffusion implicit models (Song et al. 2021, eq. 12 and 16)::

        x_prev = √ᾱ_prev · x̂_0 + √(1-ᾱ_prev-σ²) · ε̂ + σ z,      z ~ N(0, I)
        σ(η)   = η √((1-ᾱ_prev)/(1-ᾱ_t)) √(1-ᾱ_t/ᾱ_prev)

    η = 0 is deterministic. η = 1 over all T steps is DDPM with variance "fixed_small". The last step has ᾱ_prev = 1 and
    hence σ = 0 for any η: the sample is x̂_0, without noise.

    Args:
        eta: η in [0, 1], which scales the standard deviation of the noise.
        sigma_hat: use the larger noise σ̂ = √(1-ᾱ_t/ᾱ_prev) while the mean keeps η = 1. Over all T steps this is DDPM
            with variance "fixed_large". The last step adds no noise.

    Raises:
        ValueError: if eta is outside [0, 1], or not 1 with sigma_hat.
    """

    eta: float = 0.0
    sigma_hat: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta: expected a number in [0, 1], got {self.eta}.")
        if self.sigma_hat and self.eta != 1:
            raise ValueError(f"eta: expected 1 with sigma_hat, got {self.eta}.")

    def step(self, alpha_bar: float, alpha_bar_prev: float) -> StepCoefficients:
        """Return the coefficients of the step from ᾱ_t to ᾱ_prev."""
        variance_hat = 1 - alpha_bar / alpha_bar_prev
        sigma = self.eta * ((1 - alpha_bar_prev) / (1 - alpha_bar) * variance_hat) ** 0.5
        noise = variance_hat**0.5 if self.sigma_hat and alpha_bar_prev < 1 else sigma
        return StepCoefficients(
            coef_x=0.0,
            coef_x0=alpha_bar_prev**0.5,
            coef_epsilon=max(0.0, 1 - alpha_bar_prev - sigma**2) ** 0.5,
            sigma=noise,
        )
