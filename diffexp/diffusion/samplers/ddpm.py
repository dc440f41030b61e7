"""Ancestral sampling, the sampler of DDPM (Ho et al. 2020)."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from diffexp.diffusion.predictions import Denoised
from diffexp.diffusion.samplers.base import SingleStepSampler, StepCoefficients, expect_one_of


@dataclass(frozen=True)
class DDPM(SingleStepSampler):
    """Ancestral sampling (Ho et al. 2020, algorithm 2 and eq. 7)::

        x_{t-1} = (x_t - β_t/√(1-ᾱ_t) · ε̂)/√α_t + σ_t z,      z ~ N(0, I)
                = √α_t (1-ᾱ_{t-1})/(1-ᾱ_t) · x_t + √ᾱ_{t-1} β_t/(1-ᾱ_t) · x̂_0 + σ_t z

    The code uses the second form, which also holds where ᾱ_t = 0. On a path of fewer than T steps, α_t = ᾱ_t/ᾱ_prev and
    β_t = 1-α_t (Nichol & Dhariwal 2021).

    Args:
        variance: σ_t². The last step adds no noise with any of them.

            - "fixed_small": β̃_t = β_t (1-ᾱ_{t-1})/(1-ᾱ_t).
            - "fixed_large": β_t.
            - "none": 0, the deterministic recursion of the lecture notes.
            - "learned": β_t^v β̃_t^(1-v), where the network predicts v (Nichol & Dhariwal 2021, eq. 15).

    Raises:
        ValueError: if the variance is not one of these.
    """

    variance: Literal["fixed_small", "fixed_large", "none", "learned"] = "fixed_large"

    def __post_init__(self) -> None:
        expect_one_of("variance", self.variance, ("fixed_small", "fixed_large", "none", "learned"))

    def step(self, alpha_bar: float, alpha_bar_prev: float) -> StepCoefficients:
        """Return the coefficients of the step from ᾱ_t to ᾱ_prev."""
        alpha = alpha_bar / alpha_bar_prev
        beta = 1 - alpha
        variance = {
            "fixed_small": beta * (1 - alpha_bar_prev) / (1 - alpha_bar),
            "fixed_large": beta if alpha_bar_prev < 1 else 0.0,
            "none": 0.0,
            "learned": beta if alpha_bar_prev < 1 else 0.0,
        }[self.variance]
        return StepCoefficients(
            coef_x=alpha**0.5 * (1 - alpha_bar_prev) / (1 - alpha_bar),
            coef_x0=alpha_bar_prev**0.5 * beta / (1 - alpha_bar),
            coef_epsilon=0.0,
            sigma=variance**0.5,
        )

    def spread(
        self, step: StepCoefficients, alpha_bar: float, alpha_bar_prev: float, denoised: Denoised
    ) -> float | Tensor:
        """Return σ_t; a learned one is a tensor between √β̃_t (v = 0) and √β_t (v = 1)."""
        share = denoised.variance_share
        if self.variance != "learned" or share is None:
            return step.sigma
        small_of_large = (1 - alpha_bar_prev) / (1 - alpha_bar)
        return step.sigma * small_of_large ** (0.5 * (1 - share))
