"""Train one family of docs/results/families.md and measure it at its best steps on held-out images.

    python docs/results/families.py CONFIG FOLDER [KEY=VALUE …]

CONFIG is one of configs/families, such as "digits_flow". The run keeps a checkpoint every 100 steps. At those in STEPS
and at the last one, two measures choose a step each: bits per dimension of held-out images, and the distance of samples
to these images. The test images are evaluated only after that. The results are written to FOLDER/CONFIG.json and
FOLDER/CONFIG.png, for families_page.py. Repeat the command to continue after an interruption.
"""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from diffexp.checkpoints.load import TrainedModel, build_trained, load_trained
from diffexp.commands.likelihood import evaluate_likelihood
from diffexp.commands.locate import resume_run
from diffexp.commands.train import train_run
from diffexp.config.load import load_evaluate_request, load_experiment
from diffexp.config.schemas.samplers import SamplerConfig
from diffexp.data.datamodule import ImageDataModule
from diffexp.data.grids import grid
from diffexp.evaluation.evaluator import Evaluator
from diffexp.evaluation.sample_scores import score_samples
from diffexp.models.base import as_pixels
from diffexp.runs.directory import Run
from diffexp.system.devices import autocast

STEPS = {
    "digits": (100, 200, 300, 400, 600, 800, 1200, 1600, 2400, 3200),
    "fashion_mnist": (400, 800, 1600, 3200),  # the longest training is 4.9 passes over its images
}
TERMS = {"digits": 100, "fashion_mnist": 50}  # of the variational bound, per image
COUNTS = {"held_out": 160, "test": 180}  # images whose bits are computed; the digits hold out 160
CHOOSING, SAMPLES = 500, 1000  # samples: for the choice of a step, and for the table
NO_LIKELIHOOD = ("gan", "latent_diffusion")
PICTURE = 20  # images in the picture


def trained_to_the_end(config: str, folder: Path, overrides: Sequence[str]) -> tuple[Path, float]:
    """Start or resume a training; return the run's directory and the seconds of training."""
    keep = ["checkpoint.every=100", "checkpoint.keep=null", "loggers=[csv]", "sample_grid=null", "score=null"]
    experiment = load_experiment(f"families/{config}", [*keep, f"run_dir={folder / config}", *overrides])
    run = resume_run(Path(f"families/{config}"), experiment)
    train_run(experiment, run, [])
    return run.path, json.loads(run.status.read_text())["seconds"]


def bits(trained: TrainedModel, split: str) -> dict[str, float] | None:
    """Bits per dimension with their standard error; None for a model without a likelihood."""
    if trained.experiment.model.name in NO_LIKELIHOOD:
        return None
    keys = ["metrics=bpd", f"likelihood.split={split}", f"count={COUNTS[split]}", "likelihood.ode_steps=null"]
    keys.append(f"likelihood.terms={TERMS[trained.experiment.data.name]}")
    found, _ = evaluate_likelihood(trained, load_evaluate_request(None, keys, trained.experiment))
    ((_, values),) = found.values.items()
    return {"mean": fmean(values), "error": stdev(values) / len(values) ** 0.5}


def usual_sampler(trained: TrainedModel) -> SamplerConfig:
    """The first default sampler of the family; DDIM-50 for a diffusion."""
    return next(iter(trained.experiment.model.default_samplers().values()))


def scores(trained: TrainedModel, split: str, count: int) -> dict[str, Any]:
    """Score the first `count` samples against all images of a split; add ms and network calls per sample."""
    extractor = "digits_v1" if trained.experiment.data.name == "digits" else "fashion_mnist_v1"
    keys = [f"reference.split={split}", f"count={count}", f"extractor.name={extractor}"]
    evaluator = Evaluator.prepare(trained, load_evaluate_request(None, keys, trained.experiment))
    with autocast(evaluator.precision, evaluator.model.device):
        sampled = score_samples(evaluator.model, usual_sampler(trained), evaluator.metrics, range(count), 0, 256)
    milliseconds = 1000 * sampled.seconds / count
    return {**sampled.scores.as_dict(), "milliseconds": milliseconds, "network_calls": sampled.network_calls}


def study(config: str, folder: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """Train a family, choose its steps on held-out images, and measure it at these steps."""
    first, autoencoder_seconds = [], 0.0
    if config.endswith("latent_diffusion"):
        autoencoder = config.replace("latent_diffusion", "autoencoder")
        path, autoencoder_seconds = trained_to_the_end(autoencoder, folder, overrides)
        first = [f"model.autoencoder={path}"]
    run, seconds = trained_to_the_end(config, folder, [*overrides, *first])

    def at(step: int) -> TrainedModel:
        return load_trained(Run(run).checkpoints / f"step-{step:08d}.ckpt")

    start = time.perf_counter()
    experiment = load_trained(run).experiment
    last = experiment.training.max_steps
    tried = []
    for step in [*(step for step in STEPS[experiment.data.name] if step < last), last]:
        held_out = bits(at(step), "held_out")
        distance = scores(at(step), "held_out", CHOOSING)["fd"]["value"]
        tried.append({"step": step, "bits": held_out and held_out["mean"], "distance": distance})
        print(tried[-1], flush=True)
    choosing = time.perf_counter() - start
    by_distance = min(tried, key=lambda each: each["distance"])["step"]
    found = {
        "data": experiment.data.name,
        "steps": last,
        "passes": last * experiment.training.batch_size / len(images_of(at(last))),
        "tried": tried,
        "seconds": {"training": autoencoder_seconds + seconds, "choosing": choosing},
        "samples": {"step": by_distance, **scores(at(by_distance), "train", SAMPLES)},
    }
    if experiment.model.name not in NO_LIKELIHOOD:
        by_bits = min(tried, key=lambda each: each["bits"])["step"]
        found["likelihood"] = {"step": by_bits, **(bits(at(by_bits), "test") or {})}
        found["likelihood_at_the_end"] = {"step": last, **(bits(at(last), "test") or {})}
    draw(at(by_distance), folder / f"{config}.png")
    return found


def images_of(trained: TrainedModel) -> Any:
    """The images of the train split."""
    return ImageDataModule.from_config(trained.experiment.data, 1, 0).images("train")


def draw(trained: TrainedModel, file: Path) -> None:
    """Save images 0, 1, … of the averaged weights in one row."""
    model = build_trained(trained, "ema", trained.experiment.training.accelerator)
    grid(as_pixels(model.sample(usual_sampler(trained), range(PICTURE), 0)).cpu(), columns=PICTURE).save(file)


def main() -> None:
    """Study one family and write its results."""
    config, folder, *overrides = sys.argv[1:]
    found = study(config, Path(folder).resolve(), overrides)
    (Path(folder) / f"{config}.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
