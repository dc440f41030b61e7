"""Describe a training before it starts: its images, its model, and its steps."""

from collections.abc import Sequence

from diffexp.commands.resume import ResumePoint
from diffexp.commands.trainer import seconds_a_step
from diffexp.config.schemas.experiment import Experiment
from diffexp.data.datamodule import ImageDataModule
from diffexp.data.images import ImageSet
from diffexp.errors import UserError
from diffexp.formatting import duration, listed, printable
from diffexp.models.base import GenerativeModel
from diffexp.models.build import build_training_model, check_images
from diffexp.runs.directory import Run
from diffexp.system.devices import device_for, precision_for
from diffexp.system.terminal import say

Lines = list[tuple[str, str]]

_NO_TIME = "estimated after the first steps"


def check_data(experiment: Experiment) -> str:
    """Load the training images and build the model as a training does, describe both, and measure some steps.

    The steps of a training on several devices, or on a device that this machine lacks, are not measured.

    Raises:
        UserError: for data or a model that a training would refuse.
    """
    settings = experiment.training
    model = build_training_model(experiment)
    data = ImageDataModule.from_config(experiment.data, settings.batch_size, experiment.seed)
    images = data.images("train")
    check_images(images, model)
    count = settings.devices * settings.num_nodes
    try:
        device = device_for(settings.accelerator)
    except UserError:  # the training is meant for another machine
        precision, accelerator, time = str(settings.precision), str(settings.accelerator), _NO_TIME
    else:
        precision, accelerator, time = precision_for(settings.precision, device), device.type, _NO_TIME
        if count == 1:
            time = _measured(experiment, precision, model, data)
    return block(
        [
            *data_lines(experiment, images),
            *model_lines(model, precision, f"{count} × {accelerator}"),
            *step_lines(experiment, images, 0),
            ("time", time),
        ]
    )


def _measured(experiment: Experiment, precision: str, model: GenerativeModel, data: ImageDataModule) -> str:
    seconds = seconds_a_step(experiment, precision, model, data)
    if seconds is None:
        return "too few steps for an estimate"
    return f"about {duration(seconds * experiment.training.max_steps)}, without grids and scores"


def print_overview(
    experiment: Experiment,
    run: Run,
    images: ImageSet,
    model: GenerativeModel,
    precision: str,
    start: ResumePoint | None,
) -> None:
    """Print what a training starts with, and from where.

    Args:
        experiment: the experiment.
        run: its directory.
        images: the training images.
        model: the model.
        precision: one of Lightning's precisions.
        start: the checkpoint that the run resumes from, or None.
    """
    settings = experiment.training
    device = f"{settings.devices * settings.num_nodes} × {device_for(settings.accelerator).type}"
    lines = [
        *data_lines(experiment, images),
        *model_lines(model, precision, device),
        *step_lines(experiment, images, 0 if start is None else start.step),
        ("time", _NO_TIME),
    ]
    action = "training from the start" if start is None else f"resuming from {start.path}"
    say(f"{run.path}: {action}\n{block(lines)}")


def block(lines: Lines) -> str:
    """Return lines of a name and a text, aligned."""
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"  {name:<{width}}  {printable(text)}" for name, text in lines)


def data_lines(experiment: Experiment, images: ImageSet) -> Lines:
    """Describe the training images: their number, classes and sizes, and what was skipped."""
    data, origin, names = experiment.data, images.origin, images.class_names
    held_out = f", and {data.held_out:,} more that are held out" if data.held_out else ""
    classes = "none" if names is None else f"{len(names)} ({listed(names)})"
    if names is not None and getattr(experiment.model, "classes", None) is None:
        classes += ", which the model does not use"
    return [
        ("images", f"{len(images):,} of {data.name}{held_out}"),
        ("classes", classes),
        ("size", _sizes(origin.smallest, origin.largest, images.image_shape)),
        *_skipped({reason: list(files) for reason, files in origin.skipped.items()}),
    ]


def model_lines(model: GenerativeModel, precision: str, device: str) -> Lines:
    """Describe the model and what it is trained on."""
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return [("parameters", f"{trained:,}"), ("precision", precision), ("device", device)]


def step_lines(experiment: Experiment, images: ImageSet, done: int) -> Lines:
    """Describe the steps of a training, of which some may be done."""
    settings = experiment.training
    parts = [
        (settings.num_nodes, "nodes"),
        (settings.devices, "devices"),
        (settings.accumulate_grad_batches, "accumulated batches"),
    ]
    factors = [f"{count} {name}" for count, name in parts if count > 1]
    each = settings.batch_size // (settings.num_nodes * settings.devices * settings.accumulate_grad_batches)
    split = f" ({' × '.join([*factors, f'{each} images'])})" if factors else ""
    steps = f"{settings.max_steps:,}" if not done else f"{settings.max_steps - done:,} left of {settings.max_steps:,}"
    passes = settings.max_steps * settings.batch_size / len(images)
    amount = f"{passes:,.0f}" if passes > 100 else f"{passes:.3g}"
    return [
        ("steps", f"{steps}; together {amount} passes over the images"),
        ("batch", f"{settings.batch_size:,} images a step{split}"),
    ]


def _sizes(smallest: tuple[int, int], largest: tuple[int, int], image_shape: tuple[int, int, int]) -> str:
    channels, height, width = image_shape
    before = " to ".join(dict.fromkeys(f"{size[0]}×{size[1]}" for size in (smallest, largest)))
    after = f"{width}×{height}"
    changed = "as they are" if before == after else f"converted to {after}"
    return f"{before} pixels, {changed}, {'grey' if channels == 1 else 'RGB'}"


def _skipped(skipped: dict[str, Sequence[str]]) -> Lines:
    if not skipped:
        return [("skipped", "no files")]
    names = ["skipped", *[""] * (len(skipped) - 1)]
    texts = [
        f"{len(files):,} file{'s' * (len(files) > 1)}: {reason} ({listed(files)})" for reason, files in skipped.items()
    ]
    return list(zip(names, texts, strict=True))
