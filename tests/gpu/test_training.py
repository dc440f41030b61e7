"""Training steps on a GPU: the CPU's numbers, no waiting, no NaN, resumed runs, memory."""

import signal
import time
from contextlib import contextmanager

import lightning as L
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from diffexp.checkpoints.paths import list_checkpoints
from diffexp.commands.locate import start_run
from diffexp.commands.train import train_run
from diffexp.errors import UserError
from diffexp.networks.unet import UNet
from tests.helpers.comparing import moved_alike, off, weights
from tests.helpers.resumes import resume
from tests.helpers.small import SMALL, experiment, metrics, start
from tests.integration.test_exact_resume import stopped
from tests.integration.test_training import assert_same, state
from tests.models.test_nonfinite import broken  # noqa: F401  # a fixture

PLAIN = [
    "sample_grid=null",
    "training.log_every_n_steps=1",
    "training.max_steps=10",
    "checkpoint={'every': 1, 'keep': None}",
    "model.network.dropout=0",
    # a large ε: rounding of tiny gradients does not turn Adam round
    "optim={'warmup_steps': 0, 'lr': 1e-3, 'eps': 1e-4, 'decay': 'none'}",
]


def fit(run_dir, device, *overrides, callbacks=()):
    accelerator = "gpu" if device.type == "cuda" else "cpu"
    wanted = experiment(f"run_dir={run_dir}", f"training.accelerator={accelerator}", *overrides)
    return train_run(wanted, start_run(wanted), [], callbacks)


def losses(run_dir):
    return torch.tensor([row["train/loss"] for row in metrics(run_dir)])


@pytest.fixture(scope="module")
def on_cpu(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cpu") / "run"
    fit(folder, torch.device("cpu"), *PLAIN)
    return folder


# By precision: how far losses, and the movement of the weights, may be off. In float16 the scaler may skip first steps.
TOLERANCES = {"32-true": (1e-5, 1e-3), "bf16-mixed": (0.02, 0.2), "16-mixed": (0.05, 0.5)}


@pytest.mark.parametrize("precision", TOLERANCES)
def test_steps_compute_what_the_cpus_do(on_cpu, device, tmp_path, precision):
    fit(tmp_path / "run", device, *PLAIN, f"training.precision={precision}")
    of_loss, of_weights = TOLERANCES[precision]
    assert off(losses(tmp_path / "run"), losses(on_cpu)) < of_loss
    for kind in ("raw", "ema"):
        start = weights(on_cpu, kind, step=1)
        assert moved_alike(weights(tmp_path / "run", kind), weights(on_cpu, kind), start) < of_weights


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.timestep_sampling=stratified", "model.loss=hybrid"],
        ["model.timestep_sampling=importance", "training.accumulate_grad_batches=2", "training.max_steps=30"],
        ["model.classes=10", "data.random_flip=true"],
        ["training.channels_last=true"],
    ],
    ids=["stratified, hybrid", "importance, accumulated", "classes, mirrored", "channels last"],
)
def test_other_objectives_compute_what_the_cpus_do(device, tmp_path, overrides):
    for name, where in (("cpu", torch.device("cpu")), ("here", device)):
        fit(tmp_path / name, where, *PLAIN, *overrides)
    assert off(losses(tmp_path / "here"), losses(tmp_path / "cpu")) < 1e-4
    start = weights(tmp_path / "cpu", step=1)
    assert moved_alike(weights(tmp_path / "here"), weights(tmp_path / "cpu"), start) < 0.01


@pytest.mark.slow
def test_compiled_steps_compute_what_eager_ones_do(on_cpu, cuda, tmp_path, caplog):
    fit(tmp_path / "run", cuda, *PLAIN, "training.compile=true")
    assert "It runs uncompiled" not in caplog.text
    assert off(losses(tmp_path / "run"), losses(on_cpu)) < 1e-4
    assert moved_alike(weights(tmp_path / "run"), weights(on_cpu), weights(on_cpu, step=1)) < 0.01


def test_grids_by_cuda_graphs_are_those_without(device, tmp_path, caplog):
    grids = ["training.max_steps=4", "training.log_every_n_steps=2", "sample_grid.every=2"]
    for wanted in ("false", "true"):
        fit(tmp_path / wanted, device, *grids, "training.deterministic=true", f"training.cuda_graphs={wanted}")
    assert len(list((tmp_path / "true" / "samples").iterdir())) == 6
    assert losses(tmp_path / "true").equal(losses(tmp_path / "false"))
    assert "cuda_graphs: expected" not in caplog.text


def test_scores_while_training_have_deterministic_algorithms(device, tmp_path):
    sampler = "'samplers': {'ddim-50': None, 'two': {'name': 'ddim', 'steps': 2}}"
    score = f"score={{'every': 4, 'count': 100, 'extractor': {{'name': 'digits_v1'}}, {sampler}}}"
    brief = [
        "training.max_steps=4",
        "training.log_every_n_steps=2",
        "sample_grid=null",
        "training.deterministic=true",
        score,
    ]
    for name in ("one", "two"):
        fit(tmp_path / name, device, *brief)
    one, two = (metrics(tmp_path / name)[-1] for name in ("one", "two"))
    assert [name for name in one if "/fd_digits_v1" in name]
    assert one == two


# --- not finite


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_step_that_is_not_finite_changes_no_weight(device, tmp_path, broken, precision, what):  # noqa: F811
    """By the found_inf of the fused optimiser, or of fp16's scaler."""
    broken([3, 4], what=what)
    fit(tmp_path / "run", device, *PLAIN, f"training.precision={precision}", "optim.skip_nonfinite=2")
    run = tmp_path / "run"
    for step, same in ((2, True), (3, True), (4, False)):
        assert torch.equal(weights(run, step=step), weights(run, step=step + 1)) is same
    for file in list_checkpoints(run / "checkpoints"):
        assert all(value.isfinite().all() for value in state(file).values())


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_loss_that_is_not_finite_stops_at_its_step(device, tmp_path, broken, precision):  # noqa: F811
    broken([5])
    with pytest.raises(UserError, match=r"^step 5: the loss is not finite .*step-00000004.ckpt\.$"):
        fit(tmp_path / "run", device, *PLAIN, f"training.precision={precision}")
    run = tmp_path / "run"
    assert list_checkpoints(run / "checkpoints")[-1].name == "step-00000004.ckpt"
    assert weights(run, "ema").isfinite().all()
    fit(tmp_path / "whole", device, *PLAIN, f"training.precision={precision}", "training.max_steps=4")
    assert off(weights(run, "ema"), weights(tmp_path / "whole", "ema")) < 1e-3


# --- waiting


class Between(L.Callback):
    """Enters a context for the steps between two logged points, and leaves it before the second."""

    def __init__(self, first, last, context):
        self.first, self.last, self.context = first, last, context
        self.entered = None

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == self.first and self.entered is None:
            self.entered = self.context()
            self.entered.__enter__()

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.last and self.entered is not None:
            self.entered.__exit__(None, None, None)
            self.entered = None


@contextmanager
def no_waiting():
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


LONGER = ["sample_grid=null", "training.max_steps=30", "training.log_every_n_steps=15", "checkpoint.every=1000"]
STEPS = {
    "defaults": [],
    "bf16, mirrored": ["training.precision=bf16-mixed", "data.random_flip=true"],
    "classes, workers": ["model.classes=10", "data.num_workers=2"],
    "accumulated": ["training.accumulate_grad_batches=2"],
    "importance": ["model.timestep_sampling=importance"],
    "deterministic": ["training.deterministic=true"],
    "no clipping": ["training.gradient_clip_val=null"],
    "class dropout, recompute": ["model.classes=10", "model.network.gradient_checkpointing=true"],
}


@pytest.mark.parametrize("overrides", STEPS.values(), ids=STEPS)
def test_nothing_waits_for_the_gpu_between_logged_points(cuda, tmp_path, overrides):
    between = Between(16, 29, no_waiting)
    try:
        fit(tmp_path / "run", cuda, *LONGER, *overrides, callbacks=[between])
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_nothing_goes_to_the_gpu_but_the_numbers_of_images(cuda, tmp_path):
    profiled = []

    @contextmanager
    def watched():
        torch.cuda.synchronize()
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as each:
            yield
            torch.cuda.synchronize()
        profiled.append(each)

    fit(tmp_path / "run", cuda, *LONGER, callbacks=[Between(16, 26, watched)])
    copies = {each.key: each.count for each in profiled[0].key_averages() if "Memcpy" in each.key}
    to_gpu = {key: count for key, count in copies.items() if "HtoD" in key}
    assert sum(to_gpu.values()) <= 11, copies  # one a step; one may fall on the edge
    assert not [key for key in to_gpu if "Pageable" in key], copies
    back = {key: count for key, count in copies.items() if "DtoH" in key}
    assert sum(back.values()) <= 11, copies  # whether the step was finite, which the host reads one step later


# --- resuming

RESUMED = [
    *SMALL,
    "training.max_steps=20",
    "training.log_every_n_steps=3",
    "checkpoint={'every': 1, 'keep': None}",
    "sample_grid.every=10",
    "data.random_flip=true",
    "model.network.dropout=0.2",
    "optim.decay=cosine",
]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_resumed_run_is_the_same_bit_for_bit_with_deterministic_algorithms(device, tmp_path, precision):
    run = tmp_path / "run"
    fit(run, device, *RESUMED, "training.deterministic=true", f"training.precision={precision}")
    for step in (1, 7, 13):
        again = stopped(run, step, tmp_path / f"{step}")
        resume(again)
        assert_same(state(again), state(run))
        assert metrics(again) == metrics(run)


def test_a_resumed_run_is_the_same_to_a_percent_without(device, tmp_path):
    run = tmp_path / "run"
    fit(run, device, *RESUMED, "optim.eps=1e-4")
    again = stopped(run, 7, tmp_path / "again")
    resume(again)
    assert moved_alike(weights(again), weights(run), weights(run, step=7)) < 0.01


def test_a_killed_run_resumes_as_if_it_had_not_been(device, tmp_path):
    undisturbed, run = tmp_path / "undisturbed", tmp_path / "run"
    steps, saved = (300, 20) if device.type == "cuda" else (40, 10)
    longer = [*RESUMED, f"training.max_steps={steps}", "training.deterministic=true"]
    # float32 convolutions would be TF32 in the process that is killed, and are not here
    longer += [f"checkpoint={{'every': {saved}, 'keep': 3}}", "sample_grid=null", "training.precision=bf16-mixed"]
    fit(undisturbed, device, *longer)
    accelerator = "gpu" if device.type == "cuda" else "cpu"
    words = [*longer, f"run_dir={run}", f"training.accelerator={accelerator}"]
    process = start("train", "digits", *words, cwd=tmp_path)
    limit = time.monotonic() + 100
    while len(list_checkpoints(run / "checkpoints") if run.is_dir() else []) < 2:
        assert time.monotonic() < limit
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL
    resume(run)
    assert_same(state(run), state(undisturbed))


# --- memory


def test_recomputing_changes_no_bit(device):
    torch.use_deterministic_algorithms(True)
    results = []
    x, t = torch.randn(4, 3, 16, 16, device=device), torch.tensor([1, 20, 300, 999], device=device)
    for recompute in (False, True):
        torch.manual_seed(3)
        network = UNet(
            (3, 16, 16),
            base_channels=32,
            channel_multipliers=[1, 2],
            dropout=0.3,
            norm_num_groups=8,
            gradient_checkpointing=recompute,
        ).to(device)
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
        torch.manual_seed(7)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        loss = network(x, t).square().mean()
        loss.backward()
        results.append((loss.detach(), torch.cat([parameter.grad.flatten() for parameter in network.parameters()])))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_a_lack_of_memory_names_the_key_to_change(cuda, tmp_path):
    network = "model.network={'base_channels': 128, 'channel_multipliers': [1, 2], 'norm_num_groups': 32}"
    total = torch.cuda.get_device_properties(cuda).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, (torch.cuda.memory_reserved() + 2**30) / total))
    try:
        with pytest.raises(
            UserError, match=r"^training.batch_size: expected images that fit .* Set training.accumulate_grad_batches=2"
        ):
            fit(tmp_path / "run", cuda, *PLAIN, network, "training.batch_size=16384")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


def test_a_training_step_moves_every_weight(device, tmp_path):
    """The check of the checks: what is compared above is not the initial state."""
    fit(tmp_path / "run", device, *PLAIN, "training.max_steps=2")
    start, end = weights(tmp_path / "run", step=1), weights(tmp_path / "run", step=2)
    assert (start != end).double().mean() > 0.9
