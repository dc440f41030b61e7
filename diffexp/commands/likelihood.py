"""`diffexp evaluate … metrics=bpd`: estimate bits per dimension of real images under a trained model."""

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch

from diffexp.checkpoints.load import TrainedModel, build_trained
from diffexp.config.merge import as_dict
from diffexp.config.schemas.requests import ESTIMATES, EvaluateRequest, estimate_settings
from diffexp.data.datamodule import ImageDataModule
from diffexp.errors import UserError, writing
from diffexp.evaluation.evaluator import default_out
from diffexp.formatting import markdown_table
from diffexp.system.devices import autocast, float64_device
from diffexp.system.files import atomic_write_text, check_writable, refuse_others, sha256
from diffexp.system.locks import locked
from diffexp.system.terminal import progress_bar

# The version of the estimators: values of different versions are never mixed in one evaluation.
_VERSION = 2


@dataclass
class Likelihood:
    """Estimates of bits per dimension.

    Attributes:
        about: the settings that make estimates comparable, as plain data.
        values: bits per dimension of each image so far, by the name of the estimate.
    """

    about: dict[str, Any]
    values: dict[str, list[float]]

    @property
    def done(self) -> int:
        """The number of finished images."""
        return len(next(iter(self.values.values()), []))

    def markdown(self) -> str:
        """Return the means with their standard errors, as Markdown."""
        about = self.about
        lines = [
            f"# {about['run']}, step {about['step']}, {about['weights']} weights\n",
            f"Bits per dimension of {self.done} images, {about['likelihood']['split']} split of {about['dataset']}:\n",
        ]
        rows = []
        for name, values in self.values.items():
            error = f" ± {stdev(values) / len(values) ** 0.5:.2g}" if len(values) > 1 else ""
            known = [ESTIMATES.get(name, name), estimate_settings(name, about), f"{fmean(values):.4f}{error}"]
            rows.append([*known, str(about["network_calls"][name])])
        table = markdown_table(["estimate", "settings", "bits/dim", "network calls an image"], rows)
        return "\n".join(lines) + "\n" + table


def evaluate_likelihood(trained: TrainedModel, request: EvaluateRequest) -> tuple[Likelihood, Path]:
    """Estimate bits per dimension, or resume an interrupted evaluation with its remaining images.

    Returns:
        The estimates, and the folder with likelihood.json and likelihood.md.

    Raises:
        UserError: for a model without likelihood, or unsuitable data or folder.
    """
    experiment = trained.experiment
    model = build_trained(trained, request.weights, request.accelerator)
    model.to(float64_device(model.device))  # densities are computed in float64
    wanted = model.resolved_likelihood(request.likelihood)
    images = ImageDataModule.from_config(experiment.data, 1, 0).images(wanted.split)
    if images.image_shape != model.image_shape:
        raise UserError(
            f"data: expected images of the model's shape {model.image_shape}, got {images.image_shape}. Give the "
            "data that it was trained on."
        )
    count = min(request.count, len(images))
    chosen = torch.arange(count) * len(images) // count
    calls = model.likelihood_calls(wanted)
    about = {
        "version": _VERSION,
        "run": trained.name,
        "checkpoint": sha256(trained.path),
        "step": trained.step,
        "weights": request.weights,
        "count": count,
        "seed": request.seed,
        "dataset": experiment.data.name,
        "likelihood": as_dict(wanted),
        "network_calls": calls,
    }
    folder = Path(request.out) if request.out is not None else default_out(trained, "bpd", about)
    check_writable(folder, "out")
    # bfloat16 is too inaccurate for densities
    precision = "32-true" if request.precision == "auto" else request.precision
    if precision == "bf16-true":
        raise UserError(
            "precision: expected 32-true, bf16-mixed or 16-mixed with metrics=bpd, got bf16-true. Use 32-true."
        )
    with locked(folder, "out"):
        found = _earlier(folder, about)
        starts = range(found.done, count, request.batch_size)
        with (
            autocast(precision, model.device),
            progress_bar("bits/dim", len(starts) * sum(calls.values()), "call", delay=1) as bar,
        ):
            for start in starts:
                mine = chosen[start : start + request.batch_size]
                batch = images.fetch(mine).to(model.device)
                for name, bits in model.bits_per_dim(batch, mine.tolist(), request.seed, wanted, bar.update).items():
                    found.values.setdefault(name, []).extend(bits.tolist())
                _write(found, folder)
    return found, folder


def _earlier(folder: Path, about: dict[str, Any]) -> Likelihood:
    """Read the estimates of an interrupted evaluation in the folder; no values if there is none.

    Raises:
        UserError: if the folder holds another evaluation, or its file is damaged.
    """
    path = folder / "likelihood.json"
    if not path.is_file():
        refuse_others(folder, "likelihood.md")
        return Likelihood(about, {})
    try:
        before = json.loads(path.read_text())
        same, values = before["about"] == json.loads(json.dumps(about)), dict(before["values"])
        if len({len(each) for each in values.values()}) > 1:
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: expected an earlier evaluation, got a damaged file. Remove both files likelihood.* in {folder} "
            "to start from scratch."
        ) from error
    if not same:
        raise UserError(f"out: expected a folder without another evaluation, got {folder}. Give another out.")
    return Likelihood(about, values)


def _write(found: Likelihood, folder: Path) -> None:
    with writing(f"out: {folder}"):
        atomic_write_text(folder / "likelihood.json", json.dumps({"about": found.about, "values": found.values}) + "\n")
        atomic_write_text(folder / "likelihood.md", found.markdown())
