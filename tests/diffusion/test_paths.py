import itertools

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given
from hypothesis import strategies as st

from diffexp.diffusion import schedules
from diffexp.diffusion.paths import SPACINGS, timestep_path


def levels(timesteps):
    return schedules.Schedule(schedules.cosine(timesteps)).alphas_cumprod.tolist()


def visited(timesteps, steps, spacing):
    return [t for t, _ in timestep_path(timesteps, steps, spacing, levels(timesteps))][::-1]


@given(st.integers(1, 1200), st.data(), st.sampled_from(SPACINGS))
def test_exactly_s_falling_steps_each_leading_to_the_next(timesteps, data, spacing):
    steps = data.draw(st.integers(1, timesteps))
    path = timestep_path(timesteps, steps, spacing, levels(timesteps))
    assert len(path) == steps
    assert path[-1][1] == -1
    assert all(t_prev == following for (_, t_prev), (following, _) in itertools.pairwise(path))
    assert all(timesteps > t > t_prev >= -1 for t, t_prev in path)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_all_steps_are_all_timesteps(spacing):
    assert visited(1000, 1000, spacing) == list(range(1000))
    assert timestep_path(7) == timestep_path(7, 7, spacing, levels(7))


@pytest.mark.parametrize("steps", [10, 20, 50, 100, 1000])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_equals_diffusers_where_S_divides_T(spacing, steps):
    theirs = DDIMScheduler(num_train_timesteps=1000, timestep_spacing=spacing)
    theirs.set_timesteps(steps)
    assert visited(1000, steps, spacing)[::-1] == theirs.timesteps.tolist()


def test_where_S_does_not_divide_T_the_number_of_steps_is_still_S():
    # range(0, 1000, 1000 // 30) has 31 entries
    assert visited(1000, 30, "leading") == [i * 1000 // 30 for i in range(30)]


def test_quadratic_is_the_papers_with_the_last_step_at_the_end():
    assert visited(1000, 10, "quadratic") == [int(999 / 81 * i**2 + 1e-9) for i in range(10)]


@pytest.mark.parametrize("steps", [10, 20])
def test_quadratic_08_is_the_authors_code(steps):
    theirs = [int(t) for t in np.linspace(0, np.sqrt(1000 * 0.8), steps) ** 2]
    ours = visited(1000, steps, "quadratic-0.8")
    assert all(abs(a - b) <= 1 for a, b in zip(ours, theirs, strict=True))  # their √ and ² round down by one at times
    assert ours[-1] == 800


def test_quadratic_visits_each_of_the_smallest_once():
    assert visited(1000, 100, "quadratic")[:5] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("steps", [0, 1001, -1])
def test_steps_outside_1_T_are_refused(steps):
    with pytest.raises(ValueError, match=rf"steps: expected an integer in \[1, T = 1000\], got {steps}\."):
        timestep_path(1000, steps, "leading")


def test_an_unknown_spacing_is_refused():
    with pytest.raises(ValueError, match="spacing: expected one of"):
        timestep_path(10, 5, "cubic")


def test_karras_is_the_nearest_to_the_papers_noise_levels():
    alphas = schedules.Schedule(schedules.linear(1000)).alphas_cumprod
    sigmas = ((1 - alphas) / alphas).sqrt()
    steps = torch.arange(18, dtype=torch.float64) / 17
    wanted = (sigmas[0] ** (1 / 7) + steps * (sigmas[-1] ** (1 / 7) - sigmas[0] ** (1 / 7))) ** 7
    nearest = (sigmas ** (1 / 7) - wanted[:, None] ** (1 / 7)).abs().argmin(1).tolist()
    ours = [t for t, _ in timestep_path(1000, 18, "karras", alphas.tolist())][::-1]
    assert ours == [max(t, i) for i, t in enumerate(nearest)]


def test_logsnr_steps_are_equal_where_the_timesteps_are_dense():
    schedule = schedules.Schedule(schedules.linear(100_000, rescale="1000/T"))
    path = timestep_path(100_000, 21, "logsnr", schedule.alphas_cumprod.tolist())
    logsnr = torch.logit(schedule.alphas_cumprod[[t for t, _ in path]])
    # but for the last ones, where the timesteps themselves lie apart
    torch.testing.assert_close(logsnr.diff()[:-3], logsnr.diff().mean().expand(17), rtol=0.02, atol=0)


def test_a_terminal_snr_of_zero_is_visited_first():
    alphas = [0.99, 0.9, 0.5, 0.1, 0.0]
    assert timestep_path(5, 3, "karras", alphas)[0][0] == timestep_path(5, 3, "logsnr", alphas)[0][0] == 4


def test_spacings_by_noise_need_the_noise():
    with pytest.raises(ValueError, match="alphas_cumprod: expected ᾱ for spacing"):
        timestep_path(1000, 10, "karras")


def test_arctan_takes_equal_steps_from_the_data_to_the_end():
    schedule = schedules.Schedule(schedules.linear(100_000, rescale="1000/T"))
    path = timestep_path(100_000, 20, "arctan", schedule.alphas_cumprod.tolist())
    alphas = schedule.alphas_cumprod[[t for t, _ in path]]
    heights = torch.cat([((1 - alphas) / alphas) ** (1 / 3), torch.zeros(1)]).atan()
    torch.testing.assert_close(heights.diff(), heights.diff().mean().expand(20), rtol=0.01, atol=0)


def test_arctan_is_trailing_on_a_cosine_with_a_wider_log_snr():
    # √(1-ᾱ)/√ᾱ = tan(π/2 · u)^(3/2), so that its power 2/3 rises by equal angles
    tangent = torch.tan(torch.arange(1, 1001, dtype=torch.float64) / 1001 * torch.pi / 2) ** 1.5
    assert timestep_path(1000, 20, "arctan", (1 / (1 + tangent**2)).tolist()) == timestep_path(1000, 20, "trailing")


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_arctan_starts_at_the_end_also_where_the_snr_is_zero(steps):
    assert timestep_path(5, steps, "arctan", [0.99, 0.9, 0.5, 0.1, 0.0])[0][0] == 4
