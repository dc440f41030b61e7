"""A run that is resumed with another config: the same result up to rounding, or another one if that is allowed."""

import json
import shutil

import pytest
import torch

from diffexp.checkpoints.file import read_checkpoint
from diffexp.checkpoints.paths import list_checkpoints, step_of
from diffexp.commands.train import train
from diffexp.errors import UserError
from tests.helpers.resumes import resume
from tests.helpers.small import SMALL, diffexp, fit, metrics

LONG = [
    *SMALL,
    *("training.max_steps=12", "training.log_every_n_steps=1", "training.accelerator=cpu"),
    *("checkpoint={'every': 1, 'keep': None}", "sample_grid=null", "loggers=[]"),
    *("data.random_flip=true", "model.network.dropout=0"),
    "optim.decay=none",
    "optim.eps=1e-4",  # with a tiny one, Adam turns rounding errors of zero gradients into steps of size lr
]
START = 5  # odd, so that a count of accumulated batches that is off by one shows


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    fit(folder / "run", *LONG)
    return folder / "run"


@pytest.fixture
def run(undisturbed, tmp_path):
    """A run that was killed after step 5."""
    copy = shutil.copytree(undisturbed, tmp_path / "run")
    for file in list_checkpoints(copy / "checkpoints"):
        if step_of(file) > START:
            file.unlink()
    return copy


def checkpoint(run, step=12):
    return read_checkpoint(run / "checkpoints" / f"step-{step:08d}.ckpt")


def distance(one, two):
    """The largest difference of a weight and of an averaged weight."""
    parts = [(each["state_dict"], each["callbacks"]["EMA"]["average"]) for each in (one, two)]
    return max(float((a[name] - b[name]).abs().max()) for a, b in zip(*parts, strict=True) for name in a)


def environment(run):
    return json.loads((run / "environment.json").read_text())


ROUNDING, BFLOAT16 = 1e-6, 3e-4  # the weights move by 3e-3 meanwhile


@pytest.mark.parametrize(
    ("change", "most"),
    [
        ("training.accumulate_grad_batches=8", ROUNDING),
        ("training.channels_last=true", ROUNDING),
        ("model.network.gradient_checkpointing=true", ROUNDING),
        ("training.precision=bf16-mixed", BFLOAT16),
    ],
)
def test_another_way_to_compute_changes_the_result_by_rounding_only(run, undisturbed, change, most, caplog):
    assert distance(checkpoint(undisturbed, START), checkpoint(undisturbed)) > 2e-3
    resume(run, change)
    assert distance(checkpoint(run), checkpoint(undisturbed)) < most
    key, value = change.split("=")
    (recorded,) = environment(run)["changes"]
    assert (recorded["step"], recorded["key"], str(recorded["after"]).lower()) == (START, key, value)
    assert f"instead of {recorded['before']}: the result is the same up to rounding" in caplog.text


def test_a_changed_precision_takes_effect(run, undisturbed):
    resume(run, "training.precision=bf16-mixed")
    assert distance(checkpoint(run), checkpoint(undisturbed)) > 1e-7
    assert environment(run)["precision"] == "bf16-mixed"


def test_changes_there_and_back(run, undisturbed):
    resume(run, "training.accumulate_grad_batches=4", "training.channels_last=true", "training.max_steps=8")
    resume(run, "training.accumulate_grad_batches=1", "training.channels_last=false", "training.max_steps=12")
    assert distance(checkpoint(run), checkpoint(undisturbed)) < ROUNDING
    assert [(each["step"], each["after"]) for each in environment(run)["changes"]] == [
        *((START, 4), (START, True)),
        *((8, 1), (8, False)),
    ]


@pytest.mark.slow
def test_several_processes_change_the_result_by_rounding_only(run, undisturbed):
    printed = diffexp("train", str(run), "--resume", "training.devices=2", "training.max_steps=9", cwd=run).stderr
    assert printed.count("training.devices=2 instead of 1: the result is the same up to rounding") == 1
    diffexp("train", str(run), "--resume", "training.max_steps=12", "training.devices=1", cwd=run)
    assert distance(checkpoint(run), checkpoint(undisturbed)) < ROUNDING


@pytest.mark.slow
def test_compilation_changes_the_result_by_rounding_only(tmp_path, compiler):
    one_level = "model.network={'base_channels': 8, 'channel_multipliers': [1], 'attention_resolutions': []}"
    fit(tmp_path / "run", *LONG, one_level, "training.max_steps=5")
    shutil.copytree(tmp_path / "run", tmp_path / "compiled")
    for name, options in (("run", []), ("compiled", ["training.compile=true"])):
        command = ["train", name, "--resume", "training.max_steps=9", *options]
        printed = diffexp(*command, cwd=tmp_path).stderr
    assert "training.compile=True instead of False: the result is the same up to rounding" in printed
    assert distance(checkpoint(tmp_path / "compiled", 9), checkpoint(tmp_path / "run", 9)) < ROUNDING


def test_dropout_has_other_masks(run, caplog):
    with pytest.raises(UserError, match=r"model.network.dropout: 0.0 in the run, 0.1 now"):
        resume(run, "model.network.dropout=0.1")
    resume(run, "model.network.dropout=0.1", "training.accumulate_grad_batches=2", allowed=["model.network.dropout"])
    assert "the result is the same up to rounding and the masks of dropout" in caplog.text


# --- what changes the result


def test_a_change_of_the_result_needs_a_flag_and_is_recorded(run, undisturbed, caplog):
    with pytest.raises(UserError) as refused:
        resume(run, "optim.lr=1e-9", "optim.weight_decay=0.1")
    assert str(refused.value).endswith(
        "  optim.lr: 0.001 in the run, 1e-09 now\n  optim.weight_decay: 0.01 in the run, 0.1 now\n"
        "Give --allow-change optim.lr --allow-change optim.weight_decay to resume with the new values, or start a new "
        "run without --resume, in another run_dir."
    )
    changed = ["optim.lr=1e-9", "optim.weight_decay=0.1", "optim.betas=[0.8, 0.99]"]
    resume(run, *changed, allowed=["optim"])
    assert "resuming with optim.lr=1e-09 instead of 0.001: the result changes from step 5 on" in caplog.text
    assert environment(run)["changes"] == [
        {"step": START, "key": "optim.lr", "before": 0.001, "after": 1e-9},
        {"step": START, "key": "optim.betas", "before": [0.9, 0.999], "after": [0.8, 0.99]},
        {"step": START, "key": "optim.weight_decay", "before": 0.01, "after": 0.1},
    ]
    (group,) = checkpoint(run)["optimizer_states"][0]["param_groups"]
    assert (group["lr"], group["betas"], group["weight_decay"]) == (1e-9, (0.8, 0.99), 0.1)
    rates = {row["step"]: row["train/lr"] for row in metrics(run)}
    assert (rates[START], rates[START + 1], rates[12]) == (0.001, 1e-9, 1e-9)
    weights = [each["state_dict"] for each in (checkpoint(run), checkpoint(run, START))]
    assert all(torch.allclose(weights[0][name], weights[1][name], atol=1e-7) for name in weights[0])


def test_a_warm_up_and_a_decay_use_the_changed_rate(run):
    resume(run, "optim.lr=4e-3", "optim.decay=cosine", allowed=["optim.lr", "optim.decay"])
    rates = {row["step"]: row["train/lr"] for row in metrics(run)}
    # the warm-up takes 2 of 12 steps; step 8 is number 5 of the 10 of the cosine, counted from 0
    assert rates[8] == pytest.approx(4e-3 * 0.5, rel=1e-12)


def test_the_rate_of_a_discriminator_changes_too(tmp_path):
    tiny = ["model.widths=[8,8]", "model.discriminator_widths=[8,8]", "training.batch_size=8", "model.latent_dim=4"]
    silent = ["sample_grid=null", "score=null", "loggers=[]", f"run_dir={tmp_path / 'run'}"]
    train("families/digits_gan", [*tiny, *silent, "training.max_steps=2"])
    changed = ["training.max_steps=3", "optim.lr=1e-5", "model.discriminator_lr=3"]
    train(tmp_path / "run", changed, resume=True, allow_change=["optim.lr", "model.discriminator_lr"])
    groups = checkpoint(tmp_path / "run", 3)["optimizer_states"][0]["param_groups"]
    assert [group["initial_lr"] for group in groups] == pytest.approx([1e-5, 3e-5])


def test_what_else_can_be_allowed(run):
    changes = [
        *("training.batch_size=8", "training.gradient_clip_val=0.5", "ema.half_life=100", "ema.rampup=null"),
        *("data.random_flip=false", "model.class_dropout_prob=0.3", "model.weighting={'name': 'min_snr'}"),
    ]
    keys = [change.partition("=")[0] for change in changes]
    for change, key in zip(changes, keys, strict=True):
        with pytest.raises(UserError, match=f"--allow-change {key}"):
            resume(run, change, allowed=[each for each in keys if each != key])
    resume(run, *changes, allowed=keys)
    assert checkpoint(run)["global_step"] == 12
    recorded = [each["key"] for each in environment(run)["changes"]]
    assert all(any(each.startswith(key) for each in recorded) for key in keys)


@pytest.mark.parametrize("change", ["model.prediction=v", "model.network.base_channels=16", "seed=1", "model.loss=vlb"])
def test_what_no_flag_can_allow(run, change):
    key = change.partition("=")[0]
    with pytest.raises(UserError, match=rf"--allow-change: expected one of .*optim, .*, got {key}\. "):
        resume(run, change, allowed=[key])
    for each in (change, "ema=null"):
        with pytest.raises(UserError, match=r"\nStart a new run without --resume, in another run_dir\.$"):
            resume(run, each, "optim.lr=1e-9", allowed=["optim.lr", "ema"])


@pytest.mark.slow
def test_the_flag_is_for_resumed_runs(tmp_path):
    command = ["train", "digits", *SMALL, "run_dir=run", "--allow-change", "optim.lr"]
    assert "--allow-change: expected --resume with it" in diffexp(*command, cwd=tmp_path, expect=2).stderr
    assert not (tmp_path / "run").exists()


def test_an_allowed_change_holds_after_a_crash_before_the_next_checkpoint(run, undisturbed):
    resume(run, "optim.lr=1e-9", allowed=["optim.lr"])
    for file in list_checkpoints(run / "checkpoints"):
        if step_of(file) > START:
            file.unlink()
    resume(run)  # as a job script does
    assert checkpoint(run)["optimizer_states"][0]["param_groups"][0]["lr"] == 1e-9
    assert [(each["step"], each["key"]) for each in environment(run)["changes"]] == [(START, "optim.lr")]
