"""The callbacks in a plain Trainer with somebody else's module."""

import os
import signal
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from diffexp.callbacks.checkpoint import AtomicCheckpointIO, StepCheckpoint
from diffexp.callbacks.ema import EMA
from diffexp.callbacks.status import StatusFile
from diffexp.callbacks.stop_on_signal import StopOnSignal
from diffexp.checkpoints.file import averaged
from diffexp.checkpoints.paths import list_checkpoints, step_of


class Walk(L.LightningModule):
    """One weight that moves by 1 with every optimiser step."""

    def __init__(self, at_step=lambda step: None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.at_step = at_step

    def training_step(self, batch, batch_idx):
        self.at_step(self.trainer.global_step)
        return -self.weight

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


def fit(callbacks, steps, module=None, checkpoint=None, **settings):
    trainer = L.Trainer(
        max_steps=steps,
        max_epochs=-1,
        accelerator="cpu",
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        plugins=[AtomicCheckpointIO()],
        **settings,
    )
    module = module or Walk()
    trainer.fit(module, DataLoader(torch.zeros(1000)), ckpt_path=checkpoint, weights_only=True)
    return trainer, module


def expected_average(ema, steps):
    average = 0.0
    for step in range(1, steps + 1):
        decay = ema.decay(step)
        average = decay * average + (1 - decay) * step
    return average


def test_half_life_is_in_images():
    ema = EMA(half_life=1000, batch_size=10, rampup=None)
    assert ema.decay(1) ** 100 == pytest.approx(0.5)
    assert EMA(half_life=887_184, batch_size=128, rampup=None).decay(7) == pytest.approx(0.9999, abs=1e-9)


def test_warm_up_holds_the_half_life_to_a_share_of_the_images_seen():
    ema = EMA(half_life=1000, batch_size=10, rampup=0.05)
    assert ema.decay(4) == pytest.approx(0.5 ** (10 / (0.05 * 40)))
    assert ema.decay(2000) == ema.decay(5000) == pytest.approx(0.5**0.01)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_average_counts_optimiser_steps(accumulate):
    ema = EMA(half_life=30, batch_size=10, rampup=None)
    _, module = fit([ema], 7, accumulate_grad_batches=accumulate)
    assert module.weight.item() == 7  # the raw weights stay
    with ema.applied(module):
        assert module.weight.item() == pytest.approx(expected_average(ema, 7))
    assert module.weight.item() == 7


def test_the_average_goes_on_from_a_checkpoint(tmp_path):
    def callbacks():
        return [EMA(half_life=30, batch_size=10), StepCheckpoint(tmp_path, every=3)]

    fit(callbacks(), 6)
    ema, saver = callbacks()
    fit([ema, saver], 10, checkpoint=list_checkpoints(tmp_path)[-1])
    assert ema.state_dict()["average"]["weight"].item() == pytest.approx(expected_average(ema, 10))
    content = torch.load(list_checkpoints(tmp_path)[-1], weights_only=True)
    assert averaged(content)["weight"].item() == pytest.approx(expected_average(ema, 10))
    assert content["state_dict"]["weight"].item() == 10


def test_checkpoints_every_n_steps_and_at_the_end(tmp_path):
    fit([StepCheckpoint(tmp_path, every=3, keep=None, extra=lambda: {"config": "text"})], 7)
    assert [step_of(file) for file in list_checkpoints(tmp_path)] == [3, 6, 7]
    for file in list_checkpoints(tmp_path):
        content = torch.load(file, weights_only=True)
        assert content["global_step"] == content["state_dict"]["weight"].item() == step_of(file)
        assert content["config"] == "text"


def test_only_the_newest_checkpoints_stay(tmp_path):
    fit([StepCheckpoint(tmp_path, every=2, keep=2)], 9)
    assert [step_of(file) for file in list_checkpoints(tmp_path)] == [8, 9]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["step-00000008.ckpt", "step-00000009.ckpt"]


def test_a_failed_save_leaves_the_old_checkpoint_and_nothing_else(tmp_path):
    path = tmp_path / "step-00000001.ckpt"
    AtomicCheckpointIO().save_checkpoint({"a": 1}, path)
    with pytest.raises(Exception, match=r"pickle|local object"):
        AtomicCheckpointIO().save_checkpoint({"a": lambda: None}, path)
    assert torch.load(path, weights_only=True) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_training_after_the_step_with_a_checkpoint(tmp_path, number):
    def kill(step):
        if step == 4:
            os.kill(os.getpid(), number)

    stop, before = StopOnSignal(), signal.getsignal(number)
    trainer, module = fit([stop, StepCheckpoint(tmp_path, every=100)], 50, Walk(kill))
    assert stop.received == number
    assert trainer.global_step == module.weight.item() == 5
    assert [step_of(file) for file in list_checkpoints(tmp_path)] == [5]
    assert signal.getsignal(number) == before


def test_a_second_ctrl_c_interrupts_at_once(tmp_path):
    def kill(step):
        if step == 4:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(SystemExit):
        fit([StopOnSignal(), StepCheckpoint(tmp_path, every=3)], 50, Walk(kill))
    assert [step_of(file) for file in list_checkpoints(tmp_path)] == [3]


def test_status_tells_how_a_run_ended():
    told = []
    fit([StatusFile(lambda *args, **more: told.append(args))], 3)
    assert (told[0], told[-1]) == (("running", 0, 3), ("finished", 3, 3))

    def fail(step):
        if step == 2:
            raise ArithmeticError("no")

    with pytest.raises(ArithmeticError):
        fit([StatusFile(lambda *args, **more: told.append((*args, more.get("error"))))], 3, Walk(fail))
    assert told[-1] == ("failed", 2, 3, "ArithmeticError('no')")


def test_a_run_that_was_killed_after_its_last_checkpoint_ends_as_finished(tmp_path):
    """Resumed, it trains no step, and Lightning calls neither on_train_start nor on_train_end."""
    told = []
    fit([StepCheckpoint(tmp_path, every=3)], 3)
    status = StatusFile(lambda *args, **more: told.append((*args, more["seconds"])), seconds=7.0)
    fit([status], 3, checkpoint=tmp_path / "step-00000003.ckpt")
    assert [each[:3] for each in told] == [("finished", 3, 3)]
    assert 7.0 <= told[0][3] < 60


def test_a_signal_that_comes_while_the_processes_agree_counts_at_the_next_step():
    stop = StopOnSignal()
    of_others = iter([0, 0])

    def reduce(mine, reduce_op):
        together = max(float(mine), next(of_others))
        stop._handle(signal.SIGUSR1, None)  # too late: the others have this process's 0
        return torch.tensor(together)

    strategy = SimpleNamespace(root_device=torch.device("cpu"), reduce=reduce)
    trainer = SimpleNamespace(world_size=2, global_step=1, should_stop=False, strategy=strategy)
    stop.on_train_batch_end(trainer)
    assert not trainer.should_stop
    trainer.global_step = 2
    stop.on_train_batch_end(trainer)
    assert trainer.should_stop
    assert stop.received is signal.SIGUSR1
