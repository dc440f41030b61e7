"""Whole runs with the fast options: the same results, and no waiting for the device in a step."""

import json
import shutil
from contextlib import ExitStack

import lightning as L
import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from diffexp.checkpoints.paths import list_checkpoints
from diffexp.commands.locate import start_run
from diffexp.commands.train import train_run
from diffexp.config.load import load_experiment
from diffexp.models.build import build_model
from diffexp.models.training_noise import TrainingNoise
from tests.helpers.small import SMALL, diffexp, experiment, fit
from tests.integration.test_training import assert_same, state


class Inside(TorchDispatchMode):
    """Counts the numbers that torch reads from tensors, for which a GPU would have to be waited for."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        CountReads.inside += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


class Outside(TorchFunctionMode):
    """Counts what Python reads from tensors."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        CountReads.outside += getattr(func, "__name__", "") in ("tolist", "numpy", "cpu")
        return func(*args, **(kwargs or {}))


class CountReads(L.Callback):
    inside = outside = 0

    def __init__(self):
        self.reads = {}

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        CountReads.inside = CountReads.outside = 0
        self.modes = ExitStack()
        self.modes.enter_context(Inside())
        self.modes.enter_context(Outside())

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.modes.close()
        self.reads[trainer.global_step] = (CountReads.inside, CountReads.outside)


def test_between_two_logged_points_a_step_reads_nothing_from_the_device(tmp_path):
    watcher, wanted = (
        CountReads(),
        experiment("training.log_every_n_steps=4", "sample_grid=null", f"run_dir={tmp_path / 'run'}"),
    )
    train_run(wanted, start_run(wanted), [], [watcher])
    # one: on a CPU, which has nothing to wait for, the gradient's norm is looked at within the step
    assert {step: count for step, count in watcher.reads.items() if step % 4} == dict.fromkeys(
        (1, 2, 3, 5, 6, 7), (1, 0)
    )
    assert sum(watcher.reads[4]) > 1


@pytest.mark.slow
def test_recomputing_trains_the_same_weights(tmp_path):
    fit(tmp_path / "kept")
    fit(tmp_path / "recomputed", "model.network.gradient_checkpointing=true")
    assert_same(state(tmp_path / "kept"), state(tmp_path / "recomputed"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fast")
    fit(folder / "run")
    return folder / "run"


def drawn(run, tmp_path, name, *options, **environment):
    options = ["count=20", "sampler.steps=5", *options, f"out={name}.npz"]
    done = diffexp("sample", str(run), *options, cwd=tmp_path, **environment)
    assert "uncompiled" not in done.stderr
    return np.load(tmp_path / f"{name}.npz")["images"].astype(int)


@pytest.mark.slow
def test_a_sample_within_a_budget_is_the_same(trained, tmp_path):
    whole = drawn(trained, tmp_path, "whole", "precision=32-true")
    cut = drawn(trained, tmp_path, "cut", "precision=32-true", "memory_gb=0.0005")
    assert np.abs(whole - cut).max() <= 1
    told = diffexp("sample", str(trained), "memory_gb=1e-9", cwd=tmp_path, expect=2).stderr
    assert "GiB for one image, got 1e-09. Raise it." in told


@pytest.mark.slow
def test_a_score_within_a_budget_is_the_same(trained, tmp_path):
    """In batches of few images, one cell at a time and as a table."""
    common = ["extractor.name=digits_v1", "count=130", "repeats=1", "precision=32-true"]
    values = {}
    for name, options in {"whole": [], "cut": ["memory_gb=0.002"]}.items():
        sampler = "sampler={'name': 'ddim', 'steps': 3}"
        diffexp("evaluate", str(trained), sampler, *common, *options, f"out={name}", cwd=tmp_path)
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        values[name] = json.loads(lines[0])["score/fd_digits_v1_130"]
    assert values["cut"] == pytest.approx(values["whole"], rel=1e-3)


def test_fast_options_are_checked(tmp_path):
    assert experiment("training.compile=true").training.compile is True
    diffexp("train", "digits", *SMALL, "training.compile=fast", cwd=tmp_path, expect=2)


# --- compiled: that takes more than a second for each kernel, so that the networks have few ---------

COMPILED = [
    *SMALL,
    "training.compile=true",
    "model.network.channel_multipliers=[1]",
    "model.network.num_res_blocks=1",
    "model.network.attention_resolutions=[]",
    "model.network.dropout=0",  # compiled, it draws other random numbers
    "checkpoint.keep=9",
    "sample_grid=null",
]


def kernels(folder):
    """What keeps compiled kernels there."""
    return {"TORCHINDUCTOR_CACHE_DIR": str(folder / "kernels")}


def compiled_kernels(folder):
    return [*(folder / "kernels").rglob("*.so")]


@pytest.fixture(scope="module")
def compiled(compiler, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compiled")
    done = diffexp("train", "digits", *COMPILED, "run_dir=run", cwd=folder, **kernels(folder))
    assert "uncompiled" not in done.stderr
    assert compiled_kernels(folder)
    return folder / "run"


@pytest.mark.slow
def test_compiled_training_goes_on_where_it_stopped(compiled, tmp_path):
    shutil.copytree(compiled, tmp_path / "cut")
    list_checkpoints(tmp_path / "cut" / "checkpoints")[-1].unlink()
    done = diffexp("train", "cut", "--resume", cwd=tmp_path, **kernels(compiled.parent))
    assert "resuming from" in done.stderr
    assert "uncompiled" not in done.stderr
    assert_same(state(compiled), state(tmp_path / "cut"))
    diffexp("train", "digits", *COMPILED, "training.compile=false", "run_dir=plain", cwd=tmp_path)
    weights, plain = state(compiled), state(tmp_path / "plain")
    for name in (each for each in plain if each.startswith(("raw.", "ema."))):
        torch.testing.assert_close(weights[name], plain[name], rtol=1e-3, atol=1e-4)


def gradients(module, loss):
    module.network.zero_grad()
    loss.mean().backward()
    return torch.cat([parameter.grad.flatten() for parameter in module.network.parameters()])


@pytest.mark.slow
def test_the_compiled_loss_and_its_gradient_are_the_same(compiled, monkeypatch):
    monkeypatch.setenv(*kernels(compiled.parent).popitem())  # those of that training
    torch.manual_seed(0)
    module = build_model(load_experiment("digits", COMPILED))
    for parameter in module.network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    x0, noise, t = torch.randn(16, 1, 8, 8), torch.randn(16, 1, 8, 8), torch.arange(16)
    plain = module.loss(x0, TrainingNoise(t, noise))[1]
    gradient = gradients(module, plain)
    keys = set(module.state_dict())
    module.compile_network(training=True)
    losses = module.loss(x0, TrainingNoise(t, noise))[1]
    assert module._compiled["training"]._failed is False
    torch.testing.assert_close(losses, plain, rtol=1e-5, atol=0)
    assert (gradients(module, losses) - gradient).norm() < 1e-5 * gradient.norm()
    assert set(module.state_dict()) == keys
    with torch.no_grad():  # the weights are the network's own, whatever becomes of them
        for parameter in module.network.parameters():
            parameter.data = parameter.data * 0.5
    assert not torch.equal(module.loss(x0, TrainingNoise(t, noise))[1], losses)


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
def test_a_compiled_sample_is_the_same(tmp_path):
    """Of a network with attention and two levels."""
    fit(tmp_path / "run", "model.network.num_res_blocks=1", "sample_grid=null")
    plain = drawn(tmp_path / "run", tmp_path, "plain", "precision=32-true")
    fast = drawn(tmp_path / "run", tmp_path, "fast", "precision=32-true", "compile=true", **kernels(tmp_path))
    assert compiled_kernels(tmp_path)
    assert np.abs(plain - fast).max() <= 1
