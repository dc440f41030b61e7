"""The random numbers of a diffusion model's training step."""

from dataclasses import dataclass

from torch import Tensor

from diffexp.diffusion.timesteps import TimestepSampler
from diffexp.rng import Draw

# Rows of `Draw.uniforms`.
TIMESTEPS, CLASS_DROPOUT = 0, 1


@dataclass(frozen=True)
class TrainingNoise:
    """The random numbers of a batch.

    Attributes:
        t: timestep indices, int64 (B,).
        noise: ε, shape (B, C, H, W).
        other: a second noise ω, same shape, for "step_epsilon"; else None.
        labels: class labels (B,), with the null label K where the class is dropped; None without classes.
        weights: importance weights 1/(T p_t) of the losses, (B,); None is 1.
    """

    t: Tensor
    noise: Tensor
    other: Tensor | None = None
    labels: Tensor | None = None
    weights: Tensor | None = None


@dataclass(frozen=True)
class TrainingNoiseSampler:
    """Samples the training noise of a step; an image's noise depends only on its position in the global batch.

    Each process samples only for its own images, and the distribution of a batch over processes changes nothing.

    Attributes:
        timesteps: distribution of the timesteps.
        second_noise: whether the prediction needs a second noise.
        classes: number of classes K, or None.
        class_dropout_prob: probability that an image's class is dropped.
    """

    timesteps: TimestepSampler
    second_noise: bool = False
    classes: int | None = None
    class_dropout_prob: float = 0.0

    def sample(
        self, draw: Draw, other: Tensor | None, labels: Tensor | None, batch_size: int, seed: int
    ) -> TrainingNoise:
        """Sample the noise of images.

        Args:
            draw: random numbers of the images at their positions in the global batch, with normals of their shape.
            other: further normals of that shape, if `second_noise`.
            labels: class labels (B,), for a class-conditional model.
            batch_size: images of the step, over all processes and accumulated batches.
            seed: seed of the step, the same for all of its images.
        """
        t = self.timesteps.sample(draw.uniforms[TIMESTEPS], draw.positions, batch_size, seed)
        dropped = None
        if self.classes is not None:
            assert labels is not None
            dropped = labels.masked_fill(draw.uniforms[CLASS_DROPOUT] < self.class_dropout_prob, self.classes)
        return TrainingNoise(t, draw.normals, other, dropped, self.timesteps.weights(t))
