"""All scores of one set of images, from one pass of features, with what is needed to read them."""

from dataclasses import asdict, dataclass
from typing import Any

from diffexp.evaluation.gathering import Estimate, Gathered
from diffexp.evaluation.protocol import Protocol
from diffexp.evaluation.references import Reference
from diffexp.hardware import full_float32

MEMORISED = 0.05  # share of suspiciously near images above which a warning is due; .01 is as it should be


@dataclass(frozen=True)
class Scores:
    """What was measured on a set of images.

    Attributes:
        count: images.
        fd: squared Fréchet distance, with its standard error. FID if the extractor is Inception-v3.
        floor: the distance that a perfect generator would have at this count.
        kd: kernel distance; None where the reference is statistics only.
        precision, recall: None where the reference is statistics only.
        nearest: distance to the nearest training image, as a multiple of that between training images: 1 is as it
            should be. None unless the reference is the whole training split.
        copies: share of the images that are nearer to a training image than all but 1 % of those are to each other;
            None as `nearest`.
        inception_score: mean over the splits, and the standard deviation over them; None unless the extractor is
            Inception-v3.
    """

    count: int
    fd: Estimate
    floor: float
    kd: Estimate | None
    precision: float | None
    recall: float | None
    nearest: float | None
    copies: float | None
    inception_score: Estimate | None

    def as_dict(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Scores":
        """From what `as_dict` gave."""
        estimates = {
            name: Estimate(**values[name]) if values[name] is not None else None
            for name in ("fd", "kd", "inception_score")
        }
        return cls(**{**values, **estimates})

    def scalars(self) -> dict[str, float]:
        """The numbers for loggers, by metric."""
        found: dict[str, float | None] = {
            "fd": self.fd.value,
            "fd_error": self.fd.error,
            "fd_floor": self.floor,
            "kd": self.kd.value if self.kd else None,
            "kd_error": self.kd.error if self.kd else None,
            "precision": self.precision,
            "recall": self.recall,
            "nearest": self.nearest,
            "copies": self.copies,
            "inception_score": self.inception_score.value if self.inception_score else None,
        }
        return {name: value for name, value in found.items() if value is not None}

    def warnings(self) -> list[str]:
        """What should be said beside the numbers."""
        if self.copies is not None and self.copies > MEMORISED:
            return [
                f"{self.copies:.0%} of the images are nearer to a training image than all but 1 % of those are to each "
                "other: are they copies?"
            ]
        return []


def told(name: str, scores: Scores, rules: Protocol) -> str:
    """Scores with all that is needed to read them, on one line."""
    text = (
        f"{name} {rules.metric('fd')} {scores.fd.value:.4g} ± {scores.fd.error:.2g} "
        f"(perfect: {scores.floor:.3g}; {scores.count} images; protocol {rules.id})"
    )
    if scores.precision is not None and scores.recall is not None:
        text += f", precision {scores.precision:.3f}, recall {scores.recall:.3f}"
    return "; ".join([text, *scores.warnings()])


def measure(gathered: Gathered, reference: Reference) -> Scores:
    """Score what was gathered.

    Args:
        gathered: features of at least 40 images.
        reference: of the same extractor.
    """
    with full_float32():
        return _measure(gathered, reference)


def _measure(gathered: Gathered, reference: Reference) -> Scores:
    count = gathered.gaussian.count
    assert count is not None
    fd = Estimate(
        reference.frechet.distance(gathered.gaussian), reference.frechet.error(gathered.gaussian, gathered.bank)
    )
    kd = precision = recall = near = copies = None
    if reference.kernel is not None:
        kd = reference.kernel.distance(gathered.bank)
    if reference.manifold is not None:
        precision, recall = reference.manifold.precision_recall(gathered.bank)
    if reference.nearest is not None:
        near, copies = reference.nearest.ratio_and_copies(gathered.bank)
    inception = Estimate(*gathered.inception_score) if gathered.inception_score is not None else None
    floor = reference.frechet.floor(count).value
    return Scores(count, fd, floor, kd, precision, recall, near, copies, inception)
