"""Every benchmark runs, and what it tells follows from what it has measured."""

import importlib
import json
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[1] / "benchmarks"
QUICK = {
    "train_step-digits": ["train_step.py", "--size=digits", "--batch-size=4", "--rounds=2"],
    "levers-digits": ["levers.py", "--size=digits", "--rounds=1"],
    "sampling_pipelines-digits": ["sampling.py", "--size=digits", "--images=2", "--steps=4", "--rounds=1"],
    "framework-digits-4": ["framework.py", "--size=digits", "--batch-size=4", "--rounds=4", "--steps=2"],
    "data": ["data.py", "--batches=2", "--rounds=2", "--workers=1"],
    "scoring": ["scoring.py", "--images=300", "--probe=2", "--batch-size=4"],
}
# Each starts whole trainings, or takes minutes.
SLOW_TO_START = {"scaling.py", "sweep_overhead.py", "frechet_trace.py", "families.py", "spacings.py"}


def test_none_is_forgotten():
    commands = {path.name for path in FOLDER.glob("*.py") if "__main__" in path.read_text()} - {"tables.py"}
    assert commands == {options[0] for options in QUICK.values()} | SLOW_TO_START


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_a_benchmark_runs(name, tmp_path):
    script, *options = QUICK[name]
    command = [sys.executable, str(FOLDER / script), *options, "--device=cpu", f"--out={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    table = (tmp_path / f"{name}-cpu.md").read_text()
    assert table in done.stdout
    content = json.loads((tmp_path / f"{name}-cpu.json").read_text())
    rows = content["table"]
    assert table.count("\n|") == len(rows) + 1
    assert all(list(row) == list(rows[0]) for row in rows)
    if name == "train_step-digits":
        base, ours = (content["seconds"][each] for each in ("diffusers, 32-true", "ours, 32-true"))
        (told,) = [row for row in rows if row["step"].startswith("ours, 32-true")]
        ratio = statistics.median(one / other for one, other in zip(base, ours, strict=True))
        assert re.match(rf"{ratio:.2f} \[", told["× diffusers, 32-true"])
        assert len({row["parameters"] for row in rows if "denoising" not in row["step"]}) == 1


@pytest.fixture
def benchmark(monkeypatch):
    """Imports a benchmark by its name."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


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


def test_the_documented_tables_are_the_benchmarks_own():
    page = (FOLDER.parent / "docs" / "performance.md").read_text()
    for path in re.findall(r"<!-- (\S+) -->", page):
        assert (FOLDER / "results" / path).read_text().split("\n\n")[0] in page, path
