"""Warnings about a dataset that every load of it would repeat."""

import logging
from functools import cache

from diffexp.system.distributed import is_main_process

log = logging.getLogger(__name__)


@cache
def notice(message: str) -> None:
    """Log a warning once, in the main process only."""
    if is_main_process():
        log.warning(message)
