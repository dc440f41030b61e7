"""The 8×8 digits of scikit-learn."""

import numpy as np
import torch
from sklearn.datasets import load_digits

from diffexp.data.images import ImageSet, MemoryImages, pad_to_square
from diffexp.data.origin import Origin

TEST_EVERY = 10


def load(split: str, image_size: int, channels: int, memory_gb: float) -> ImageSet:
    """Load the digits, with grey levels 0..16 scaled to 0..255 and rounded.

    Images 0, 10, 20, … in scikit-learn's order are the test split (180), the others the train split (1617).

    Args:
        split: "train" or "test".
        image_size: 8 or more; images are padded evenly with black.
        channels: must be 1.
        memory_gb: unused; the images take 0.1 MB.
    """
    digits = load_digits()
    in_test = np.arange(len(digits.target)) % TEST_EVERY == 0
    chosen = in_test if split == "test" else ~in_test
    pixels = np.rint(digits.images[chosen] * (255 / 16)).astype(np.uint8)
    images = pad_to_square(torch.from_numpy(pixels).unsqueeze(1), image_size)
    labels = torch.from_numpy(digits.target[chosen].astype(np.int64))
    native = pixels.shape[2], pixels.shape[1]
    return MemoryImages(images, labels, [str(name) for name in digits.target_names], Origin(native, native))
