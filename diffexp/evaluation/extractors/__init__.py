"""Feature extractors: frozen networks in whose features images are compared."""

from diffexp.config.schemas.extractors import EXTRACTORS, ExtractorConfig, InceptionConfig
from diffexp.evaluation.extractors.base import Extractor


def build_extractor(config: ExtractorConfig | None, image_shape: tuple[int, int, int]) -> Extractor:
    """Build an extractor for images (C, H, W) on the CPU; Inception-v3 if `config` is None.

    Raises:
        UserError: if its weights are missing or damaged, or it does not accept images of this shape.
    """
    extractor = EXTRACTORS.build(config if config is not None else InceptionConfig())
    assert isinstance(extractor, Extractor)
    extractor.check(image_shape)
    return extractor
