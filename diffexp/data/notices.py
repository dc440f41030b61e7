"""Warnings about a dataset that every load of it, or every batch, would repeat."""

import logging
from functools import cache

from diffexp.system.distributed import is_main_process

log = logging.getLogger(__name__)


@cache
def warn_once(message: str) -> None:
    """Log a warning once in this process."""
    log.warning(message)


def notice(message: str) -> None:
    """Log a warning once, in the main process only."""
    if is_main_process():
        warn_once(message)
