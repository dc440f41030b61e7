"""The diffusion model that a config describes."""

import logging
from collections.abc import Callable

from torch import Tensor

from diffexp.config.diffusion import SCHEDULES, ScheduleConfig
from diffexp.config.experiment import Optim
from diffexp.config.networks import NETWORKS, NetworkConfig
from diffexp.config.objectives import WEIGHTINGS, WeightingConfig
from diffexp.diffusion.objectives import LossName
from diffexp.diffusion.predictions import Prediction
from diffexp.diffusion.schedules import MUCH_SIGNAL, Schedule, with_zero_terminal_snr
from diffexp.diffusion.timesteps import ImportanceSampler, StratifiedSampler, TimestepSampler, UniformSampler
from diffexp.errors import UserError
from diffexp.models.diffusion import DiffusionModule

log = logging.getLogger(__name__)

_TIMESTEPS: dict[str, Callable[[int], TimestepSampler]] = {
    "uniform": UniformSampler,
    "stratified": StratifiedSampler,
    "importance": ImportanceSampler,
}
_SMALLEST = 1e-12  # an SNR, against a division by 0


def from_config(
    image_shape: tuple[int, int, int],
    optim: Optim,
    seed: int,
    *,
    module: Callable[..., DiffusionModule] = DiffusionModule,
    timesteps: int,
    schedule: ScheduleConfig,
    prediction: str,
    loss: LossName,
    weighting: WeightingConfig,
    timesteps_drawn: str,
    classes: int | None,
    label_dropout: float,
    network: NetworkConfig,
    gradient_variance: object = None,
) -> DiffusionModule:
    """Build the module that a config describes, its weights drawn from torch's generator.

    Raises:
        UserError: if the schedule is invalid at this T.
    """
    built = build_schedule(schedule, timesteps)
    more = {} if loss == "simple" else {"out_channels": 2 * image_shape[0]}
    more |= {} if classes is None else {"classes": classes}
    built_network = NETWORKS.build(network, image_shape, **more)
    try:
        weights = WEIGHTINGS.build(weighting, built.alphas_cumprod / (1 - built.alphas_cumprod))
        if weights is not None:
            weights = weights / Prediction(prediction, built).error_of_x0().clamp(min=_SMALLEST)
        return module(
            image_shape,
            built_network,
            built,
            prediction,
            optim,
            seed,
            loss=loss,
            weights=weights,
            timesteps=_TIMESTEPS[timesteps_drawn](timesteps),
            classes=classes,
            label_dropout=label_dropout,
        )
    except ValueError as error:
        raise UserError(f"model.prediction: {error}") from error


def build_schedule(schedule: ScheduleConfig, timesteps: int) -> Schedule:
    """The schedule that a config describes; warns if it leaves much signal.

    Raises:
        UserError: if it is invalid at this T.
    """
    try:
        betas = SCHEDULES.build(schedule, timesteps)
        if not isinstance(betas, Tensor) or betas.shape != (timesteps,):
            raise ValueError(f"must give a tensor of shape ({timesteps},)")
        wanted = schedule.zero_terminal_snr
        built = Schedule(with_zero_terminal_snr(betas) if wanted else betas, zero_terminal_snr=wanted)
    except ValueError as error:
        raise UserError(f"model.schedule: {schedule.name} at model.timesteps = {timesteps}: {error}") from error
    if built.terminal_signal > MUCH_SIGNAL:
        rescalable = getattr(schedule, "rescale", "") == "none" and built.betas.max() * 1000 / timesteps < 1
        remedy = "; rescale: 1000/T keeps what T = 1000 has" if rescalable else ""
        log.warning(
            "model.schedule: %s at T = %d leaves √ᾱ_T = %.3g of the signal in x_T, but sampling starts from none%s",
            *(schedule.name, timesteps, built.terminal_signal, remedy),
        )
    return built
