"""What training draws at random for the images of a step."""

from dataclasses import dataclass

from torch import Tensor

from diffexp.diffusion.timesteps import TimestepSampler
from diffexp.rng import Draw

# Which of a draw's uniform numbers each of these takes.
TIMESTEPS, CLASS_DROPOUT = 0, 1


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
        class_dropout_prob: probability that an image's class is dropped.
    """

    timesteps: TimestepSampler
    second_noise: bool = False
    classes: int | None = None
    class_dropout_prob: float = 0.0

    def sample(
        self, draw: Draw, other: Tensor | None, labels: Tensor | None, batch_size: int, seed: int
    ) -> TrainingNoise:
        """Sample for images with these labels (B,).

        Args:
            draw: of the images at their positions in the global batch, with normals of their shape.
            other: further normals of that shape, if `second_noise` wants them.
            labels: classes of the images, for a model that learns them.
            batch_size: images of the step over all processes and accumulated batches.
            seed: of the step, the same for all its images.
        """
        t = self.timesteps.sample(draw.uniforms[TIMESTEPS], draw.positions, batch_size, seed)
        dropped = None
        if self.classes is not None:
            assert labels is not None
            dropped = labels.masked_fill(draw.uniforms[CLASS_DROPOUT] < self.class_dropout_prob, self.classes)
        return TrainingNoise(t, draw.normals, other, dropped, self.timesteps.weights(t))
