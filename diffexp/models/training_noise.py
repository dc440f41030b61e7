"""What training draws at random for the images of a step."""

from dataclasses import dataclass

from torch import Tensor

from diffexp.diffusion.timesteps import TimestepSampler
from diffexp.randomness import RandomNumbers

# Draws of `RandomNumbers`, from which each of these takes its numbers.
NOISE, SECOND_NOISE, CLASS_DROPOUT, TIMESTEPS = 0, 1, 2, 3


@dataclass(frozen=True)
class TrainingNoise:
    """What training draws for a batch.

    Attributes:
        t: indices (B,).
        noise: ε, shape (B, C, H, W).
        other: a second noise of that shape, for the prediction that wants it.
        labels: classes (B,), one more than there are where the class is dropped; None of a model without classes.
        weights: what each image's loss counts, (B,), where timesteps are not sampled uniformly; None is 1.
    """

    t: Tensor
    noise: Tensor
    other: Tensor | None = None
    labels: Tensor | None = None
    weights: Tensor | None = None


@dataclass(frozen=True)
class TrainingNoiseSampler:
    """Samples the training noise of a step; that of an image depends on its position in the global batch alone.

    So a process draws for its own images only, and how a batch is spread over processes changes nothing.

    Attributes:
        timesteps: their distribution.
        second_noise: for the prediction that takes one.
        classes: of the images; None of a model without classes.
        label_dropout: probability that an image's class is dropped.
    """

    timesteps: TimestepSampler
    second_noise: bool = False
    classes: int | None = None
    label_dropout: float = 0.0

    def sample(self, numbers: RandomNumbers, batch_size: int, images: Tensor, labels: Tensor | None) -> TrainingNoise:
        """Sample for images (B, C, H, W) with these labels (B,).

        Args:
            numbers: of the images, at their positions in the global batch of `batch_size` images.
            batch_size: over all processes and accumulated batches.
            images: what the noise is added to.
            labels: classes of the images, for a model that learns them.
        """
        shape = images.shape[1:]
        t = self.timesteps.sample(numbers, TIMESTEPS, batch_size)
        if self.classes is not None:
            assert labels is not None
            labels = labels.masked_fill(numbers.uniform(CLASS_DROPOUT) < self.label_dropout, self.classes)
        return TrainingNoise(
            t,
            numbers.normal(NOISE, shape),
            numbers.normal(SECOND_NOISE, shape) if self.second_noise else None,
            labels if self.classes is not None else None,
            self.timesteps.weights(t),
        )
