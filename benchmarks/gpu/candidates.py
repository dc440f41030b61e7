"""Measuring candidates of a benchmark, some of which may fail: a failure becomes a row with its reason."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from measuring import alternate

Run = Callable[[], object]
Makers = Mapping[str, Callable[[], Run]]


@dataclass
class Measured:
    """Measurements of candidates.

    Attributes:
        seconds: seconds of each candidate in each round.
        bases: for each candidate, the seconds of the base in the same rounds.
        missing: for each candidate that failed, the reason.
        memory: peak bytes of each candidate in its build and first run, on a GPU only.
    """

    seconds: dict[str, list[float]] = field(default_factory=dict)
    bases: dict[str, list[float]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)

    def missing_rows(self, columns: int) -> list[list[str]]:
        """A row for each candidate that failed."""
        return [[name, why, *[""] * (columns - 2)] for name, why in self.missing.items()]


def measure(
    makers: Makers,
    late: Makers,
    base: str,
    rounds: int,
    device: torch.device,
    write: Callable[[Measured], object],
) -> None:
    """Measure candidates in alternation, then those that take minutes to build, in alternation with the base.

    Args:
        makers: functions, by name, that build a candidate; the function they return is timed.
        late: the same for candidates that are compiled.
        base: name of the candidate that the others are compared with.
        rounds: measurements of each candidate.
        device: where the candidates run.
        write: receives all measurements so far after every round, to save them.
    """
    measured = Measured()
    runs: dict[str, Run] = {}
    for group in (makers, late):
        here = {name: run for name, run in runs.items() if name == base}
        for name, make in group.items():
            run = _built(name, make, device, measured)
            if run is not None:
                here[name] = runs[name] = run

        def keep(seconds: dict[str, list[float]]) -> None:
            for name, took in seconds.items():
                if name != base or base not in measured.seconds:
                    measured.seconds[name] = took
                    measured.bases[name] = seconds.get(base, [])
            write(measured)

        if set(here) - {base} or (here and group is makers):
            alternate(here, rounds, device, keep)
        elif measured.missing:
            write(measured)  # with the reasons


def _built(name: str, make: Callable[[], Run], device: torch.device, measured: Measured) -> Run | None:
    """Build a candidate and run it once; return None, and record the reason, if that fails."""
    missing, on_gpu = measured.missing, device.type == "cuda"
    before = torch.cuda.memory_allocated(device) if on_gpu else 0
    try:
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(device)
        run = make()
        run()
        if on_gpu:
            torch.cuda.synchronize(device)
            measured.memory[name] = torch.cuda.max_memory_allocated(device) - before
    except ImportError as error:
        missing[name] = f"not installed: {error.name}"
    except torch.OutOfMemoryError:
        missing[name] = "out of memory"
        torch.cuda.empty_cache()
    except Exception as error:  # any failure: the others are still measured
        missing[name] = f"failed: {type(error).__name__}: {(str(error).splitlines() or [''])[0][:80]}"
    else:
        print(f"{name}: ready", flush=True)
        return run
    print(f"{name}: {missing[name]}", flush=True)
    return None
