"""A damaged checkpoint is never taken for a whole one."""

import random
import signal
import time

import pytest
import torch

from diffexp.checkpoints.file import latest_valid_checkpoint, read_checkpoint, write_checkpoint
from diffexp.checkpoints.paths import list_checkpoints
from diffexp.errors import EnvironmentFailure, UserError
from tests.helpers.small import start_script


def content(value=0.0, step=1, **more):
    weights = {"weight": torch.full((1000,), value)}
    return {"config": "name: x", "callbacks": {}, "state_dict": weights, "global_step": step, **more}


def test_what_is_written_is_read(tmp_path):
    write_checkpoint(content(2.0), tmp_path / "a.ckpt")
    assert torch.equal(read_checkpoint(tmp_path / "a.ckpt")["state_dict"]["weight"], torch.full((1000,), 2.0))
    assert [file.name for file in tmp_path.iterdir()] == ["a.ckpt"]
    torch.load(tmp_path / "a.ckpt", weights_only=True)  # anybody's torch reads it


def test_every_cut_every_flipped_bit_and_garbage_are_noticed(tmp_path):
    path, dice = tmp_path / "a.ckpt", random.Random(0)
    write_checkpoint(content(), path)
    whole = path.read_bytes()
    damaged = [whole[: dice.randrange(len(whole))] for _ in range(20)] + [b"", whole[:-1], dice.randbytes(len(whole))]
    for position in [
        *range(20),
        *(dice.randrange(len(whole)) for _ in range(300)),
        *range(len(whole) - 80, len(whole)),
    ]:
        flipped = bytearray(whole)
        flipped[position] ^= 1 << dice.randrange(8)
        damaged.append(bytes(flipped))
    for each in [*damaged, whole + b"x"]:
        path.write_bytes(each)
        with pytest.raises(UserError, match="is damaged or not a checkpoint of diffexp"):
            read_checkpoint(path)


def test_torch_alone_would_not_notice(tmp_path):
    """Why there is a digest at all."""
    path = tmp_path / "a.ckpt"
    write_checkpoint(content(1.0), path)
    whole = bytearray(path.read_bytes())
    whole[whole.index(torch.full((4,), 1.0).numpy().tobytes())] ^= 1
    path.write_bytes(whole)
    assert not torch.equal(torch.load(path, weights_only=True)["state_dict"]["weight"], torch.full((1000,), 1.0))


def test_the_newest_whole_one_is_found_and_damaged_ones_are_set_aside(tmp_path, caplog):
    for step in (10, 20, 30):
        write_checkpoint(content(step=step), tmp_path / "checkpoints" / f"step-{step:08d}.ckpt")
    folder = tmp_path / "checkpoints"
    (folder / "step-00000030.ckpt").write_bytes(b"torn")
    found = latest_valid_checkpoint(folder)
    assert found is not None
    assert found[0].name == "step-00000020.ckpt"
    assert len(list_checkpoints(folder)) == 3
    latest_valid_checkpoint(folder, quarantine=True)
    assert sorted(file.name for file in folder.iterdir()) == [
        "step-00000010.ckpt",
        "step-00000020.ckpt",
        "step-00000030.ckpt.damaged",
    ]
    assert "no SHA-256 at its end" in caplog.text
    assert "is used instead" in caplog.text


def file_of(folder, step):
    return folder / "checkpoints" / f"step-{step:08d}.ckpt"


@pytest.mark.parametrize(("names", "newest", "aside"), [((30, 20), 10, 2), ((20, 30), 20, 1)])
def test_one_of_another_step_than_its_name_says_is_no_checkpoint_of_that_step(tmp_path, caplog, names, newest, aside):
    """Two that were swapped; or an older copy under the newest name."""
    for step in (10, 20):
        write_checkpoint(content(step=step), file_of(tmp_path, step))
    for name, step in zip(names, (20, 30) if aside == 2 else (20, 20), strict=True):
        write_checkpoint(content(step=step), file_of(tmp_path, name))
    with pytest.raises(UserError, match="expected the checkpoint of step 30, as in its name, got that of step 20"):
        read_checkpoint(file_of(tmp_path, 30))
    found = latest_valid_checkpoint(tmp_path / "checkpoints", quarantine=True)
    assert found is not None
    assert found[1]["global_step"] == newest
    assert len(list(tmp_path.glob("checkpoints/*.damaged"))) == aside
    assert caplog.text.count("as in its name, got that of step") == aside


def test_one_of_another_run_is_no_checkpoint_of_this_one(tmp_path, caplog):
    (tmp_path / "environment.json").write_text('{"run_id": "aaaa"}')
    write_checkpoint(content(step=10), file_of(tmp_path, 10))  # of a version that did not say
    write_checkpoint(content(step=20, run_id="aaaa"), file_of(tmp_path, 20))
    write_checkpoint(content(step=30, run_id="bbbb"), file_of(tmp_path, 30))
    assert latest_valid_checkpoint(tmp_path / "checkpoints")[0] == file_of(tmp_path, 20)
    assert "expected a checkpoint of the run aaaa, got one of bbbb" in caplog.text
    file_of(tmp_path, 20).unlink()
    assert latest_valid_checkpoint(tmp_path / "checkpoints")[0] == file_of(tmp_path, 10)
    (tmp_path / "environment.json").unlink()
    assert latest_valid_checkpoint(tmp_path / "checkpoints")[0] == file_of(tmp_path, 30)


def test_what_is_set_aside_replaces_nothing_that_was_before(tmp_path):
    write_checkpoint(content(step=10), file_of(tmp_path, 10))
    for garbage in (b"first", b"second", b"third"):
        file_of(tmp_path, 20).write_bytes(garbage)
        latest_valid_checkpoint(tmp_path / "checkpoints", quarantine=True)
    kept = sorted(tmp_path.glob("checkpoints/*.damaged*"))
    assert [file.read_bytes() for file in kept] == [b"first", b"second", b"third"]


def test_if_none_is_whole_that_is_an_error_and_all_stay(tmp_path):
    folder = tmp_path / "checkpoints"
    assert latest_valid_checkpoint(folder) is None
    folder.mkdir()
    (folder / "step-00000030.ckpt").write_bytes(b"torn")
    with pytest.raises(UserError, match=r"expected a valid checkpoint, got only damaged ones\. Restore one"):
        latest_valid_checkpoint(folder, quarantine=True)
    assert [file.name for file in folder.iterdir()] == ["step-00000030.ckpt"]


SAVE = """
import sys, torch
from pathlib import Path
from diffexp.checkpoints.file import write_checkpoint
tensors = {str(i): torch.full((500_000,), float(i)) for i in range(10)}
for number in range(1000):
    content = {"config": "", "callbacks": {}, "global_step": 1, "state_dict": {**tensors, "n": torch.tensor(number)}}
    write_checkpoint(content, Path(sys.argv[1], "step-00000001.ckpt"))
    print(number, flush=True)
"""


@pytest.mark.slow
def test_killed_while_saving_the_file_is_whole(tmp_path, pytestconfig):
    """One name, 20 MB written again and again; TMPDIR, where Lightning would write, is another file system's."""
    dice, path = random.Random(), tmp_path / "step-00000001.ckpt"
    (tmp_path / "save.py").write_text(SAVE)
    for _ in range(100 if pytestconfig.getoption("--full") else 8):
        path.unlink(missing_ok=True)
        process = start_script(tmp_path / "save.py", str(tmp_path), cwd=tmp_path)
        while not path.exists():
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(dice.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        told = process.communicate()[0].split()
        number = int(told[-1]) if told else -1
        assert int(read_checkpoint(path)["state_dict"]["n"]) in (number, number + 1)


def test_a_disk_in_trouble_is_no_damage(tmp_path, monkeypatch):
    path = tmp_path / "checkpoints" / "step-00000001.ckpt"
    write_checkpoint(content(), path)

    def broken(*_, **__):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(torch, "load", broken)
    with pytest.raises(EnvironmentFailure, match="cannot be read: Input/output error"):
        latest_valid_checkpoint(path.parent, quarantine=True)
    assert path.exists()
