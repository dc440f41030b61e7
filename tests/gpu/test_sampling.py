"""Noise, samplers, CUDA graphs, precisions and memory on a GPU."""

from dataclasses import replace

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from diffexp.config.schemas.samplers import (
    SAMPLERS,
    DDIMConfig,
    DDPMConfig,
    DiffusionSamplerConfig,
    DPMSolverConfig,
    HeunConfig,
    UniPCConfig,
)
from diffexp.diffusion.schedules import Schedule, cosine, linear
from diffexp.models.batch_size import images_at_once
from diffexp.models.diffusion import DiffusionModule
from diffexp.models.precision import sampling_precision
from diffexp.networks.unet import UNet
from diffexp.rng import PerSampleNoise, RandomNumbers
from tests.helpers.comparing import off

CPU = torch.device("cpu")
WIDTH = 32 if torch.cuda.is_available() else 8  # in a rehearsal the CPU is compared with itself
SAMPLERS_HERE = {
    "ddpm, small": DDPMConfig(steps=10, variance="fixed_small"),
    "ddpm, large": DDPMConfig(steps=10),
    "ddpm, all steps": DDPMConfig(),
    "ddim": DDIMConfig(steps=10),
    "ddim, η = 1": DDIMConfig(steps=10, eta=1.0),
    "ddim, σ̂": DDIMConfig(steps=10, eta=1.0, sigma_hat=True),
    "ddim, unclipped": DDIMConfig(steps=10, clip_sample=False),
    "ddim, dynamic": DDIMConfig(steps=10, dynamic_thresholding_ratio=0.9),
    "dpmpp 1": DPMSolverConfig(steps=10, order=1),
    "dpmpp 2": DPMSolverConfig(steps=10, order=2),
    "dpmpp 3": DPMSolverConfig(steps=10, order=3),
    "dpmpp 2, SDE": DPMSolverConfig(steps=10, order=2, sde=True),
    "unipc 2": UniPCConfig(steps=10, order=2),
    "unipc 3": UniPCConfig(steps=10, order=3),
    "heun": HeunConfig(steps=10),
}


def module(device, base_channels=WIDTH, prediction="v", schedule=None):
    """A model with random weights, none zero."""
    torch.manual_seed(0)
    network = UNet(
        (3, 16, 16),
        base_channels=base_channels,
        channel_multipliers=[1, 2],
        num_res_blocks=1,
        attention_resolutions=[8],
        norm_num_groups=8,
    )
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    return (
        DiffusionModule((3, 16, 16), network, Schedule(cosine(100) if schedule is None else schedule), prediction)
        .to(device)
        .eval()
    )


def test_every_sampler_is_among_these():
    known = {name for name in SAMPLERS.names if issubclass(SAMPLERS.schema(name), DiffusionSamplerConfig)}
    assert {each.name for each in SAMPLERS_HERE.values()} == known


@pytest.mark.parametrize("sampler", SAMPLERS_HERE.values(), ids=SAMPLERS_HERE)
def test_images_are_the_cpus(device, sampler):
    there = module(CPU).sample(sampler, range(7, 15), 3)
    here = module(device).sample(sampler, range(7, 15), 3)
    assert here.device == device
    torch.testing.assert_close(here.cpu(), there, rtol=0, atol=1e-4)


@pytest.mark.parametrize("prediction", ["epsilon", "x0", "scaled_epsilon"])
def test_images_are_the_cpus_whatever_is_predicted(device, prediction):
    # a schedule that leaves signal in x_T: others multiply rounding by 1/√ᾱ there, by hundreds
    there, here = (
        module(each, prediction=prediction, schedule=linear(100)).sample(DDIMConfig(steps=10), range(8), 3)
        for each in (CPU, device)
    )
    torch.testing.assert_close(here.cpu(), there, rtol=0, atol=1e-4)


def test_noise_is_the_same_numbers(device):
    indices = [0, 5, 2**31, 2**40 + 1]
    there, here = (PerSampleNoise(11, indices, (3, 64, 64), each) for each in (CPU, device))
    for _ in range(20):
        one, other = there.draw(), here.draw().cpu()
        differing = one != other  # a normal of 10⁸ may be rounded otherwise
        assert differing.sum() <= 1
        torch.testing.assert_close(other, one, rtol=2e-7, atol=0)


def test_uniform_numbers_are_the_same_exactly(device):
    positions = torch.arange(100_000) * 123_456_789
    there, here = (RandomNumbers(2**63 + 5, positions.to(each)).draws(3, 1, (1,))[0] for each in (CPU, device))
    assert torch.equal(here.uniforms.cpu(), there.uniforms)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_cuda_graphs_equal_eager_and_are_replayed(cuda, precision):
    plain, graphed = module(cuda), module(cuda)
    graphed.use_cuda_graphs()
    sampler = DDIMConfig(steps=10)
    for seed in (0, 1):
        with sampling_precision(plain, precision):
            expected = plain.sample(sampler, range(8), seed)
        with sampling_precision(graphed, precision):
            torch.testing.assert_close(graphed.sample(sampler, range(8), seed), expected, rtol=0, atol=1e-3)
    assert graphed.graphs.replays == 20
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        with sampling_precision(graphed, precision):
            graphed.sample(sampler, range(8), 2)
        torch.cuda.synchronize()
    launches = sum(each.count for each in profiled.key_averages() if each.key == "cudaGraphLaunch")
    assert launches >= 10


def test_cuda_graphs_read_the_weights_of_the_moment(cuda):
    plain, graphed, sampler = module(cuda), module(cuda), DDIMConfig(steps=4)
    graphed.use_cuda_graphs()
    first = graphed.sample(sampler, range(4), 0)
    with torch.no_grad():
        for each in (plain, graphed):
            for parameter in each.network.parameters():
                parameter.mul_(0.9)  # as the optimiser does, in place
    second = graphed.sample(sampler, range(4), 0)
    assert (second - first).abs().max() > 1e-3
    torch.testing.assert_close(second, plain.sample(sampler, range(4), 0), rtol=0, atol=1e-3)
    for each in (plain, graphed):
        for parameter in each.network.parameters():
            parameter.data = parameter.data * 0.9  # as the average takes the weights' place
    torch.testing.assert_close(
        graphed.sample(sampler, range(4), 0), plain.sample(sampler, range(4), 0), rtol=0, atol=1e-3
    )
    recorded = torch.cuda.memory_allocated()
    graphed.on_train_batch_start(None, 0)
    assert torch.cuda.memory_allocated() < recorded


def test_guided_classes_are_replayed_too(cuda):
    torch.manual_seed(0)
    network = UNet(
        (1, 8, 8), base_channels=8, channel_multipliers=[1], attention_resolutions=[], norm_num_groups=4, classes=3
    )
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    guided = DiffusionModule((1, 8, 8), network, Schedule(cosine(100)), "v", classes=3).to(cuda).eval()
    sampler = DDIMConfig(steps=5, guidance_scale=2.0)
    plain = guided.sample(sampler, range(6), 0)
    guided.use_cuda_graphs()
    torch.testing.assert_close(guided.sample(sampler, range(6), 0), plain, rtol=0, atol=1e-3)
    assert guided.graphs.replays == 10


def test_what_cannot_be_recorded_runs_as_it_is(cuda, caplog):
    class Waits(torch.nn.Module):
        def forward(self, x, t):
            return x * float(x.mean() > -1e9)

    waiting = DiffusionModule((3, 16, 16), Waits(), Schedule(cosine(100)), "v").to(cuda).eval()
    plain = waiting.sample(DDIMConfig(steps=4), range(4), 0)
    waiting.use_cuda_graphs()
    torch.testing.assert_close(waiting.sample(DDIMConfig(steps=4), range(4), 0), plain)
    assert "cuda_graphs: expected a network that can be recorded" in caplog.text
    assert waiting.graphs.replays == 0
    assert float(torch.zeros(3, device=cuda).sum()) == 0  # the GPU works on


@pytest.mark.slow
def test_compiled_samples_equal_eager(cuda):
    plain, compiled, sampler = module(cuda), module(cuda), DDIMConfig(steps=5)
    compiled.compile_network(sampling=True)
    expected = plain.sample(sampler, range(8), 0)
    for _ in range(3):  # the first calls record, the later replay
        torch.testing.assert_close(compiled.sample(sampler, range(8), 0), expected, rtol=0, atol=1e-3)
    assert compiled._compiled["sampling"]._failed is False


@pytest.mark.parametrize(("precision", "tolerance"), [("bf16-mixed", 0.03), ("bf16-true", 0.05)])
def test_bfloat16_samples_are_near(device, precision, tolerance):
    model = module(device)
    exact = model.sample(DDIMConfig(steps=10), range(8), 0)
    with sampling_precision(model, precision):
        rounded = model.sample(DDIMConfig(steps=10), range(8), 0)
    assert rounded.dtype == torch.float32
    assert 0 < off(rounded, exact) < tolerance


@pytest.mark.parametrize("sampler", [DDIMConfig(steps=4), DDPMConfig(steps=4)])
def test_memory_is_held(cuda, sampler):
    budget = 0.5 * 2**30
    model = module(cuda, base_channels=64)
    count = images_at_once(model, sampler, 100_000, 0.5)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    model.sample(sampler, range(count), 0)
    torch.cuda.synchronize()
    taken = torch.cuda.max_memory_allocated() - before
    assert 0.4 * budget < taken <= budget


def test_sampling_waits_for_nothing_between_its_steps(cuda):
    model = module(cuda)
    for sampler in (DDPMConfig(steps=20), DPMSolverConfig(steps=20), replace(DDIMConfig(), steps=20)):
        noise = PerSampleNoise(0, range(8), model.x_shape, cuda)
        steps = model.trajectory(sampler, noise)
        next(steps)  # copies tables of the schedule there
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in steps:
                pass
        finally:
            torch.cuda.set_sync_debug_mode("default")
