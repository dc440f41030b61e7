"""Whole runs, small ones."""

import json
import math

import pytest
import torch
import yaml
from PIL import Image

from diffexp.checkpoints.paths import list_checkpoints, step_of
from diffexp.config.schemas.data import DATA
from diffexp.data.images import MemoryImages
from diffexp.errors import UserError
from tests.helpers.small import diffexp, experiment, fit, metrics


def state(path):
    """Everything that a run has computed: weights, average, optimiser, counters; of its newest checkpoint, or one."""
    path = list_checkpoints(path / "checkpoints")[-1] if path.is_dir() else path
    content = torch.load(path, weights_only=True)
    moments = content["optimizer_states"][0]["state"]
    return {
        **{f"raw.{name}": value for name, value in content["state_dict"].items()},
        **{f"ema.{name}": value for name, value in content["callbacks"]["EMA"]["average"].items()},
        **{f"adam.{i}.{name}": value for i, entry in moments.items() for name, value in entry.items()},
        "lr": torch.tensor(content["lr_schedulers"][0]["_last_lr"]),
        "step": torch.tensor(content["global_step"]),
    }


def assert_same(one, two):
    assert one.keys() == two.keys()
    assert [name for name in one if not torch.equal(one[name], two[name])] == []


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("reference") / "run"
    fit(run_dir)
    return run_dir


def test_the_run_directory_describes_the_run(reference):
    wanted = experiment()
    assert yaml.safe_load((reference / "config.yaml").read_text())["training"]["max_steps"] == wanted.training.max_steps
    environment = json.loads((reference / "environment.json").read_text())
    assert environment["packages"]["torch"].startswith(torch.__version__.split("+")[0])
    assert environment["precision"] == "32-true"
    status = json.loads((reference / "status.json").read_text())
    assert (status["state"], status["step"], status["steps"]) == ("finished", 8, 8)
    assert [step_of(file) for file in list_checkpoints(reference / "checkpoints")] == [4, 8]
    names = {f"step-0000000{step}{name}.png" for step in (4, 8) for name in ("", "-ddpm", "-ddim-5")}
    assert {file.name for file in (reference / "samples").iterdir()} == names
    assert not list(reference.rglob("*.tmp"))


def test_every_logged_step_is_logged_once(reference):
    rows = metrics(reference)
    assert [row["step"] for row in rows] == [2, 4, 6, 8]
    for row in rows:
        assert {"train/loss", "train/lr"} <= row.keys()
        quarters = [value for name, value in row.items() if name.startswith("train/loss_q")]
        assert min(quarters) <= row["train/loss"] <= max(quarters)
    header, *lines = (reference / "metrics.csv").read_text().splitlines()
    assert [float(line.split(",")[header.split(",").index("train/loss")]) for line in lines] == [
        row["train/loss"] for row in rows
    ]


def test_the_same_config_and_seed_train_to_the_same_weights_bit_for_bit(reference, tmp_path):
    fit(tmp_path / "again")
    assert_same(state(tmp_path / "again"), state(reference))
    assert metrics(tmp_path / "again") == metrics(reference)
    for file in (reference / "samples").iterdir():
        assert file.read_bytes() == (tmp_path / "again" / "samples" / file.name).read_bytes()
    fit(tmp_path / "other", "seed=1")
    assert not torch.equal(
        state(tmp_path / "other")["raw.network.conv_in.weight"], state(reference)["raw.network.conv_in.weight"]
    )


def test_the_saved_config_makes_the_same_run_again(reference, tmp_path):
    diffexp("train", str(reference / "config.yaml"), "run_dir=again", cwd=tmp_path)
    assert_same(state(tmp_path / "again"), state(reference))


@pytest.mark.slow
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_accumulated_batches_train_as_one_batch(tmp_path, dropout):
    weights = []
    for accumulate in (1, 2):
        fit(
            tmp_path / str(accumulate),
            f"training.accumulate_grad_batches={accumulate}",
            "data.random_flip=true",
            f"model.network.dropout={dropout}",
        )
        weights.append(state(tmp_path / str(accumulate))["raw.network.conv_in.weight"])
    same = torch.allclose(weights[0], weights[1], rtol=1e-4, atol=1e-6)
    assert same == (dropout == 0)  # the masks of dropout do depend on the layout


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    """Two gloo processes, each with half of the global batch."""
    for devices in (1, 2):
        overrides = [
            "data.random_flip=true",
            f"training.devices={devices}",
            "training.accelerator=cpu",
            "model.network.dropout=0",
        ]
        from tests.helpers.small import SMALL

        diffexp("train", "digits", *SMALL, *overrides, f"run_dir=run-{devices}", cwd=tmp_path)
    one, two = (state(tmp_path / f"run-{devices}") for devices in (1, 2))
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=2e-4, atol=2e-6, msg=name)
    losses = [[row["train/loss"] for row in metrics(tmp_path / f"run-{devices}")] for devices in (1, 2)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    for file in (tmp_path / "run-1" / "samples").iterdir():
        ours = [
            torch.frombuffer(bytearray(Image.open(each).tobytes()), dtype=torch.uint8).int()
            for each in (file, tmp_path / "run-2" / "samples" / file.name)
        ]
        assert (ours[0] - ours[1]).abs().max() <= 1


@pytest.mark.slow
def test_training_beats_predicting_zero(tmp_path):
    """Zero predicts ε with a loss of E ε² = 1."""
    fit(
        tmp_path / "run",
        "training.max_steps=150",
        "training.log_every_n_steps=50",
        "sample_grid=null",
        "optim.lr=3e-3",
        "model.timesteps=200",
        "model.schedule={'beta_start': 1e-3, 'beta_end': 0.1}",
    )
    rows = metrics(tmp_path / "run")
    assert rows[-1]["train/loss"] < 0.45
    assert rows[-1]["train/loss"] < rows[0]["train/loss"]
    assert rows[-1]["train/loss_q4"] < rows[-1]["train/loss_q1"]  # the noisier, the easier to tell ε


@pytest.mark.slow
@pytest.mark.parametrize("prediction", ["x0", "v", "scaled_epsilon"])
def test_other_predictions_train(tmp_path, prediction):
    fit(
        tmp_path / "run",
        f"model.prediction={prediction}",
        "training.max_steps=60",
        "training.log_every_n_steps=20",
        "sample_grid=null",
        "optim.lr=3e-3",
    )
    losses = [row["train/loss"] for row in metrics(tmp_path / "run")]
    assert all(math.isfinite(loss) for loss in losses)
    assert losses[-1] < losses[0]


@pytest.mark.slow
def test_bfloat16_trains_as_float32_does(tmp_path):
    losses = []
    for precision in ("32-true", "bf16-mixed"):
        fit(tmp_path / precision, f"training.precision={precision}", "training.max_steps=20", "sample_grid=null")
        losses.append([row["train/loss"] for row in metrics(tmp_path / precision)])
        weights = state(tmp_path / precision)
        assert all(value.dtype == torch.float32 for name, value in weights.items() if name.startswith(("raw", "ema")))
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=2e-2)


def test_only_one_sampler_or_no_grid(tmp_path):
    fit(tmp_path / "one", "sample_grid.samplers.ddpm=null", "training.max_steps=1")
    names = {"step-00000001-ddim-5.png", "step-00000001.png"}
    assert {file.name for file in (tmp_path / "one" / "samples").iterdir()} == names
    fit(tmp_path / "none", "sample_grid=null", "ema=null", "training.max_steps=1")
    assert not (tmp_path / "none" / "samples").exists()


@pytest.mark.slow
def test_tensorboard_and_wandb_record_the_run(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    fit(tmp_path / "run", "loggers=[tensorboard,wandb]", "wandb.group=ablation")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    logged = {event.step: event.value for event in events.Scalars("train/loss")}
    assert logged == pytest.approx({row["step"]: row["train/loss"] for row in metrics(tmp_path / "run")})
    assert [event.step for event in events.Images("samples/ddpm")] == [4, 8]
    (offline,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    assert (offline / f"run-{offline.name.rpartition('-')[2]}.wandb").stat().st_size > 1000


def test_bad_data_leaves_nothing_behind(tmp_path):
    wanted = experiment(
        f"runs_dir={tmp_path / 'runs'}",
        "data={'name': 'image_folder', 'path': 'nowhere', 'image_size': 8, 'channels': 1}",
    )
    from diffexp.commands.locate import start_run
    from diffexp.commands.train import train_run

    with pytest.raises(UserError, match="nowhere"):
        train_run(wanted, start_run(wanted), [])
    assert list(tmp_path.iterdir()) == []


def test_images_of_another_shape_than_the_config_says_are_refused(tmp_path, monkeypatch):
    images = MemoryImages(torch.zeros(20, 1, 12, 12, dtype=torch.uint8))
    monkeypatch.setitem(DATA._builders, "digits", lambda *args, **own: images)
    with pytest.raises(UserError, match=r"expected images \(1, 8, 8\), as in the config, got \(1, 12, 12\)"):
        fit(tmp_path / "run")
    assert not (tmp_path / "run").exists()
