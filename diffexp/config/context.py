"""Values of an experiment that checks of its other parts need."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Context:
    """Values of an experiment for `Component.problems` and similar checks. The defaults mean no experiment.

    Attributes:
        image_size: height and width of the images in pixels.
        channels: channels of the images.
        network_size: height of the network's input, which is that of the latents for a model with latents.
        split_sizes: number of images of each split of the dataset, where it is known.
        data_classes: number of classes of the dataset; None if it is unknown.
        ema: whether the weights are averaged.
        model: name of the model.
        sampler_base: base class of the configs of the model's samplers.
        bounded: whether the model's samplers work on values in [-1, 1].
        timesteps: T; None for a model without timesteps.
        zero_terminal_snr: whether the noise schedule ends in pure noise.
        prediction: target of the network; None for a model that predicts no noise.
        learned_variance: whether the network learns the variance of the steps.
        classes: number of classes; None for a model without labels.
        class_dropout_prob: fraction of the images whose label training withholds; None for a model without labels.
    """

    image_size: int = 0
    channels: int = 0
    network_size: int = 0
    split_sizes: Mapping[str, int] = field(default_factory=dict)
    data_classes: int | None = None
    ema: bool = False
    model: str = ""
    sampler_base: type = object
    bounded: bool = True
    timesteps: int | None = None
    zero_terminal_snr: bool = False
    prediction: str | None = None
    learned_variance: bool = False
    classes: int | None = None
    class_dropout_prob: float | None = None
