"""Test and measure everything that runs on a GPU, in about eight minutes.

    make gpu OUT=FOLDER          equivalent to: python benchmarks/gpu/kit.py --out FOLDER

The tests marked gpu run first, for at most 3 minutes. The benchmarks of this folder follow, for at most 5 minutes. The
kit reports what fails or exceeds its limit, keeps what a benchmark has measured until then, and continues with the
rest. It writes a Markdown table and a JSON file per benchmark, log.txt, summary.md and summary.json to FOLDER.
`--device cpu --quick` rehearses the kit on a CPU.
"""

import argparse
import gc
import importlib.util
import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(HERE.parent), str(ROOT)]  # so that the scripts of both folders can be imported

import torch  # noqa: E402

from diffexp.cli.imports import quick_imports  # noqa: E402

TEST_SECONDS = 180
# Groups of benchmarks that share a process, because its start takes a while, and the time limit of each in seconds.
GROUPS = {"steps": 140, "samples": 110, "framework": 50}


def benchmarks(given: argparse.Namespace) -> dict[str, dict[str, Callable[[], None]]]:
    """The function to call for each benchmark, by group and name."""
    with quick_imports():
        import batches
        import samples
        import scores
        import steps
        import trainer

    quick = given.quick
    if quick:
        samples.STEPS = samples.DDPM_STEPS = scores.STEPS = 5
    given.size = "digits" if quick else "cifar10"
    sized = partial(argparse.Namespace, **{key: value for key, value in vars(given).items() if key != "rounds"})
    few = [4] if quick else [128, 512]
    return {
        "steps": {
            f"train_step {size}": partial(
                steps.main, sized(rounds=2 if quick else 7 if size == 128 else 4), size, 1 if quick else 1280 // size
            )
            for size in few
        },
        "samples": {
            **{
                f"sampling {size}": partial(
                    samples.main, sized(rounds=1 if quick else 5 if size == 64 else 3), size, all_of_them=size != 256
                )
                for size in ([2] if quick else [64, 256])
            },
            "scoring": partial(scores.main, sized(rounds=1), *((24, 2) if quick else (10_000, 500))),
        },
        "framework": {
            **{
                f"framework {size}": partial(trainer.main, sized(rounds=3 if quick else 20), size, 2 if quick else 10)
                for size in ([4] if quick else [128, 16])
            },
            **{
                f"data {size}": partial(batches.main, sized(rounds=1 if quick else 5), size, 2 if quick else 100)
                for size in few
            },
        },
    }


def run_group(group: str, given: argparse.Namespace) -> None:
    """Run the benchmarks of a group in this process; append the outcome of each to GROUP.status."""
    for name, benchmark in benchmarks(given)[group].items():
        start, outcome = time.monotonic(), "ok"
        print(f"\n## {name}\n", flush=True)
        try:
            benchmark()
        except Exception as error:  # the other benchmarks still run
            traceback.print_exc()
            outcome = f"failed: {type(error).__name__}: {(str(error).splitlines() or [''])[0][:120]}"
        gc.collect()
        if given.device == "cuda":
            torch.cuda.empty_cache()
        line = {"name": name, "outcome": outcome, "seconds": time.monotonic() - start}
        with (given.out / f"{group}.status").open("a") as file:
            file.write(json.dumps(line) + "\n")


def run(command: Sequence[str], log: Path, limit: float) -> tuple[int | None, str, float]:
    """Run a command, and copy its output to the log and the terminal.

    Returns:
        Its exit code (None if it was killed at the limit), its output, and its seconds.
    """
    start = time.monotonic()
    output: list[str] = []
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])  # for the tests' child processes
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "WANDB_MODE": "offline", "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # so that its child processes are killed with it
    )

    def kill(*_: object) -> None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    signal.signal(signal.SIGALRM, kill)
    signal.setitimer(signal.ITIMER_REAL, limit)
    assert process.stdout is not None
    try:
        with log.open("a") as file:
            for line in process.stdout:
                output.append(line)
                file.write(line)
                print(line, end="", flush=True)
        code = process.wait()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        kill()
    seconds = time.monotonic() - start
    return (None if code == -signal.SIGKILL and seconds >= limit else code), "".join(output), seconds


def correct(given: argparse.Namespace, log: Path) -> dict[str, Any]:
    """Run the tests marked gpu; outcomes before a timeout count."""
    options = ["-m", "gpu", "-v", "--tb=short", "-p", "no:cacheprovider", "--durations=8"]
    if given.device == "cpu":
        options.append("--rehearse")
    elif importlib.util.find_spec("xdist") is not None:
        options += ["-n", "6", "--dist", "worksteal"]
    chosen = ["tests/gpu/test_data.py"] if given.quick else ["tests/gpu"]
    code, output, seconds = run([sys.executable, "-m", "pytest", *options, *chosen], log, TEST_SECONDS)
    outcomes = {"PASSED": "passed", "FAILED": "failed", "ERROR": "failed", "SKIPPED": "skipped"}
    counts: dict[str, int] = dict.fromkeys(outcomes.values(), 0)
    for word in re.findall(r"(?:^\[gw\d+\] \[ *\d+%\] (\w+) tests/|^tests/\S+ (\w+) )", output, re.MULTILINE):
        name = outcomes.get(word[0] or word[1])
        if name is not None:
            counts[name] += 1
    # tests/gpu/conftest.py prints a failure when its test ends; pytest's summary repeats it, unless killed earlier
    reported = re.findall(r"^(?:FAILED|ERROR) (tests/\S+)(.*)$", output, re.MULTILINE)
    failures = [f"{test}{why}" for test, why in dict(reported).items()]
    state = "timed out" if code is None else "ok" if code == 0 else f"failed: exit {code}"
    return {"outcome": state, "seconds": seconds, **counts, "failures": failures}


def fast(given: argparse.Namespace, log: Path) -> list[dict[str, Any]]:
    """Run the benchmarks, one process per group."""
    found = []
    for group, limit in GROUPS.items():
        if given.only and group not in given.only:
            continue
        command = [sys.executable, str(Path(__file__)), f"--group={group}", f"--out={given.out}"]
        command += [f"--device={given.device}", *(["--quick"] if given.quick else [])]
        code, output, seconds = run(command, log, limit)
        status = given.out / f"{group}.status"
        done = [json.loads(line) for line in status.read_text().splitlines()] if status.is_file() else []
        status.unlink(missing_ok=True)
        found += [{"group": group, **each} for each in done]
        started = re.findall(r"^## (.+)$", output, re.MULTILINE)
        if code != 0:
            name = started[-1] if len(started) > len(done) else group
            outcome = f"timed out after {limit} s" if code is None else f"failed: exit {code}"
            took = seconds - sum(each["seconds"] for each in done)
            found.append({"group": group, "name": name, "outcome": outcome, "seconds": took})
    return found


def facts(device: str) -> dict[str, str]:
    """The hardware, versions and commit of the run."""
    found = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": _output("git", "rev-parse", "HEAD"),
    }
    if device == "cuda":
        found["gpu"] = torch.cuda.get_device_name()
        found["cuda"], found["cudnn"] = str(torch.version.cuda), str(torch.backends.cudnn.version())
        query = ("--query-gpu=driver_version", "--format=csv,noheader")
        found["driver"] = _output("nvidia-smi", *query)
    return found


def _output(*command: str) -> str:
    with suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    return "unknown"


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Format a Markdown table."""
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    return [*lines, *(f"| {' | '.join(str(cell) for cell in row)} |" for row in rows), ""]


def summarize(
    given: argparse.Namespace, tests: dict[str, Any] | None, parts: Sequence[dict[str, Any]]
) -> tuple[str, dict[str, Any]]:
    """Build the summary, as Markdown and as data."""
    import goals

    reached = goals.rows(given.out, given.device)
    machine = facts(given.device)
    lines = [", ".join(f"{key} {value}" for key, value in machine.items()), ""]
    if tests is not None:
        lines += table(
            ["tests", "passed", "failed", "skipped", "seconds"],
            [[tests["outcome"], tests["passed"], tests["failed"], tests["skipped"], f"{tests['seconds']:.0f}"]],
        )
        lines += [*(f"- {each}" for each in tests["failures"]), *([""] if tests["failures"] else [])]
    lines += table(
        ["benchmark", "outcome", "seconds"],
        [[each["name"], each["outcome"], f"{each['seconds']:.0f}"] for each in parts],
    )
    for path in sorted(given.out.glob(f"*-{given.device}.md")):
        lines += [f"### {path.stem}", "", path.read_text()]
    lines += ["### Goals on one H100", "", *table(["goal", "limit", "measured", "reached"], reached)]
    content = {"machine": machine, "tests": tests, "benchmarks": list(parts), "goals": reached}
    return "\n".join(lines), content


def main() -> None:
    """Run the kit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE.parent / "results" / "gpu", help="folder for the results")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="default: cuda")
    parser.add_argument("--quick", action="store_true", help="rehearse with tiny sizes and a few tests")
    parser.add_argument("--only", nargs="+", choices=["tests", *GROUPS], help="parts to run; default: all")
    parser.add_argument("--group", choices=list(GROUPS), help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.out = given.out.resolve()
    if given.device == "cuda" and not torch.cuda.is_available():
        print("error: --device: expected a CUDA device, found none. Use --device cpu to rehearse.", file=sys.stderr)
        sys.exit(2)
    given.out.mkdir(parents=True, exist_ok=True)
    if given.group:
        run_group(given.group, given)
        return
    stale = [] if given.only else [*given.out.glob(f"*-{given.device}.md"), *given.out.glob(f"*-{given.device}.json")]
    for path in [*given.out.glob("*.status"), *stale]:  # from an earlier run
        path.unlink()
    log = given.out / "log.txt"
    log.write_text("")
    tests = correct(given, log) if not given.only or "tests" in given.only else None
    parts = fast(given, log)
    text, content = summarize(given, tests, parts)
    (given.out / "summary.md").write_text(text)
    (given.out / "summary.json").write_text(json.dumps(content, indent=1) + "\n")
    print(f"\n{text}\n{given.out / 'summary.md'}")
    failed = [each for each in parts if each["outcome"] != "ok"]
    sys.exit(1 if failed or (tests is not None and tests["outcome"] != "ok") else 0)


if __name__ == "__main__":
    main()
