"""Print the tables of docs/results/families.md and draw its picture.

    python docs/results/families_page.py DATA FOLDER PICTURE

FOLDER holds the output of families.py and histograms.py for DATA (digits or fashion_mnist).
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

# How each family's bits per dimension are estimated, if not exactly.
ESTIMATES = {"diffusion": "bound", "vae": "bound", "flow": "dequantised"}
LABEL = 128  # pixels


def found(data: str, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The results of the families and of the baselines, each by name."""
    files = {file.stem.removeprefix(f"{data}_"): json.loads(file.read_text()) for file in folder.glob(f"{data}_*.json")}
    return files, files.pop("baselines")


def print_table(head: Sequence[str], rows: Sequence[tuple[float, Sequence[str]]]) -> None:
    """Print a Markdown table, sorted by the number of each row."""
    for cells in (head, ["---"] * len(head), *(cells for _, cells in sorted(rows))):
        print("| " + " | ".join(cells) + " |")
    print()


def with_error(value: dict[str, float], digits: str = ".2f") -> str:
    """A mean and its standard error."""
    return f"{value['mean']:{digits}} ± {value['error']:{digits}}"


def print_likelihoods(families: dict[str, Any], baselines: dict[str, Any]) -> None:
    """Print bits per dimension of test images, at the step that held-out images choose and at the last step."""
    rows = [
        (bits["mean"], [name, with_error(bits), ESTIMATES.get(name, "exact"), f"{bits['step']:,}", with_error(last)])
        for name, each in families.items()
        if (bits := each.get("likelihood")) and (last := each["likelihood_at_the_end"])
    ]
    for name, each in baselines.items():
        kind = f"{each['components']} components, " if each["components"] > 1 else ""
        cells = [f"{name} ({kind}smoothing {each['smoothing']:g})", with_error(each["bits"]), "exact", "–", "–"]
        rows.append((each["bits"]["mean"], cells))
    print_table(["model", "bits/dim", "estimate", "at step", "after the last step"], rows)


def print_samples(families: dict[str, Any], baselines: dict[str, Any]) -> None:
    """Print the scores of samples at the step that the distance to held-out images chooses."""
    rows = []
    for name, each in [*families.items(), *baselines.items()]:
        scores, is_family = each["samples"], "tried" in each
        cells = [
            name,
            f"{scores['fd']['value']:.3g} ± {scores['fd']['error']:.2g}",
            f"{scores['precision']['value']:.2f} / {scores['recall']['value']:.2f}",
            f"{scores['step']:,} of {each['steps']:,}" if is_family else "–",
            f"{scores['milliseconds']:.2g}" if is_family else "–",
            f"{scores['network_calls']}" if is_family else "–",
        ]
        rows.append((scores["fd"]["value"], cells))
    print_table(["model", "distance", "precision / recall", "at step", "ms a sample", "network calls"], rows)
    print(f"A perfect generator would have about {scores['fd']['expected']:.2g}.\n")


def print_choices(families: dict[str, Any], baselines: dict[str, Any]) -> None:
    """Print the held-out bits and distances at each step, and the seconds of training and choosing."""
    steps = sorted({tried["step"] for each in families.values() for tried in each["tried"]})
    for what, digits in (("bits", ".2f"), ("distance", ".3g")):
        rows: list[tuple[float, list[str]]] = []
        for name, each in families.items():
            at = {tried["step"]: tried[what] for tried in each["tried"]}
            if at[each["steps"]] is not None:
                cells = [f"{at[step]:{digits}}" if step in at else "" for step in steps]
                rows.append((min(at.values()), [name, *cells]))
        print_table([f"held-out {what}, step", *(f"{step:,}" for step in steps)], rows)
    rows = [
        (0, [name, f"{each['passes']:.0f}", f"{each['seconds']['training']:.0f}", f"{each['seconds']['choosing']:.0f}"])
        for name, each in families.items()
    ]
    rows += [(1, [name, "–", f"{each['seconds']:.0f}", "–"]) for name, each in baselines.items()]
    print_table(["model", "passes over the images", "seconds of training", "seconds of choosing"], rows)


def draw(data: str, names: Sequence[str], folder: Path, picture: Path) -> None:
    """Save a picture with one row of images per model."""
    strips = {name: Image.open(folder / f"{data}_{name.replace(' ', '_')}.png") for name in names}
    width, height = (max(getattr(each, side) for each in strips.values()) for side in ("width", "height"))
    sheet = Image.new("RGB", (LABEL + width, len(strips) * (height + 4)), "white")
    for number, (name, strip) in enumerate(strips.items()):
        top = number * (height + 4)
        ImageDraw.Draw(sheet).text((4, top + height // 2 - 5), name.replace("_", " "), fill="black")
        sheet.paste(strip, (LABEL, top))
    sheet.save(picture)


def main() -> None:
    """Print the tables and draw the picture."""
    data, folder, picture = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    families, baselines = found(data, folder)
    print_likelihoods(families, baselines)
    print_samples(families, baselines)
    print_choices(families, baselines)
    ranked = sorted({**families, **baselines}.items(), key=lambda each: each[1]["samples"]["fd"]["value"])
    draw(data, [name for name, _ in ranked], folder, picture)


if __name__ == "__main__":
    main()
