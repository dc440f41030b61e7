"""Import torch, Lightning and their dependencies quickly."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quick_imports() -> Iterator[None]:
    """Context for heavy imports: the garbage collector ignores what they create.

    Imports create a million objects and hardly any garbage. The collector would traverse them again and again, and once
    more when Python exits: two of the five seconds that a short command takes.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.freeze()
