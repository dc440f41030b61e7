"""Training losses: the simple loss, the variational bound, or their sum.

The loss of an image at index t is one of::

    simple    w_t ‖target - estimate‖², averaged over the pixels                (Ho et al. 2020, eq. 14)
    vlb       T · L_t, so that its mean over uniform t is the bound             (Ho et al. 2020, eq. 5)
    hybrid    simple + λ vlb with λ = 0.001; vlb trains only the variance       (Nichol & Dhariwal 2021, eq. 16)

L_t is `diffexp.diffusion.bound.Bound.term`.
"""

from typing import Literal

from torch import Tensor

from diffexp.diffusion.bound import Bound
from diffexp.diffusion.predictions import Network, Prediction
from diffexp.diffusion.schedules import TimestepTable

LossName = Literal["simple", "hybrid", "vlb"]

_BOUND_IN_HYBRID = 1e-3  # λ of Nichol & Dhariwal 2021, eq. 16


class Objective:
    """The training loss of each image.

    Args:
        prediction: what the network predicts. "vlb" and "hybrid" need a learned variance.
        loss: "simple", "vlb" or "hybrid", as defined in this module.
        weights: w_t of the squared error of the prediction, shape (T,); None is 1.
    """

    def __init__(self, prediction: Prediction, loss: LossName = "simple", weights: Tensor | None = None) -> None:
        self.prediction = prediction
        self.loss = loss
        self._bound = Bound(prediction.schedule, "learned") if loss != "simple" else None
        self._weights = None if weights is None else TimestepTable(weights)

    def losses(
        self, network: Network, x0: Tensor, noise: Tensor, t: Tensor, other: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Compute the error and the loss of each image.

        Args:
            network: the network to train.
            x0: x_0 in [-1, 1], shape (B, C, H, W).
            noise: ε ~ N(0, I), same shape.
            t: indices, int64 (B,).
            other: the second noise ω ~ N(0, I) that "step_epsilon" needs, see `Prediction.target`.

        Returns:
            (‖target - estimate‖² averaged over the pixels, the loss to minimise), both (B,).
        """
        prediction = self.prediction
        x_t = prediction.schedule.add_noise(x0, noise, t)
        output, share = prediction.split(network(x_t, t).float())
        estimate = prediction.estimate(output, t)
        error = (prediction.target(x0, noise, t, other) - estimate).square().mean(dim=(1, 2, 3))
        minimised = error if self._weights is None else error * self._weights.at(t, error)
        if self._bound is None:
            return error, minimised
        guess = prediction.x0(estimate, x_t, t)
        if self.loss == "hybrid":
            guess = guess.detach()
        vlb = prediction.schedule.timesteps * self._bound.term(x0, x_t, t, guess, share)
        return error, minimised + _BOUND_IN_HYBRID * vlb if self.loss == "hybrid" else vlb
