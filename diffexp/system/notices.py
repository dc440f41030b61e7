"""Warnings that every load of a dataset, every batch, or every look at a record would repeat."""

import logging
from functools import cache

log = logging.getLogger(__name__)


@cache
def warn_once(message: str) -> None:
    """Log a warning once in this process."""
    log.warning("%s", message)


def notice(message: str) -> None:
    """Log a warning once, in the main process only."""
    from diffexp.system.distributed import is_main_process  # imports torch, which `warn_once` does not need

    if is_main_process():
        warn_once(message)
