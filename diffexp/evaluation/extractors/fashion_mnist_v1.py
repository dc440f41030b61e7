"""The classifier of Fashion-MNIST that comes with diffexp, as a feature extractor."""

from diffexp.evaluation.extractors import classifier
from diffexp.evaluation.extractors.classifier import ClassifierExtractor


def load() -> ClassifierExtractor:
    """Load the Fashion-MNIST classifier that comes with diffexp."""
    return classifier.load(str(classifier.SHIPPED / "fashion_mnist_v1.safetensors"))
