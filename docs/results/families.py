"""Writes what docs/results/families.md shows of a sweep over families: a table, and a picture of samples.

    python docs/results/families.py SWEEP PICTURE

SWEEP is the directory of `diffexp sweep run families` (or families_fashion_mnist), after, for each of its trials,
`diffexp evaluate TRIAL metrics=bpd likelihood.ode_steps=null`.
"""

import json
import sys
from pathlib import Path
from statistics import fmean, stdev

import torch
from PIL import Image, ImageDraw

from diffexp.callbacks.grids import grid
from diffexp.models.base import as_pixels
from diffexp.trained import build_trained, load_trained

SAMPLES = 24


def row(run: Path) -> tuple[float, list[str]]:
    """(distance, cells) of a trial."""
    model = next((run / "checkpoints").glob("*.ckpt"))
    del model
    scores = json.loads(sorted((run / "scores").glob("step-*.json"))[-1].read_text())
    (scored,) = scores["scores"].values()
    status = json.loads((run / "status.json").read_text())
    distance = scored["scores"]["fd"]
    bits = "–"
    for file in run.glob("evaluations/*/likelihood.json"):
        found = json.loads(file.read_text())
        ((name, values),) = found["values"].items()
        bits = f"{fmean(values):.2f} ± {stdev(values) / len(values) ** 0.5:.2f} ({name})"
    training = status["seconds"] - scored["seconds"]
    return distance["value"], [
        run.name.split("_", 1)[1] if "digits" in run.name else run.name.split("mnist_")[1],
        f"{distance['value']:.3g} ± {distance['error']:.2g}",
        f"{scored['scores']['precision']:.2f} / {scored['scores']['recall']:.2f}",
        bits,
        f"{status['steps']:,}",
        f"{training:.0f}",
        f"{1000 * scored['seconds'] / scored['scores']['count']:.2g}",
        str(scored["network_calls"]),
    ]


def samples(run: Path) -> Image.Image:
    """A row of samples, from the averaged weights."""
    trained = load_trained(run)
    model = build_trained(trained, "ema", "cpu")
    variant = next(iter(trained.experiment.model.usual_variants().values()))
    return grid(as_pixels(model.sample(variant, range(SAMPLES), 0)), columns=SAMPLES)


def main() -> None:
    """Print the table, and write the picture."""
    sweep, picture = Path(sys.argv[1]), Path(sys.argv[2])
    runs = sorted(each.parent for each in (sweep / "trials").glob("*/checkpoints"))
    found = sorted((row(run) for run in runs), key=lambda each: each[0])
    head = ["family", "distance", "precision / recall", "bits/dim", "steps", "s of training", "ms a sample", "calls"]
    lines = ["| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *(cells for _, cells in found)]]
    print("\n".join(lines))
    torch.manual_seed(0)
    strips = {row(run)[1][0]: samples(run) for run in runs}
    label = 110
    height = sum(each.height + 6 for each in strips.values())
    sheet = Image.new("RGB", (label + max(each.width for each in strips.values()), height), "white")
    place = 0
    for name, strip in strips.items():
        ImageDraw.Draw(sheet).text((4, place + strip.height // 2 - 5), name.replace("_", " "), fill="black")
        sheet.paste(strip, (label, place))
        place += strip.height + 6
    sheet.save(picture)


if __name__ == "__main__":
    main()
