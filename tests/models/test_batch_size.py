import pytest
import torch

from diffexp.commands import sample
from diffexp.config.schemas.requests import SampleRequest
from diffexp.config.schemas.samplers import DDIMConfig, DDPMConfig
from diffexp.errors import UserError
from diffexp.models.batch_size import images_at_once, peak_bytes
from diffexp.system.devices import autocast
from tests.helpers.unet import model

CPU = torch.device("cpu")


def test_the_peak_is_what_lives_at_once():
    def work():
        view = torch.zeros(1000, dtype=torch.float32)[:500]
        torch.zeros(900)
        return view.add_(1) + torch.zeros(250)[:, None].expand(250, 2).reshape(500)

    # the 4000 bytes that a view keeps, 2000 of the reshaped, 2000 of the sum
    assert peak_bytes(work, CPU) == pytest.approx(1.2 * 8000)


@pytest.mark.parametrize("sampler", [DDIMConfig(steps=4), DDPMConfig(steps=4)])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_batch_that_fits_takes_no_more_than_the_budget(sampler, precision):
    module, budget = model(), 2e6
    with autocast(precision, CPU):
        count = images_at_once(module, sampler, 10_000, budget / 2**30)
        taken = peak_bytes(lambda: module.sample(sampler, range(count), 0), CPU)
    assert 0.85 * budget < taken <= budget


def test_never_more_than_the_limit():
    assert images_at_once(model(), DDIMConfig(steps=4), 7, 1.0) == 7


def test_a_budget_above_the_machine_s_memory_is_capped_with_a_warning(monkeypatch, caplog):
    module, there = model(), 2_000_000
    monkeypatch.setattr(sample, "memory_of", lambda device: there)
    request = SampleRequest(sampler=DDIMConfig(steps=4), batch_size=10_000, memory_gb=1e6)
    count = sample.fitted_batch_size(module, [request.sampler], request)
    assert count == images_at_once(module, request.sampler, 10_000, there / 2**30) < 10_000
    assert "memory_gb: expected at most the 0.00186 GiB here, got 1e+06." in caplog.text


def test_a_budget_below_one_image_is_refused():
    with pytest.raises(UserError, match=r"memory_gb: expected at least .* GiB for one image, got 1e-06\. Raise it"):
        images_at_once(model(), DDIMConfig(steps=4), 7, 1e-6)
