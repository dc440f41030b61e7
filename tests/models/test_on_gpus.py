"""What the code does for GPUs, as far as a machine without one can show it."""

import copy
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode

from diffexp.config.load import load_experiment
from diffexp.config.schemas.samplers import DDIMConfig, DDPMConfig, PriorConfig
from diffexp.errors import UserError
from diffexp.models.batch import as_batch
from diffexp.models.build import build_model
from diffexp.models.cuda_graphs import CUDAGraphs
from diffexp.models.diffusion import DiffusionModule
from diffexp.models.precision import sampling_precision
from diffexp.rng import PerSampleNoise
from diffexp.system.devices import determinism_restored, out_of_memory_explained
from tests.helpers.small import diffexp, experiment, fit
from tests.helpers.unet import model

GPU = torch.device("cuda", 0)
CHOICES = {
    "defaults": [],
    "importance": ["model.timestep_sampling=importance"],
    "stratified, hybrid": ["model.timestep_sampling=stratified", "model.loss=hybrid"],
    "classes, min-SNR": ["model.classes=10", "model.weighting.name=min_snr"],
    "zero SNR, v": ["model.prediction=v", "model.schedule.zero_terminal_snr=true"],
    "gradient_checkpointing": ["model.network.gradient_checkpointing=true"],
}


def pretend(overrides, mode):
    """The model of a config on a GPU that is not there: tensors have shapes, types and a device, but no numbers."""
    real = build_model(load_experiment("digits", overrides))
    with FakeCopyMode(mode):
        module = copy.deepcopy(real)
    with mode:
        for part in module.modules():
            for name, value in part.named_parameters(recurse=False):
                part._parameters[name] = torch.nn.Parameter(value.detach().to(GPU))
            for name, value in part.named_buffers(recurse=False):
                part._buffers[name] = value.to(GPU)
    module._device = GPU
    strategy = SimpleNamespace(all_gather=lambda tensor: tensor[None])
    module._trainer = SimpleNamespace(
        world_size=1, global_rank=0, accumulate_grad_batches=1, global_step=0, strategy=strategy
    )
    module._step = 0
    return module


@contextmanager
def gpu_autocast(*, enabled):
    """As torch.autocast, which does nothing for a GPU that is not there."""
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    torch.set_autocast_enabled("cuda", enabled)
    try:
        yield
    finally:
        torch.set_autocast_enabled("cuda", False)
        torch.clear_autocast_cache()


@pytest.mark.parametrize("autocast", [False, True], ids=["32-true", "bf16-mixed"])
@pytest.mark.parametrize("overrides", CHOICES.values(), ids=CHOICES)
def test_a_loss_on_a_gpu_needs_no_number_on_the_host(overrides, autocast):
    """Such as .item(), nonzero or a mask as an index, which would wait: a pretended tensor raises."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    module = pretend(overrides, mode)
    with mode, gpu_autocast(enabled=autocast):
        images = torch.zeros(8, 1, 8, 8, dtype=torch.uint8, device=GPU)
        labels = torch.zeros(8, dtype=torch.long, device=GPU)
        computed = module.per_sample_loss(as_batch((images, labels)))
        module.losses.update(computed)
        module.after_loss(computed)
        loss = module.finite.guarded(computed.minimized, computed.t, labels)
    assert (loss.device, loss.dtype, loss.shape) == (GPU, torch.float32, ())
    assert module.losses.sums.device == GPU


def test_such_a_pretence_notices_what_would_wait():
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode, pytest.raises(Exception, match="aten"):
        bool(torch.zeros(3, device=GPU).any())


@pytest.mark.parametrize("sampler", [DDPMConfig(steps=4), DDIMConfig(steps=4, guidance_scale=2.0)])
def test_sampling_on_a_gpu_draws_and_computes_there(sampler):
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    overrides = ["model.classes=10"]
    module, path = pretend(overrides, mode), build_model(load_experiment("digits", overrides))._path(sampler)
    module._path, module._warn_of_the_start = lambda _: path, lambda *_: None  # of numbers on the host
    with mode:
        noise = PerSampleNoise(0, range(3), module.x_shape, GPU)
        states = [state.x for state in module.trajectory(sampler, noise)]
    assert [(x.device, x.dtype, x.shape) for x in states] == [(GPU, torch.float32, (3, 1, 8, 8))] * 4


def test_bf16_true_samples_with_rounded_weights_and_gives_them_back():
    module = model()
    sampler = DDIMConfig(steps=5)
    exact = module.sample(sampler, range(8), 0)
    weights = [weight.detach().clone() for weight in module.network.parameters()]
    with sampling_precision(module, "bf16-true"):
        assert {weight.dtype for weight in module.network.parameters()} == {torch.bfloat16}
        assert {buffer.dtype for buffer in module.network.buffers()} == {torch.float32}
        rounded = module.sample(sampler, range(8), 0)
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).abs().mean() < 0.02
    assert all(torch.equal(*pair) for pair in zip(weights, module.network.parameters(), strict=True))
    assert torch.equal(module.sample(sampler, range(8), 0), exact)


def test_on_a_cpu_graphs_are_not_recorded_and_change_nothing():
    module = model()
    plain = module.sample(DDIMConfig(steps=5), range(4), 0)
    module.use_cuda_graphs()
    assert torch.equal(module.sample(DDIMConfig(steps=5), range(4), 0), plain)
    assert module.graphs.replays == 0


def test_a_recording_is_of_shapes_precision_and_mode():
    network = torch.nn.Linear(2, 2)
    graphs = CUDAGraphs(network)
    x = torch.zeros(3, 2)
    keys = [graphs._key((x,)), graphs._key((x[:2],)), graphs._key((x.double(),)), graphs._key((x, x))]
    assert graphs._key((x + 1,)) == keys[0]
    network.eval()
    keys.append(graphs._key((x,)))
    with gpu_autocast(enabled=True):
        keys.append(graphs._key((x,)))
    assert len(set(keys)) == len(keys)


def test_models_without_these_switches_refuse_them():
    gan = build_model(load_experiment("families/digits_gan", []))
    with pytest.raises(UserError, match="cuda_graphs: expected false for GANModule, got true"):
        gan.use_cuda_graphs()
    with pytest.raises(UserError, match="precision: expected bf16-mixed or 32-true for GANModule, got bf16-true"):
        sampling_precision(gan, "bf16-true")
    assert gan.sample(PriorConfig(), range(2), 0).shape == (2, 1, 8, 8)


def test_deterministic_algorithms_hold_during_a_training_and_not_after_it(tmp_path, monkeypatch):
    seen = []
    original = DiffusionModule.per_sample_loss

    def watched(self, *arguments):
        seen.append(torch.are_deterministic_algorithms_enabled())
        return original(self, *arguments)

    monkeypatch.setattr(DiffusionModule, "per_sample_loss", watched)
    for wanted in ("true", "false"):
        fit(tmp_path / wanted, "training.max_steps=2", f"training.deterministic={wanted}", "sample_grid=null")
        assert not torch.are_deterministic_algorithms_enabled()
    assert seen == [True] * 2 + [False] * 2
    for mode in ("warn", "default"):
        torch.set_deterministic_debug_mode(mode)
        before = torch.get_deterministic_debug_mode()
        with determinism_restored():
            torch.use_deterministic_algorithms(True)
        assert torch.get_deterministic_debug_mode() == before


def test_a_layout_changes_rounding_alone(tmp_path):
    states = []
    for wanted in ("false", "true"):
        fit(tmp_path / wanted, "training.max_steps=3", f"training.channels_last={wanted}", "sample_grid=null")
        content = torch.load(tmp_path / wanted / "checkpoints" / "step-00000003.ckpt", weights_only=True)
        states.append(content["state_dict"])
    assert any(value.ndim == 4 and not value.is_contiguous() for value in states[1].values())
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-3, atol=1e-4)


def test_what_a_bar_shows_is_on_the_host(tmp_path, monkeypatch):
    """Lightning makes a number a tensor on the model's device, which it then reads after every step."""
    shown = []
    original = DiffusionModule.log

    def log(self, name, value, **settings):
        shown.append(value)
        return original(self, name, value, **settings)

    monkeypatch.setattr(DiffusionModule, "log", log)
    fit(tmp_path / "run", "training.max_steps=4", "sample_grid=null")
    assert len(shown) == 2
    assert all(isinstance(each, torch.Tensor) and each.device.type == "cpu" for each in shown)


def out_of_memory(*_, **__):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def test_a_batch_that_does_not_fit_names_the_key_to_change(tmp_path, monkeypatch):
    monkeypatch.setattr(DiffusionModule, "loss", out_of_memory)
    with pytest.raises(
        UserError, match=r"^training.batch_size: expected images that .* got 8 at once. Set training"
    ) as raised:
        fit(tmp_path / "run", "training.accumulate_grad_batches=2")
    assert "training.accumulate_grad_batches=4" in str(raised.value)
    monkeypatch.undo()
    monkeypatch.setattr(DiffusionModule, "sample", out_of_memory)
    with pytest.raises(
        UserError, match=r"^sample_grid.count: expected .* got 6 at once. Set a smaller sample_grid.count"
    ):
        fit(tmp_path / "grids")


def test_only_a_lack_of_memory_is_explained():
    with pytest.raises(ValueError, match="x"), out_of_memory_explained("batch_size", 3, "Set a smaller one."):
        raise ValueError("x")


@pytest.mark.slow
def test_the_commands_take_the_switches(tmp_path):
    fit(tmp_path / "run")
    for words in (["precision=bf16-true"], ["cuda_graphs=true"]):
        diffexp("sample", "run", "count=2", "sampler.steps=2", *words, "out=a.png", "overwrite=true", cwd=tmp_path)
    assert experiment().training.deterministic is False
