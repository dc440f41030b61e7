"""Load user modules that register components. They are installed or named on the command line, never in a config."""

import importlib
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path

from diffexp.errors import UserError

ENTRY_POINTS = "diffexp.plugins"


def load_plugins(modules: Sequence[str]) -> None:
    """Import the installed plugins (entry points "diffexp.plugins"), then the named modules.

    Raises:
        UserError: if one cannot be imported.
    """
    for entry in entry_points(group=ENTRY_POINTS):
        try:
            entry.load()
        except Exception as error:
            message = f"plugin {entry.name} ({entry.value}): cannot be imported: {error!r}. Fix or uninstall it."
            raise UserError(message) from error
    if modules and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    for module in modules:
        try:
            importlib.import_module(module)
        except (Exception, SystemExit) as error:  # user code can raise anything; report it without a traceback
            frame = traceback.extract_tb(error.__traceback__)[-1]
            raise UserError(
                f"--plugin {module}: cannot be imported: {error!r} ({frame.filename}, line {frame.lineno})."
            ) from error
