"""Prints the table of docs/results/families.md, and draws its picture.

    python docs/results/families.py PICTURE RUN…

The runs are the trials of `diffexp sweep run families` or families_fashion_mnist, after `diffexp evaluate RUN
metrics=bpd likelihood.ode_steps=null` of those that have a likelihood. Beside them stands what a perfect generator
would have, and what independent pixels have, each normal with the mean and spread that it has in the training images.
"""

import json
import re
import sys
from pathlib import Path
from statistics import fmean, stdev

import torch
from PIL import Image, ImageDraw

from diffexp.callbacks.grids import grid
from diffexp.config import load_evaluate_request
from diffexp.data.datamodule import ImageDataModule
from diffexp.evaluating import prepare
from diffexp.evaluation.gathering import Gathering
from diffexp.evaluation.scores import Scores, measure
from diffexp.models.base import as_pixels
from diffexp.trained import build_trained, load_trained

SAMPLES = 20
LABEL = 104  # pixels


def family(run: Path) -> str:
    """As its config is called: "pixel_rnn"."""
    return re.sub(r".*(digits|fashion_mnist)_|-\d+$", "", run.name)


def bits(run: Path) -> str:
    """Bits per dimension, with the standard error and the kind of estimate."""
    for file in run.glob("evaluations/*/likelihood.json"):
        ((name, values),) = json.loads(file.read_text())["values"].items()
        return f"{fmean(values):.2f} ± {stdev(values) / len(values) ** 0.5:.2f} ({name})"
    return "–"


def row(run: Path) -> tuple[float, list[str]]:
    """(distance, cells) of a run."""
    (scored,) = json.loads(sorted((run / "scores").glob("step-*.json"))[-1].read_text())["scores"].values()
    scores, seconds = scored["scores"], scored["seconds"]
    step = json.loads((run / "status.json").read_text())["step"]
    return scores["fd"]["value"], [
        family(run),
        f"{scores['fd']['value']:.3g} ± {scores['fd']['error']:.2g}",
        f"{scores['precision']:.2f} / {scores['recall']:.2f}",
        bits(run),
        f"{step:,}",
        f"{1000 * seconds / scores['count']:.2g}",
        str(scored["network_calls"]),
    ]


def independent_pixels(run: Path) -> Scores:
    """Scores of as many images of independent pixels as the run's own score takes, by its extractor."""
    trained = load_trained(run)
    bench = prepare(trained, load_evaluate_request(None, [], trained.experiment))
    real = ImageDataModule.from_config(trained.experiment.data, 1, 0).images("train")
    pixels = real.fetch(torch.arange(len(real))).float()
    assert trained.experiment.score is not None
    count = trained.experiment.score.count
    noise = torch.randn(count, *real.image_shape, generator=torch.Generator().manual_seed(0))
    drawn = (pixels.mean(0) + pixels.std(0) * noise).round().clamp(0, 255).to(torch.uint8)
    gathering = Gathering(count, bench.extractor.dim, bench.extractor.classes, bench.extractor.device)
    gathering.add(bench.extractor(drawn), 0)
    return measure(gathering.result(), bench.compared)


def samples(run: Path) -> Image.Image:
    """Images 0, 1, … of the averaged weights in a row."""
    trained = load_trained(run)
    model = build_trained(trained, "ema", "cpu")
    variant = next(iter(trained.experiment.model.usual_variants().values()))
    return grid(as_pixels(model.sample(variant, range(SAMPLES), 0)), columns=SAMPLES)


def main() -> None:
    """Print and draw, the lowest distance first."""
    runs = sorted(map(Path, sys.argv[2:]), key=lambda run: row(run)[0])
    head = ["family", "distance", "precision / recall", "bits/dim", "steps", "ms a sample", "network calls"]
    for cells in (head, ["---"] * len(head), *(row(run)[1] for run in runs)):
        print("| " + " | ".join(cells) + " |")
    pixels = independent_pixels(runs[0])
    print(f"\nA perfect generator would have about {pixels.floor:.2g}; independent pixels have {pixels.fd.value:.3g}.")
    strips = {family(run).replace("_", " "): samples(run) for run in runs}
    width, height = (max(getattr(each, side) for each in strips.values()) for side in ("width", "height"))
    sheet = Image.new("RGB", (LABEL + width, len(strips) * (height + 4)), "white")
    for number, (name, strip) in enumerate(strips.items()):
        top = number * (height + 4)
        ImageDraw.Draw(sheet).text((4, top + height // 2 - 5), name, fill="black")
        sheet.paste(strip, (LABEL, top))
    sheet.save(sys.argv[1])


if __name__ == "__main__":
    main()
