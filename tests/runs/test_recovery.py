"""Damage to metrics.jsonl is warned of, kept, and mended from metrics.csv; a good metrics.csv never loses a row."""

import hashlib
import random

import pytest

from diffexp.config.schemas.common import WandbConfig
from diffexp.loggers.build import build_loggers, repair_metrics
from diffexp.loggers.jsonl import JSONLLogger
from diffexp.runs.directory import Run
from diffexp.runs.recovery import MetricsChecksum, csv_holds, kept_rows, read_csv

STEP = 6

# as they lie there when a run was killed at step 9, which resumes from its checkpoint of step 6
JSONL = """\
{"step": 2, "train/loss": 0.75, "train/lr": 0.001}
{"step": 4, "train/loss": NaN, "train/lr": 0.002}
{"step": 6, "train/loss": 0.25, "train/lr": 1e-05}
{"step": 6, "score/fd": 12.5}
{"step": 8, "train/loss": 0.125, "train/lr": 0.0}
"""
SEALED = JSONL[: JSONL.index('{"step": 6, "score')].encode()
SEAL = MetricsChecksum.of(
    # sha256sum of the first three lines
    {"metrics": {"length": 152, "sha256": "a8abeae09cf9060bb76303238ca7d89ffb336b6a32066f669f90397cbd8c6a81"}}
)
CSV = """\
score/fd,step,train/loss,train/lr
,2,0.75,0.001
,4,nan,0.002
,6,0.25,1e-05
12.5,6,,
,8,0.125,0.0
""".replace("\n", "\r\n")
KEPT = "".join(line + "\n" for line in JSONL.splitlines()[:4])


@pytest.fixture
def run(tmp_path):
    run = Run(tmp_path / "run")
    run.path.mkdir()
    run.metrics.write_text(JSONL)
    (run.path / "metrics.csv").write_bytes(CSV.encode())
    return run


def resumed(run, content):
    """metrics.jsonl after a resume with this content; names of the files that are kept aside."""
    run.metrics.write_bytes(content if isinstance(content, bytes) else content.encode())
    JSONLLogger(run.metrics, STEP, SEAL)
    return run.metrics.read_text(), sorted(file.name for file in run.path.glob("*.damaged*"))


def test_undamaged_files_stay_as_they_are_without_a_word(run, caplog):
    assert resumed(run, JSONL) == (KEPT, [])
    for content in (JSONL[:-20], KEPT + '{"step": 7, "tra', JSONL[:-1]):  # killed while it wrote
        run.metrics.write_text(content)
        kept_rows(run.metrics, STEP, SEAL)
    (run.path / "metrics.csv").write_bytes(CSV[: CSV.index("12.5")].encode() + b"12")  # killed between both
    assert resumed(run, JSONL) == (KEPT, [])
    assert caplog.text == ""


LINES = JSONL.splitlines(keepends=True)
DAMAGED = {
    "a digit": (JSONL.replace("0.75", "0.74"), "damage in line 1"),
    "a name": (JSONL.replace("train/lr", "train/mr", 1), "damage in line 1"),
    "a step": (JSONL.replace('"step": 4', '"step": 5'), "damage in line 2"),
    "not JSON": (JSONL.replace("NaN,", "NaN;"), "damage in line 2"),
    "NUL": (JSONL.replace("NaN", "\0\0\0"), "damage in line 2"),
    "not UTF-8": (JSONL.encode().replace(b"NaN", b"\xff\xfe\xfd"), "damage in line 2"),
    "no newline": (JSONL.replace("\n", " ", 1), "damage in line 1"),
    "a newline": (JSONL.replace("train", "\n", 1), "damage in lines 1, 2"),
    "cut off": (JSONL[:80], "damage in line 2"),
    "cut off after a line": ("".join(LINES[:2]), "others or fewer"),
    "a line gone": ("".join(LINES[:1] + LINES[2:]), "others or fewer"),
    "the score gone": ("".join(LINES[:3] + LINES[4:]), "others or fewer"),
    "a step of the score": (JSONL.replace('"step": 6, "score', '"step": 4, "score'), "damage in line 4"),
    "a later line as an earlier one": (JSONL.replace('"step": 8', '"step": 6'), "damage in line 5"),
    "emptied": ("", "others or fewer"),
    "zeros": ("\0" * len(JSONL), "damage in line 1"),
    "a line twice": (LINES[0] + JSONL, "others or fewer"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damage_is_named_and_mended_from_the_csv(run, caplog, damage):
    content, told = DAMAGED[damage]
    text, kept = resumed(run, content)
    assert text == KEPT
    assert kept == (["metrics.jsonl.damaged"] if content else [])
    assert told in caplog.text
    if content:
        raw = content if isinstance(content, bytes) else content.encode()
        assert (run.path / "metrics.jsonl.damaged").read_bytes() == raw
    assert (run.path / "metrics.csv").read_bytes() == CSV.encode()


@pytest.mark.parametrize("csv", [True, False])
def test_no_flipped_bit_passes_for_a_value(run, caplog, csv):
    """Of the rows that a checkpoint has sealed; with metrics.csv also of those after it."""
    dice = random.Random(0)
    if not csv:
        (run.path / "metrics.csv").unlink()
    for position in range(len(KEPT) if csv else len(SEALED)):
        caplog.clear()
        flipped = bytearray(JSONL.encode())
        flipped[position] ^= 1 << dice.randrange(8)
        run.metrics.write_bytes(flipped)
        kept_rows(run.metrics, STEP, SEAL)
        assert "metrics." in caplog.text, bytes(flipped)
        for file in run.path.glob("metrics.*.damaged"):
            file.rename(run.path / "metrics.csv") if "csv" in file.name else file.unlink()


def test_without_a_csv_the_readable_rows_stay(run, caplog):
    (run.path / "metrics.csv").unlink()
    text, kept = resumed(run, JSONL.replace("NaN,", "NaN;"))
    assert text == "".join(LINES[:1] + LINES[2:4])
    assert kept == ["metrics.jsonl.damaged"]
    assert "recovered 0 of them from metrics.csv; rows may be missing or wrong" in caplog.text


def test_both_files_damaged_in_different_rows_are_mended_from_each_other(run, caplog):
    (run.path / "metrics.csv").write_bytes(CSV.replace("1e-05", "x").encode())
    assert resumed(run, JSONL.replace("0.75", "?"))[0] == KEPT
    assert "the result is what the checkpoint was saved with" in caplog.text
    assert (run.path / "metrics.csv.damaged").is_file()


@pytest.mark.parametrize("wrong", [CSV.replace("0.75", "0.76"), CSV.replace("0.75", "?"), CSV.replace("step", "stop")])
def test_a_csv_that_disagrees_with_sound_metrics_is_kept(run, caplog, wrong):
    (run.path / "metrics.csv").write_bytes(wrong.encode())
    assert resumed(run, JSONL) == (KEPT, ["metrics.csv.damaged"])
    assert (run.path / "metrics.csv.damaged").read_bytes() == wrong.encode()
    assert "diffexp uses metrics.jsonl" in caplog.text


def test_checkpoints_of_older_versions_seal_nothing(run, caplog):
    run.metrics.write_text("".join(LINES[:1] + LINES[2:]))
    assert [row["step"] for row in kept_rows(run.metrics, STEP, MetricsChecksum.of({}))] == [2, 4, 6, 6]
    assert "recovered 1 of them from metrics.csv; rows may be missing or wrong" in caplog.text


def test_a_complete_run_is_mended_too_and_a_sound_one_not_touched(run):
    before = [(run.path / name).stat().st_mtime_ns for name in ("metrics.jsonl", "metrics.csv")]
    checksum = MetricsChecksum(len(JSONL), hashlib.sha256(JSONL.encode()).hexdigest())
    repair_metrics(["csv"], run, 8, checksum)
    assert before == [(run.path / name).stat().st_mtime_ns for name in ("metrics.jsonl", "metrics.csv")]
    run.metrics.write_text(JSONL[:60])
    (run.path / "metrics.csv").write_bytes(CSV[:-10].encode())
    repair_metrics(["csv"], run, 8, checksum)
    assert run.metrics.read_text() == KEPT
    assert csv_holds(run.path / "metrics.csv", kept_rows(run.metrics, 8, None))


def test_no_flipped_bit_of_a_complete_run_stays(run, caplog):
    checksum, dice = MetricsChecksum(len(JSONL), hashlib.sha256(JSONL.encode()).hexdigest()), random.Random(1)
    for position in (*range(0, len(JSONL), 7), len(JSONL) - 1):
        flipped = bytearray(JSONL.encode())
        flipped[position] ^= dice.choice([0x80, 1 << dice.randrange(8)])  # with 0x80 it is no UTF-8
        run.metrics.write_bytes(flipped)
        repair_metrics(["csv"], run, 8, checksum)
        assert run.metrics.read_bytes() == JSONL.encode(), bytes(flipped)
    run.metrics.write_bytes(JSONL.replace("\n", "\r\n").encode())
    repair_metrics(["csv"], run, 8, checksum)
    caplog.clear()
    repair_metrics(["csv"], run, 8, checksum)
    assert caplog.text == ""


def test_the_seal_is_of_what_was_written(tmp_path):
    run = Run(tmp_path)
    (metrics,) = build_loggers([], run, 0, WandbConfig(), {})
    for step in (2, 4):
        metrics.log_metrics({"a": step / 8}, step=step)
        checksum = metrics.checksum()
        assert checksum.fits(run.metrics.read_bytes())
        assert checksum.length == run.metrics.stat().st_size
    again = JSONLLogger(run.metrics, 4, checksum)
    assert again.checksum() == checksum
    again.log_metrics({"a": 0.75}, step=6)
    assert again.checksum().fits(run.metrics.read_bytes())


def test_lightning_s_csv_is_read_as_it_was_logged(tmp_path):
    run = Run(tmp_path)
    metrics, csv = build_loggers(["csv"], run, 0, WandbConfig(), {})
    for logger in (metrics, csv):
        logger.log_metrics({"b": 0.1 + 0.2, "a": float("inf")}, step=1)
        logger.log_metrics({"a,b": -1e-300, "é": float("nan")}, step=1)
    rows, damaged = read_csv(tmp_path / "metrics.csv")
    assert not damaged
    assert rows[0] == {"step": 1, "a": float("inf"), "b": 0.30000000000000004}
    assert csv_holds(tmp_path / "metrics.csv", kept_rows(run.metrics, 1, metrics.checksum()))
