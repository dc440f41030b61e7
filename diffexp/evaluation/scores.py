"""All scores of one set of images, from one pass of features, with what is needed to read them."""

from dataclasses import asdict, dataclass
from typing import Any

from diffexp.errors import UserError
from diffexp.evaluation.extractors.base import Extractor
from diffexp.evaluation.gathering import Estimate, Gathered
from diffexp.evaluation.neighbours import nearest
from diffexp.evaluation.protocol import Protocol
from diffexp.evaluation.references import Reference

MEMORISED = 0.5  # below this ratio of nearest distances a warning is due
_FEWEST_FOR_PAIRS = 40  # two in each block of the jackknife


@dataclass(frozen=True)
class Scores:
    """What was measured on a set of images.

    Attributes:
        count: images.
        fd: squared Fréchet distance, with its standard error. FID if the extractor is Inception-v3.
        floor: the distance that a perfect generator would have at this count.
        kd: kernel distance; None where the reference is statistics only.
        precision, recall: None where the reference is statistics only.
        nearest: distance to the nearest real image, as a multiple of that between real images: 1 is as it should
            be, and near 0 the images are copies.
        inception_score: mean and spread; None unless the extractor is Inception-v3.
    """

    count: int
    fd: Estimate
    floor: float
    kd: Estimate | None
    precision: float | None
    recall: float | None
    nearest: float | None
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
            "inception_score": self.inception_score.value if self.inception_score else None,
        }
        return {name: value for name, value in found.items() if value is not None}

    def warnings(self) -> list[str]:
        """What should be said beside the numbers."""
        if self.nearest is not None and self.nearest < MEMORISED:
            return [
                f"the images are {self.nearest:.2f} times as far from the nearest real image as real images are from "
                "each other: are they copies of training images?"
            ]
        return []


def check_count(count: int, extractor: Extractor, key: str) -> None:
    """Refuse to score fewer images than the extractor has features: their covariance would be singular.

    Raises:
        UserError: saying how many are needed.
    """
    fewest = max(extractor.dim, _FEWEST_FOR_PAIRS)
    if count < fewest:
        raise UserError(
            f"{key}: {count} images are too few for the {extractor.dim} features of {extractor.name}; take {fewest} "
            "or more"
        )


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
    count = gathered.gaussian.count
    assert count is not None
    fd = Estimate(
        reference.frechet.distance(gathered.gaussian), reference.frechet.error(gathered.gaussian, gathered.bank)
    )
    kd = precision = recall = near = None
    if reference.kernel is not None:
        kd = reference.kernel.distance(gathered.bank)
    if reference.manifold is not None:
        precision, recall = reference.manifold.precision_recall(gathered.bank)
    if reference.bank is not None and reference.nearest:
        near = nearest(gathered.bank, reference.bank) / reference.nearest
    inception = Estimate(*gathered.inception_score) if gathered.inception_score is not None else None
    floor = reference.frechet.floor(count).value
    return Scores(count, fd, floor, kd, precision, recall, near, inception)
