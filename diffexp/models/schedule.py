"""Build a noise schedule from a config, without the models and Lightning: reports need no more."""

import logging

from torch import Tensor

from diffexp.config.schemas.schedules import SCHEDULES, ScheduleConfig
from diffexp.diffusion.schedules import MUCH_SIGNAL, Schedule, with_zero_terminal_snr
from diffexp.errors import UserError

log = logging.getLogger(__name__)


def build_schedule(schedule: ScheduleConfig, timesteps: int) -> Schedule:
    """Build the schedule of a config.

    Args:
        schedule: the config.
        timesteps: T, the number of timesteps.

    Raises:
        UserError: if the schedule is invalid for this T.
    """
    try:
        betas = SCHEDULES.build(schedule, timesteps)
        if not isinstance(betas, Tensor) or betas.shape != (timesteps,):
            raise ValueError(f"expected a tensor of shape ({timesteps},).")
        wanted = schedule.zero_terminal_snr
        return Schedule(with_zero_terminal_snr(betas) if wanted else betas, zero_terminal_snr=wanted)
    except ValueError as error:
        raise UserError(f"model.schedule: {schedule.name} at model.timesteps = {timesteps}: {error}") from error


def warn_of_signal(schedule: ScheduleConfig, built: Schedule) -> None:
    """Warn if a schedule leaves much signal in x_T.

    Args:
        schedule: the config.
        built: what `build_schedule` returned for it.
    """
    timesteps = built.timesteps
    if built.terminal_signal > MUCH_SIGNAL:
        rescalable = getattr(schedule, "rescale", "") == "none" and built.betas.max() * 1000 / timesteps < 1
        remedy = " Set rescale: 1000/T to keep the signal of T = 1000." if rescalable else ""
        log.warning(
            "model.schedule: expected √ᾱ_T near 0, got %s at T = %d with √ᾱ_T = %.3g. Sampling starts from N(0, I).%s",
            *(schedule.name, timesteps, built.terminal_signal, remedy),
        )
