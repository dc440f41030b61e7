"""Validation in somebody else's Trainer, with a model whose loss is a known function of its one weight."""

import logging

import lightning as L
import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.utils.data import DataLoader

from diffexp.callbacks.best_checkpoint import BestCheckpoint
from diffexp.callbacks.checkpoint import AtomicCheckpointIO, StepCheckpoint
from diffexp.callbacks.ema import EMA
from diffexp.callbacks.status import StatusFile
from diffexp.callbacks.validation import Validation
from diffexp.callbacks.validation_images import ValidationImages
from diffexp.checkpoints.paths import best_checkpoint, find_checkpoint, list_checkpoints, step_of
from diffexp.loggers.jsonl import JSONLLogger
from diffexp.models.base import GenerativeModel, HeldOutLoss
from diffexp.runs.metrics import read_metrics
from diffexp.runs.validations import read_validations
from tests.helpers.sets import digits

LEVELS = (3, -3)


class Valley(GenerativeModel):
    """Each step adds 1 to the weight w. Held-out image i has the loss |w - best| + i/100, and training images -w."""

    def __init__(self, lowest=4.0):
        super().__init__((1, 8, 8))
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.lowest = lowest
        self.batches = []

    def training_step(self, batch, batch_idx):
        return -self.weight

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)

    def sample(self, sampler, indices, seed, on_call=None):
        raise NotImplementedError

    def held_out_loss(self, images, labels, indices, seed, on_call=None):
        self.batches.append(list(indices))
        on_call()
        weight = self.weight.detach()
        is_training = images[0, 0, 0, 0] == 255
        loss = -weight if is_training else (weight - self.lowest).abs()
        bits = loss + torch.tensor(indices) / 100
        return HeldOutLoss(bits, torch.stack([bits, 2 * bits], dim=1))


def images(count, corner):
    chosen = digits()[:count].clone()
    chosen[:, 0, 0, 0] = corner
    return ValidationImages(torch.arange(count), chosen, None)


def validation(folder, **settings):
    given = {"every": 2, "calls": 1, "levels": LEVELS, "batch_size": 4, **settings}
    return Validation(folder / "validation", images(10, 0), images(7, 255), **given)


def fit(folder, callbacks, steps, module=None, checkpoint=None, logger=None):
    step = 0 if checkpoint is None else step_of(checkpoint)
    trainer = L.Trainer(
        max_steps=steps,
        max_epochs=-1,
        accelerator="cpu",
        callbacks=callbacks,
        logger=logger or JSONLLogger(folder / "metrics.jsonl", step),
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        plugins=[AtomicCheckpointIO()],
    )
    module = module or Valley()
    trainer.fit(module, DataLoader(torch.zeros(1000)), ckpt_path=checkpoint, weights_only=True)
    return trainer, module


def test_it_measures_every_so_many_steps_and_at_the_end_what_the_model_says(tmp_path):
    _, module = fit(tmp_path, [validation(tmp_path)], 5)
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [2, 4, 5]
    for row, best in zip(rows, (2, 0, 0), strict=True):
        away, offset = abs(row["step"] - 4), np.arange(10) / 100
        assert row["val/bits_per_dim"] == pytest.approx(away + offset.mean(), abs=1e-6)
        assert row["val/bits_per_dim_error"] == pytest.approx(offset.std(ddof=1) / 10**0.5, rel=1e-5)
        assert row["val/bits_per_dim_train"] == pytest.approx(-row["step"] + 0.03, abs=1e-6)
        assert row["val/bits_per_dim_best"] == pytest.approx(best + offset.mean(), abs=1e-6)
        assert row["val/error_logsnr_3"] == pytest.approx(row["val/bits_per_dim"])
        assert row["val/error_logsnr_-3"] == pytest.approx(2 * row["val/bits_per_dim"])
        assert "val/bits_per_dim_raw" not in row
    assert module.batches[:5] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9], [0, 1, 2, 3], [4, 5, 6]]
    found = read_validations(tmp_path / "validation")
    assert [each.step for each in found] == [2, 4, 5]
    assert len({each.protocol for each in found}) == 1
    for each, row in zip(found, rows, strict=True):
        assert each.mean().value == row["val/bits_per_dim"]
        assert each.errors["raw"].shape == (10, 2)


def test_averaged_weights_count_and_the_raw_ones_are_measured_too(tmp_path):
    ema = EMA(half_life=30, batch_size=10, rampup=None)
    _, module = fit(tmp_path, [ema, validation(tmp_path, ema=ema, every=3)], 3)
    (row,) = read_metrics(tmp_path / "metrics.jsonl")
    assert module.weight.item() == 3
    with ema.applied(module):
        average = module.weight.item()
    assert row["val/bits_per_dim"] == pytest.approx(4 - average + 0.045, abs=1e-6)
    assert row["val/bits_per_dim_raw"] == pytest.approx(1.045, abs=1e-6)
    assert row["val/bits_per_dim_train"] == pytest.approx(-average + 0.03, abs=1e-6)


def test_the_change_since_the_last_validation_is_printed(tmp_path, capsys):
    fit(tmp_path, [validation(tmp_path)], 4)
    first, second = [line for line in capsys.readouterr().err.splitlines() if "held-out" in line]
    assert first == "step 2: held-out 2.0450 ± 0.0096 bits/dim, train -1.9700"
    assert second.startswith("step 4: held-out 0.0450 ± 0.0096 bits/dim, train -3.9700; -2.0000 ± ")
    assert "since step 2" in second


def test_overfitting_is_warned_of_once_with_its_best_step(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        fit(tmp_path, [validation(tmp_path, every=1)], 12)
    (warning,) = [record.getMessage() for record in caplog.records if "overfits" in record.getMessage()]
    assert "has risen since step 4 (0.045 bits/dim, now 3.045)" in warning


def test_patience_ends_training_and_a_resumed_run_does_not_go_on(tmp_path):
    statuses = []

    def callbacks():
        ends = validation(tmp_path, every=1, patience=3)
        status = StatusFile(
            lambda *args, **more: statuses.append((*args, more.get("reason"))), ended_early=lambda: ends.reason
        )
        return [StepCheckpoint(tmp_path / "checkpoints", every=100), ends, status]

    trainer, _ = fit(tmp_path, callbacks(), 50)
    saved = list_checkpoints(tmp_path / "checkpoints")
    assert [step_of(file) for file in saved] == [trainer.global_step] == [7]
    assert statuses[-1][:3] == ("finished", 7, 50)
    assert "no better held-out loss in 3 successive validations" in statuses[-1][3]
    assert "step 4" in statuses[-1][3]
    resumed, _ = fit(tmp_path, callbacks(), 50, checkpoint=saved[-1])
    assert resumed.global_step == 7
    assert statuses[-1][:3] == ("finished", 7, 50)


def test_an_interrupted_validation_is_repeated_by_the_resumed_run(tmp_path):
    stop = {"now": True}

    def callbacks():
        saver = StepCheckpoint(tmp_path / "checkpoints", every=2)
        return [saver, validation(tmp_path, should_stop=lambda: stop["now"])]

    fit(tmp_path, callbacks(), 2)
    assert read_validations(tmp_path / "validation") == []
    stop["now"] = False
    fit(tmp_path, callbacks(), 4, checkpoint=list_checkpoints(tmp_path / "checkpoints")[-1])
    assert [each.step for each in read_validations(tmp_path / "validation")] == [2, 4]
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [2, 4]


# --- the best checkpoint


def with_best(folder, **settings):
    saver = StepCheckpoint(folder / "checkpoints", every=3, keep=2)
    return [saver, validation(folder, every=1), BestCheckpoint(saver, "val/bits_per_dim", **settings)]


def steps(folder):
    return [step_of(file) for file in list_checkpoints(folder / "checkpoints")]


def test_the_best_checkpoint_stays_and_is_saved_where_the_metric_was_measured(tmp_path):
    fit(tmp_path, with_best(tmp_path), 12)
    assert steps(tmp_path) == [4, 9, 12]
    best = tmp_path / "checkpoints" / "best.ckpt"
    assert best.is_symlink()
    assert find_checkpoint(best) == tmp_path / "checkpoints" / "step-00000004.ckpt"
    assert torch.load(best, weights_only=True)["state_dict"]["weight"].item() == 4
    assert find_checkpoint(tmp_path / "checkpoints" / "step-00000012.ckpt").name == "step-00000012.ckpt"


def test_the_highest_value_is_the_best_with_mode_max(tmp_path):
    fit(tmp_path, with_best(tmp_path, mode="max"), 9)
    assert best_checkpoint(tmp_path / "checkpoints").name == "step-00000009.ckpt"
    assert steps(tmp_path) == [8, 9]


@pytest.mark.parametrize("killed", [3, 4, 6, 9])
def test_a_killed_and_resumed_run_keeps_the_same_checkpoints(tmp_path, killed):
    whole = tmp_path / "whole"
    fit(whole, with_best(whole), 12)
    part = tmp_path / "part"
    fit(part, with_best(part), killed)
    resumed_from = list_checkpoints(part / "checkpoints")[-1]
    assert step_of(resumed_from) == killed  # the newest, not the best
    (part / "checkpoints" / "best.ckpt").unlink()  # as if it was killed before the link was written
    fit(part, with_best(part), 12, checkpoint=resumed_from)
    assert steps(part) == steps(whole)
    assert best_checkpoint(part / "checkpoints").name == best_checkpoint(whole / "checkpoints").name
    assert (part / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    for file in (whole / "validation").iterdir():
        assert (part / "validation" / file.name).read_bytes() == file.read_bytes()


def test_a_copy_that_replaced_the_link_by_a_file_is_found_too(tmp_path):
    fit(tmp_path, with_best(tmp_path), 6)
    best = tmp_path / "checkpoints" / "best.ckpt"
    content = best.read_bytes()
    best.unlink()
    best.write_bytes(content)
    assert find_checkpoint(best) == best
    fit(tmp_path, with_best(tmp_path), 7, checkpoint=list_checkpoints(tmp_path / "checkpoints")[-1])
    assert best.is_symlink()
    assert steps(tmp_path) == [4, 6, 7]


# --- several processes


def measured(folder):
    class Alone:
        global_step, is_global_zero, world_size = 3, dist.get_rank() == 0 if dist.is_initialized() else True, 1
        precision_plugin = L.pytorch.plugins.precision.Precision()

    return validation(folder)._measure(Alone, Valley())


def in_a_process(rank, world, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    found = measured(folder)
    np.savez(folder / f"{rank}.npz", **found.bits_per_dim, errors=found.errors["raw"])
    dist.destroy_process_group()


def test_two_processes_measure_what_one_does(tmp_path):
    alone = measured(tmp_path)
    mp.start_processes(in_a_process, (2, tmp_path), nprocs=2, start_method="fork")
    for rank in range(2):
        with np.load(tmp_path / f"{rank}.npz") as found:
            for name, bits in alone.bits_per_dim.items():
                assert np.array_equal(found[name], bits)
            assert np.array_equal(found["errors"], alone.errors["raw"])


def test_loggers_get_a_heat_map_of_steps_and_levels(tmp_path):
    pictures = []

    class Gallery(JSONLLogger):
        def log_image(self, key, images, step):
            pictures.append((key, images[0], step))

    fit(tmp_path, [validation(tmp_path)], 4, logger=Gallery(tmp_path / "metrics.jsonl"))
    key, picture, step = pictures[-1]
    assert (key, step) == ("val/errors", 4)
    assert len(pictures) == 2
    left, right = picture.getpixel((60, 7)), picture.getpixel((picture.width - 60, 7))
    assert left == (253, 231, 37)  # far above the lowest error of the level, which step 4 has
    assert right == (68, 1, 84)
