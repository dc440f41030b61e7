"""Every benchmark runs, and what it tells follows from what it has measured."""

import argparse
import importlib
import json
import os
import re
import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from diffexp.diffusion.paths import timestep_path
from tests.helpers.small import script

FOLDER = Path(__file__).parents[1] / "benchmarks"
QUICK = {
    "train_step-digits": ["train_step.py", "--size=digits", "--batch-size=4", "--rounds=2"],
    "levers-digits": ["levers.py", "--size=digits", "--rounds=1"],
    "sampling_pipelines-digits": ["sampling.py", "--size=digits", "--images=2", "--steps=4", "--rounds=1"],
    "framework-digits-4": ["framework.py", "--size=digits", "--batch-size=4", "--rounds=4", "--steps=2"],
    "noise": ["noise.py", "--images=2", "--rounds=1"],
    "data": ["data.py", "--batches=2", "--rounds=2", "--workers=1"],
    "small_commands": ["small_commands.py", "--runs=2", "--rounds=1"],
    "scoring": ["scoring.py", "--images=100", "--probe=2", "--batch-size=20"],
}
# Each starts whole trainings, or takes minutes.
SLOW_TO_START = {
    "scaling.py",
    "sweep_overhead.py",
    "sweep_check.py",
    "frechet_trace.py",
    "families.py",
    "spacings.py",
    "race.py",
}


def test_none_is_forgotten():
    commands = {path.name for path in FOLDER.glob("*.py") if "__main__" in path.read_text()} - {"tables.py"}
    assert commands == {options[0] for options in QUICK.values()} | SLOW_TO_START


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_a_benchmark_runs(name, tmp_path):
    program, *options = QUICK[name]
    done = script(FOLDER / program, *options, "--device=cpu", f"--out={tmp_path}", cwd=tmp_path)
    table = (tmp_path / f"{name}-cpu.md").read_text()
    assert table in done.stdout
    content = json.loads((tmp_path / f"{name}-cpu.json").read_text())
    rows = content["table"]
    assert table.count("\n|") == len(rows) + 1
    assert all(list(row) == list(rows[0]) for row in rows)
    if name == "train_step-digits":
        (told,) = [row for row in rows if row["step"].startswith("ours, 32-true")]  # the default on some CPUs
        base, ours = (content["seconds"][each] for each in ("diffusers, 32-true", told["step"]))
        ratio = statistics.median(one / other for one, other in zip(base, ours, strict=True))
        assert re.match(rf"{ratio:.2f} \[", told["× diffusers, 32-true"])
        assert len({row["parameters"] for row in rows if "denoising" not in row["step"]}) == 1


@pytest.fixture
def benchmark(monkeypatch):
    """Imports a benchmark by its name."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


@pytest.mark.slow
def test_the_gpu_kit_runs(gpu_benchmark, monkeypatch, tmp_path, capsys):
    """On the CPU, with tiny sizes: each benchmark leaves its table, and the goals, which are for a GPU, stay open."""
    kit = gpu_benchmark("kit")
    run_tests = kit.run

    def run(command, log, limit):
        """As the kit's own, but processes of benchmarks have imported torch already."""
        if command[1] != kit.__file__:
            return run_tests(command, log, limit)
        done = script(Path(command[1]), *command[2:], cwd=tmp_path)
        return done.returncode, done.stdout + done.stderr, 1.0

    monkeypatch.setattr(kit, "run", run)
    monkeypatch.setattr(sys, "argv", ["kit.py", "--device=cpu", "--quick", f"--out={tmp_path}"])
    with pytest.raises(SystemExit) as ended:
        kit.main()
    assert ended.value.code == 0
    summary = (tmp_path / "summary.md").read_text()
    assert summary in capsys.readouterr().out
    content = json.loads((tmp_path / "summary.json").read_text())
    assert content["tests"]["outcome"] == "ok"
    assert (content["tests"]["passed"], content["tests"]["failed"]) == (2, 0)
    names = [each["name"] for each in content["benchmarks"]]
    assert names == ["train_step 4", "sampling 2", "scoring", "framework 4", "data 4"]
    assert {each["outcome"] for each in content["benchmarks"]} == {"ok"}
    tables = sorted(path.stem for path in tmp_path.glob("*-cpu.md"))
    assert tables == sorted(path.stem for path in tmp_path.glob("*-cpu.json"))
    assert len(tables) == 5
    assert all((tmp_path / f"{name}.md").read_text() in summary for name in tables)
    assert "failed:" not in summary
    assert [row[-1] for row in content["goals"]] == ["not measured"] * 6


def test_failures_are_told_once_and_also_of_tests_that_were_killed(gpu_benchmark, monkeypatch, tmp_path):
    kit = gpu_benchmark("kit")
    output = """
[gw0] [ 1%] PASSED tests/gpu/test_a.py::one
[gw1] [ 2%] FAILED tests/gpu/test_a.py::two
FAILED tests/gpu/test_a.py::two - E   assert 1 == 2
[gw1] [ 3%] FAILED tests/gpu/test_b.py::three[x]
FAILED tests/gpu/test_b.py::three[x] - RuntimeError: CUDA
FAILED tests/gpu/test_a.py::two - assert 1 == 2
"""
    monkeypatch.setattr(kit, "run", lambda *_: (None, output, 180.0))
    found = kit.correct(argparse.Namespace(device="cuda", quick=False), tmp_path / "log")
    assert (found["outcome"], found["passed"], found["failed"]) == ("timed out", 1, 2)
    assert found["failures"] == [
        "tests/gpu/test_a.py::two - assert 1 == 2",
        "tests/gpu/test_b.py::three[x] - RuntimeError: CUDA",
    ]


@pytest.mark.slow
def test_without_a_gpu_the_kit_says_so(tmp_path):
    command = [sys.executable, str(FOLDER / "gpu" / "kit.py"), f"--out={tmp_path / 'out'}"]
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=hidden)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("error: --device: expected a CUDA device, found none.")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def gpu_benchmark(benchmark, monkeypatch):
    """Imports a module of the GPU kit by its name."""
    monkeypatch.syspath_prepend(str(FOLDER / "gpu"))
    return benchmark


def test_a_benchmark_that_fails_does_not_stop_the_next(gpu_benchmark, monkeypatch, tmp_path, capsys):
    kit, ran = gpu_benchmark("kit"), []

    def fail():
        raise RuntimeError("CUDA error\nand more")

    monkeypatch.setattr(kit, "benchmarks", lambda _: {"steps": {"one": fail, "two": lambda: ran.append("two")}})
    kit.run_group("steps", argparse.Namespace(out=tmp_path, device="cpu"))
    assert ran == ["two"]
    lines = [json.loads(line) for line in (tmp_path / "steps.status").read_text().splitlines()]
    assert [line["outcome"] for line in lines] == ["failed: RuntimeError: CUDA error", "ok"]
    assert "Traceback" in capsys.readouterr().err


def test_a_group_that_is_killed_keeps_what_it_has_done(gpu_benchmark, monkeypatch, tmp_path):
    kit, status = gpu_benchmark("kit"), tmp_path / "steps.status"

    def killed(command, log, limit):
        assert "--group=steps" in command
        status.write_text(json.dumps({"name": "one", "outcome": "ok", "seconds": 5.0}) + "\n")
        return None, "\n## one\n\ntable\n\n## two\n", 140.0

    monkeypatch.setattr(kit, "run", killed)
    found = kit.fast(argparse.Namespace(out=tmp_path, only=["steps"], device="cuda", quick=False), tmp_path / "log")
    assert [(each["name"], each["outcome"], each["seconds"]) for each in found] == [
        ("one", "ok", 5.0),
        ("two", "timed out after 140 s", 135.0),
    ]
    assert not status.exists()


@pytest.mark.slow
def test_a_command_that_takes_too_long_is_killed_with_all_it_started(gpu_benchmark, tmp_path):
    kit = gpu_benchmark("kit")
    script = "import subprocess, sys; print('started', flush=True); subprocess.run(['sleep', '60'])"
    code, output, seconds = kit.run([sys.executable, "-c", script], tmp_path / "log", 2.0)
    assert (code, output) == (None, "started\n")
    assert 2 <= seconds < 20
    assert (tmp_path / "log").read_text() == "started\n"


def test_what_cannot_be_built_becomes_a_row_and_the_rest_is_measured(gpu_benchmark):
    candidates, kept = gpu_benchmark("candidates"), []

    def missing():
        raise ModuleNotFoundError("No module named 'nothing'", name="nothing")

    def exhausted():
        raise torch.OutOfMemoryError("CUDA out of memory")

    makers = {"base": lambda: lambda: None, "peer": missing, "large": lambda: exhausted, "ours": lambda: lambda: None}
    late = {"ours, compiled": lambda: lambda: None}
    candidates.measure(makers, late, "base", 3, torch.device("cpu"), kept.append)
    measured = kept[-1]
    assert set(measured.seconds) == {"base", "ours", "ours, compiled"}
    assert all(len(took) == 3 for took in measured.seconds.values())
    assert measured.bases["ours"] == measured.seconds["base"] != measured.bases["ours, compiled"]
    assert measured.missing_rows(3) == [["peer", "not installed: nothing", ""], ["large", "out of memory", ""]]


def test_the_goals_follow_from_the_numbers(gpu_benchmark, tmp_path):
    goals, steps, samples = (gpu_benchmark(name) for name in ("goals", "steps", "samples"))
    seconds = {steps.DIFFUSERS: [4.0, 4.0], steps.DIFFUSERS_BF16: [2.2, 2.2], steps.OURS: [2.5, 2.5]}
    seconds[f"{steps.OURS}, compiled"] = [1.0, 1.0]
    bases = {name: [4.0, 4.0] for name in seconds} | {f"{steps.OURS}, compiled": [5.0, 5.0]}
    (tmp_path / "train_step-cifar10-128-cuda.json").write_text(json.dumps({"seconds": seconds, "bases": bases}))
    over = {"over_bare_calls": {"ours, bf16-true, CUDA graphs": 0.04, "ours, 32-true": 0.5}}
    taken = {samples.DIFFUSERS: [3.0], "ours, bf16-mixed": [2.0]}
    sampled = {"seconds": taken, "bases": {name: [3.0] for name in taken}, **over}
    (tmp_path / "sampling-cifar10-64-cuda.json").write_text(json.dumps(sampled))
    (tmp_path / "framework-cifar10-128-cuda.json").write_text(json.dumps({"added": 0.05}))
    assert [row[2:] for row in goals.rows(tmp_path, "cuda")] == [
        ["5.00", "yes"],
        ["2.20", "yes"],
        ["1.50", "MISSED"],
        ["4.0%", "MISSED"],
        ["5.0%", "yes"],
        ["", "not measured"],
    ]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("length", [64, 17])
def test_attention_is_counted_on_the_cpu(benchmark, length, causal):
    """Two products forward; backward four, and one of the forward ones again."""
    batch, heads, width = 2, 4, 16
    query, key, value = torch.randn(3, batch, heads, length, width, requires_grad=True)
    with benchmark("measuring").flop_counter() as counter:
        torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=causal).sum().backward()
    assert counter.get_total_flops() == 7 * 2 * batch * heads * length**2 * width


@pytest.mark.slow
def test_the_families_arithmetic_is_counted(benchmark):
    """Of a Transformer: 6 operations a weight and token, forward and backward, and the attention's."""
    families = benchmark("families")
    seconds, flops = families.measure(families.CONFIGS / "digits_transformer.yaml", 6)
    width, layers, tokens = 64, 4, 128 * 64
    weights = layers * 12 * width**2 + 256 * width
    attention = layers * 2 * 2 * tokens * 64 * width  # q·k and its use, of 64 tokens each
    assert flops == pytest.approx(6 * weights * tokens + 3.5 * attention, rel=0.1)
    assert 0 < seconds < 10


@pytest.mark.parametrize("name", ["DDIM", "DDIM, η = 1", "DPM-Solver++ 2", "UniPC 2"])
def test_the_distance_of_a_spacing_is_that_of_simulated_samples(benchmark, name):
    spacings = benchmark("spacings")
    schedule, sampler = spacings.SCHEDULES["linear"], spacings.SAMPLERS[name]
    data = spacings.Components(*torch.tensor([[0.5], [2.0]], dtype=torch.float64))
    path = timestep_path(schedule.timesteps, 5, "leading")
    source = torch.Generator().manual_seed(0)
    draw = partial(torch.randn, 100_000, 1, generator=source, dtype=torch.float64)
    *_, last = sampler.trajectory(data.denoiser(schedule), schedule, path, draw(), draw)
    simulated = (last.x.mean() - 0.5) ** 2 + (last.x.std() - 2) ** 2
    found = spacings.w2(data, schedule, sampler, 5, "leading")
    assert found**0.5 == pytest.approx(float(simulated) ** 0.5, abs=0.02)
    assert found**0.5 > 0.02


def test_with_many_steps_a_fifth_of_the_samples_is_bright(benchmark):
    spacings = benchmark("spacings")
    share = spacings.bright_share(spacings.SCHEDULES["cosine"], spacings.SAMPLERS["DDIM"], 100, "arctan")
    assert share == pytest.approx(0.2, abs=0.025)  # four standard errors of 4000 samples


def test_the_documented_tables_are_the_benchmarks_own():
    page = (FOLDER.parent / "docs" / "guides" / "performance.md").read_text()
    for path in re.findall(r"<!-- (\S+) -->", page):
        assert (FOLDER / "results" / path).read_text().split("\n\n")[0] in page, path
