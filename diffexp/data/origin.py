"""What a set of images was before it was loaded."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

Size = tuple[int, int]

# Reasons to skip a file.
CANNOT_DECODE = "cannot be decoded"
NO_IMAGE = "not an image that PIL can read"


@dataclass(frozen=True)
class Origin:
    """The images of a set before conversion, and the files that were skipped.

    Attributes:
        smallest: (width, height) in pixels of the image with the fewest pixels.
        largest: (width, height) of the one with the most.
        skipped: by reason, the names of files in the same place that are not in the set.
    """

    smallest: Size
    largest: Size
    skipped: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, sizes: Collection[Size], skipped: Mapping[str, Sequence[str]]) -> "Origin":
        """Return the origin of images of these sizes, of which there is at least one."""

        def area(size: Size) -> tuple[int, Size]:
            return size[0] * size[1], size

        return cls(
            min(sizes, key=area), max(sizes, key=area), {reason: names for reason, names in skipped.items() if names}
        )
