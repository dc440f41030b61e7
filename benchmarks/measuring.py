"""Measuring and reporting for the benchmarks: candidates in alternation, quotients, a table and a JSON file.

Timings of one program vary with the machine's other work by tens of percents within minutes. The candidates therefore
take turns in one process, and only quotients of measurements of the same round are compared. Reports show the median of
these quotients, with the lowest and the highest.
"""

import argparse
import json
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

RESULTS = Path(__file__).parent / "results"


def arguments(description: str | None, rounds: int) -> argparse.ArgumentParser:
    """A parser with the options of every benchmark: --rounds, --device, --out."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds, help="measurements of each candidate")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the result")
    return parser


def synchronize(device: torch.device | str) -> None:
    """Wait until a GPU has finished its queued work."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def seconds(function: Callable[[], object], device: torch.device | str = "cpu") -> float:
    """Return the wall-clock seconds of one call."""
    synchronize(device)
    start = time.perf_counter()
    function()
    synchronize(device)
    return time.perf_counter() - start


def alternate(
    candidates: Mapping[str, Callable[[], object]],
    rounds: int,
    device: torch.device | str = "cpu",
    after_round: Callable[[dict[str, list[float]]], object] = lambda _: None,
) -> dict[str, list[float]]:
    """Measure the seconds of every candidate in each round, after one warm-up round.

    Each round starts with another candidate, so that none always runs after the same one. `after_round` receives all
    measurements so far, to save them.
    """
    names = list(candidates)
    measured: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds + 1):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            took = seconds(candidates[name], device)
            if number:
                measured[name].append(took)
        if number:
            after_round(measured)
        show(f"round {number} of {rounds}")
    show("")
    return measured


def show(text: str) -> None:
    """Show progress on the terminal."""
    if sys.stderr.isatty():
        print(f"\r{text:40}", end="", file=sys.stderr, flush=True)


def quotients(numerator: Sequence[float], denominator: Sequence[float]) -> list[float]:
    """The quotients of measurements of the same round."""
    return [one / other for one, other in zip(numerator, denominator, strict=True)]


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """Format values as "median [lowest .. highest]"."""
    return f"{statistics.median(values):{form}} [{min(values):{form}} .. {max(values):{form}}]"


def matmul_peak(dtype: torch.dtype, device: torch.device | str, rounds: int = 7) -> float:
    """FLOP/s of a square matrix product, the best of a few rounds: the practical peak of the hardware.

    The size doubles until a product takes 50 ms, or to 8192: a small product does not reach the peak, and a large one
    takes minutes on a CPU that emulates bfloat16.
    """
    size, took = 256, 0.0
    while took < 0.05 and size < 8192:
        size *= 2
        one, other = torch.randn(2, size, size, device=device).to(dtype).unbind()
        took = min(seconds(lambda one=one, other=other: one @ other, device) for _ in range(2))
    return 2 * size**3 / min(seconds(lambda: one @ other, device) for _ in range(rounds))


def flop_counter() -> FlopCounterMode:
    """A FLOP counter that includes attention on a CPU; torch's own (as of 2.14) counts attention on a GPU only."""
    aten = torch.ops.aten
    return FlopCounterMode(
        display=False,
        custom_mapping={
            aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
            aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
        },
    )


def _attention_flops(query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward_flops(
    grad: torch.Size, query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, **__: Any
) -> int:
    return sdpa_backward_flop_count(grad, query, key, value)


def peak_memory(function: Callable[[], object], device: torch.device | str) -> int | None:
    """Peak bytes allocated on a GPU during a call, including earlier allocations; None on a CPU."""
    if torch.device(device).type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats()
    function()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated()


def machine(device: torch.device | str) -> dict[str, Any]:
    """The hardware and versions of the measurement."""
    facts: dict[str, Any] = {"processor": _processor(), "threads": torch.get_num_threads()}
    if torch.device(device).type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name()
    return facts | {"python": platform.python_version(), "torch": torch.__version__}


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def report(
    given: argparse.Namespace, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], **data: Any
) -> None:
    """Print a Markdown table; write it to NAME-DEVICE.md, and all measurements to NAME-DEVICE.json.

    Args:
        given: the parsed command line.
        name: stem of the file names.
        columns: headings of the table.
        rows: cells of the table.
        data: further content of the JSON file, such as the single measurements.
    """
    facts = machine(given.device)
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    lines += [f"| {' | '.join(str(cell) for cell in row)} |" for row in rows]
    lines += ["", ", ".join(f"{key} {value}" for key, value in facts.items()), ""]
    print("\n".join(lines))
    options = {key: value for key, value in vars(given).items() if key != "out"}
    content = {
        "options": options,
        "machine": facts,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "table": [dict(zip(columns, row, strict=True)) for row in rows],
        **data,
    }
    given.out.mkdir(parents=True, exist_ok=True)
    stem = given.out / f"{name}-{torch.device(given.device).type}"
    stem.with_suffix(".md").write_text("\n".join(lines))
    stem.with_suffix(".json").write_text(json.dumps(content, indent=1, default=str) + "\n")
