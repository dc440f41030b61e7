"""The files of a plan: plan.json, and one for each extension (plan-0001.json, …). They never change."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from diffexp.config.trial import Trial
from diffexp.errors import UserError
from diffexp.sweeps.cost import cost_of
from diffexp.sweeps.resolve import Resolved

PLAN = "plan.json"
FORMAT = 2  # of these files; diffexp 0.1 wrote none and had other key names


def extension_file(folder: Path, number: int) -> Path:
    """Return the path of an extension, counted from 1."""
    return folder / f"plan-{number:04d}.json"


def trials_content(
    trials: Sequence[Trial], resolved: Sequence[Resolved], sweep_id: str, start: int, unknown: int
) -> dict[str, Any]:
    """Return what a plan or an extension records about its trials.

    Args:
        trials: those whose parameters are known.
        resolved: their configs, or typical ones if they are not known yet.
        sweep_id: the sweep's id.
        start: the index of the first trial.
        unknown: the number of trials whose parameters a search will choose.
    """
    works = [cost_of(each) for each in resolved]
    if unknown:
        works = [max(works, key=lambda work: work.passes)] * unknown
    return {
        "count": len(trials) + unknown,
        "devices": sorted({each.devices for each in resolved}),
        "nodes": sorted({each.nodes for each in resolved}),
        "work": {
            "training": sum(work.training for work in works),
            "sampling": sum(work.sampling for work in works),
            "longest": max(work.passes for work in works),
        },
        "trials": [
            {
                "index": index,
                "name": trial.name,
                "parameters": trial.parameters,
                "config": configs.digest,
                "run_id": f"{sweep_id}{index:04d}",
            }
            for index, (trial, configs) in enumerate(zip(trials, resolved if trials else [], strict=True), start)
        ],
    }


def read_extensions(folder: Path, plan: dict[str, Any]) -> list[dict[str, Any]]:
    """Read the extensions of a plan, in order.

    Raises:
        UserError: if one is missing or damaged.
    """
    found: list[dict[str, Any]] = []
    count = plan["count"]
    while (file := extension_file(folder, len(found) + 1)).exists():
        extension = _read_extension(file, plan, count)
        count += extension["count"]
        found.append(extension)
    last = max((each.name for each in folder.glob("plan-[0-9]*.json")), default="")
    if last > extension_file(folder, len(found)).name:
        raise UserError(f"{file}: expected this extension of the plan, as there is {last}, got none. Restore it.")
    return found


def _read_extension(file: Path, plan: dict[str, Any], start: int) -> dict[str, Any]:
    try:
        extension: dict[str, Any] = json.loads(file.read_text())
        indices = [trial["index"] for trial in extension["trials"]]
        known = range(start, start + extension["count"]) if plan["trials"] else range(0)
        is_sound = extension["id"] == plan["id"] and extension["start"] == start and indices == list(known)
        joined(plan, [extension])  # raises unless it has all keys
        problem = None if is_sound else "not of this plan"
    except (OSError, ValueError, KeyError, TypeError) as error:
        problem = type(error).__name__
    if problem is not None:
        raise UserError(
            f"{file} is damaged ({problem}). Restore it; if none of its trials has started, remove it instead."
        )
    return extension


def joined(plan: dict[str, Any], extensions: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return a plan with the trials of its extensions, and the sweep of the last one."""
    for each in extensions:
        plan = {
            **plan,
            "sweep": each["sweep"],
            "count": plan["count"] + each["count"],
            "trials": [*plan["trials"], *each["trials"]],
            "work": {
                **{key: plan["work"][key] + each["work"][key] for key in ("training", "sampling")},
                "longest": max(plan["work"]["longest"], each["work"]["longest"]),
            },
            **{key: sorted({*plan[key], *each[key]}) for key in ("devices", "nodes")},
        }
    return plan
