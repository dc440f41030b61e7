"""The classifier of the digits dataset that comes with diffexp, as a feature extractor."""

from diffexp.evaluation.extractors import classifier
from diffexp.evaluation.extractors.classifier import ClassifierExtractor


def load() -> ClassifierExtractor:
    """Load the digits classifier that comes with diffexp."""
    return classifier.load(str(classifier.SHIPPED / "digits_v1.safetensors"))
