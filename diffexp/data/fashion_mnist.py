"""Fashion-MNIST."""

from pathlib import Path

from diffexp.data.idx import Collection, load_idx
from diffexp.data.images import ImageSet

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


_FASHION_MNIST = Collection(
    "FashionMNIST",
    class_names=(
        ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
    ),
    folders=["FashionMNIST/raw", "FashionMNIST", "fashion_mnist", "fashion-mnist", "."],
    elsewhere=[DEBIAN_FASHION_MNIST],
    hint=" On Debian and Ubuntu, `apt install dataset-fashion-mnist` installs them too.",
)


def load(split: str, image_size: int, channels: int, memory_gb: float, root: str) -> ImageSet:
    """Load Fashion-MNIST; the arguments, sizes and errors are those of `diffexp.data.mnist.load`.

    The files are searched in root/FashionMNIST/raw, root/FashionMNIST, root/fashion_mnist, root/fashion-mnist, root and
    the folder of Debian's package dataset-fashion-mnist. Otherwise diffexp downloads them to root/FashionMNIST/raw.
    """
    return load_idx(_FASHION_MNIST, split, image_size, Path(root).expanduser())
