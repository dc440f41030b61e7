"""What checks of one part of a config need to know of its other parts."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Context:
    """Plain values of an experiment, for `Component.problems` and its like; the defaults are those of no experiment.

    Attributes:
        image_size: height and width of the images.
        network_size: height of what the network gets: of latents, if the model has such.
        held_out: images of the train split that training never uses.
        ema: whether the weights are averaged.
        model: name of the model.
        sampler_base: what the configs of the model's samplers derive from.
        bounded: whether what its samplers work on lies in [-1, 1].
        timesteps: T; None of a model without timesteps.
        zero_terminal_snr: whether the noise schedule ends in pure noise.
        prediction: what the network predicts; None of a model that predicts no noise.
        learned_variance: whether the network learns the variance of the steps.
        classes: that the model learns; None of a model without labels.
        class_dropout_prob: share of the images whose label training withholds; None of a model without labels.
    """

    image_size: int = 0
    network_size: int = 0
    held_out: int = 0
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
