"""Candidates of a benchmark: what cannot run here becomes a row that says why, and does not stop the others."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from measuring import alternate

Run = Callable[[], object]
Makers = Mapping[str, Callable[[], Run]]


@dataclass
class Measured:
    """What has been measured of candidates.

    Attributes:
        seconds: of each candidate in each round.
        bases: of each, those of the base in the same rounds.
        missing: why the rest could not be measured.
        memory: bytes that each took at most in its first run, all that it keeps included; none on a CPU.
    """

    seconds: dict[str, list[float]] = field(default_factory=dict)
    bases: dict[str, list[float]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)

    def missing_rows(self, columns: int) -> list[list[str]]:
        """The rows of what could not be measured."""
        return [[name, why, *[""] * (columns - 2)] for name, why in self.missing.items()]


def measure(
    makers: Makers,
    late: Makers,
    base: str,
    rounds: int,
    device: torch.device,
    write: Callable[[Measured], object],
) -> None:
    """Measure candidates in alternation, then those that take minutes to build in alternation with the base.

    Args:
        makers: by name, what builds a candidate; what it returns is timed.
        late: the same, of those that are compiled.
        base: the name of the candidate that the others are compared with.
        rounds: measurements of each.
        device: where they run.
        write: gets what has been measured so far after every round, to keep it.
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
    """The candidate, after a first run; None if there can be none."""
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
    except Exception as error:  # whatever it is, the others are measured
        missing[name] = f"failed: {type(error).__name__}: {(str(error).splitlines() or [''])[0][:80]}"
    else:
        print(f"{name}: ready", flush=True)
        return run
    print(f"{name}: {missing[name]}", flush=True)
    return None
