"""A loss or gradient that is not finite never reaches weights, moments or average."""

import pytest
import torch

from diffexp.checkpoints.paths import list_checkpoints
from diffexp.errors import UserError
from diffexp.models.diffusion import DiffusionModule
from diffexp.models.nonfinite import NonFiniteGuard
from tests.helpers.resumes import resume
from tests.helpers.small import fit, metrics
from tests.integration.test_training import state

PLAIN = [
    "sample_grid=null",
    "optim.decay=none",
    "training.max_steps=8",
    "training.log_every_n_steps=1",
    "checkpoint={'every': 1, 'keep': None}",
]


@pytest.fixture
def broken(monkeypatch):
    """Make the loss (of one image) or the gradient not finite at the wanted steps, 1, 2, …"""

    def break_at(steps, value=float("nan"), what="loss"):
        def loss(module, x0, draws, original=DiffusionModule.loss):
            _, losses = original(module, x0, draws)
            if module._step + 1 in steps:
                if what == "loss":
                    losses = torch.cat([losses[:1] + value, losses[1:]])
                else:
                    losses.register_hook(lambda gradient: gradient * value)
            return losses, losses

        monkeypatch.setattr(DiffusionModule, "loss", loss)

    return break_at


@pytest.mark.slow
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("what", ["loss", "gradient"])
@pytest.mark.parametrize("clip", ["1.0", "null"])
def test_the_first_one_ends_the_run_and_names_the_last_good_checkpoint(tmp_path, broken, value, what, clip):
    fit(tmp_path / "whole", *PLAIN, "training.max_steps=4", f"training.gradient_clip_val={clip}")
    broken([5], value, what)
    with pytest.raises(UserError) as error:
        fit(tmp_path / "run", *PLAIN, f"training.gradient_clip_val={clip}")
    message = str(error.value)
    assert message.startswith(f"step 5: the {what} is not finite")
    if what == "loss":
        assert f": {value}" in message
        assert " at t = " in message
    assert message.endswith("checkpoints/step-00000004.ckpt.")
    assert [file.name for file in list_checkpoints(tmp_path / "run" / "checkpoints")][-1] == "step-00000004.ckpt"
    kept, whole = (state(tmp_path / name) for name in ("run", "whole"))
    assert all(torch.equal(kept[name], whole[name]) for name in kept if name.startswith(("raw", "ema", "adam")))


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_step_left_out_changes_no_weight_and_training_goes_on(tmp_path, broken, what, caplog):
    broken([3, 4], what=what)
    fit(tmp_path / "run", *PLAIN, "optim.skip_nonfinite=2")
    states = [state(file) for file in list_checkpoints(tmp_path / "run" / "checkpoints")]
    weights = [name for name in states[0] if name.startswith(("raw.", "adam."))]
    for before, after, same in ((1, 2, True), (2, 3, True), (0, 1, False), (3, 4, False)):
        equal = [torch.equal(states[before][name], states[after][name]) for name in weights if "raw" in name]
        assert all(equal) is same
    assert all(value.isfinite().all() for each in states for value in each.values())
    assert states[-1]["adam.0.step"] == 6
    rows = metrics(tmp_path / "run")
    assert [row["step"] for row in rows] == list(range(1, 9))
    assert [row["train/skipped"] for row in rows] == [0, 0, 0, 1, 2, 2, 2, 2]
    assert "step 3: skipped, because the" in caplog.text
    assert ("train/loss" in rows[2]) is (what == "gradient")


def test_too_many_in_a_row_end_the_run_also_across_a_resume(tmp_path, broken):
    broken([4, 5, 6])
    with pytest.raises(UserError, match=r"step 6: .*, 3 in a row \(optim.skip_nonfinite: 2\)"):
        fit(tmp_path / "run", *PLAIN, "optim.skip_nonfinite=2")
    assert list_checkpoints(tmp_path / "run" / "checkpoints")[-1].name == "step-00000005.ckpt"
    with pytest.raises(UserError, match=r"step 6: .*, 3 in a row \(optim.skip_nonfinite: 2\)"):
        resume(tmp_path / "run")


def test_fp16_leaves_overflows_to_the_scaler():
    guard = NonFiniteGuard(0, fp16=True)
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))], fused=False)
    for step in range(20):
        guard.check(torch.tensor(float("inf")), optimizer, step)
    with pytest.raises(UserError, match="diverged"):
        guard.check(torch.tensor(float("inf")), optimizer, 21)
    assert not hasattr(optimizer, "found_inf")
