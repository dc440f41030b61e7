"""Load user modules that register components. They are installed or named on the command line, never in a file."""

import importlib
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from diffexp.errors import UserError

ENTRY_POINTS = "diffexp.plugins"

# The modules that the user of this process has named.
_named: set[str] = set()


def load_plugins(modules: Sequence[str]) -> None:
    """Import the installed plugins (entry points "diffexp.plugins"), then the modules that the user has named.

    Raises:
        UserError: if one cannot be imported, or another module has the name of one in the current folder.
    """
    for entry in entry_points(group=ENTRY_POINTS):
        try:
            entry.load()
        except Exception as error:
            message = f"plugin {entry.name} ({entry.value}): cannot be imported: {error!r}. Fix or uninstall it."
            raise UserError(message) from error
    if modules and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # last, so that a random.py there does not replace Python's
    for name in modules:
        try:
            module = importlib.import_module(name)
        except (Exception, SystemExit) as error:  # user code can raise anything; report it without a traceback
            frame = traceback.extract_tb(error.__traceback__)[-1]
            raise UserError(
                f"--plugin {name}: cannot be imported: {error!r} ({frame.filename}, line {frame.lineno})."
            ) from error
        _check_not_hidden(name, module)
        _named.add(name)


def _check_not_hidden(name: str, module: ModuleType) -> None:
    here = Path(*name.split("."))
    wanted = next((file for file in (here / "__init__.py", here.with_suffix(".py")) if file.is_file()), None)
    found = getattr(module, "__file__", None)
    if wanted is not None and not (found is not None and Path(found).exists() and wanted.samefile(found)):
        raise UserError(f"--plugin {name}: expected {wanted}, got {found or 'a part of Python'}. Rename {wanted}.")


def require_plugins(modules: Sequence[str], source: str) -> None:
    """Check that the user has named the plugins that a file names, because a file must not run code.

    Raises:
        UserError: if not, with the options that name them.
    """
    missing = [name for name in modules if name not in _named]
    if missing:
        options = " ".join(f"--plugin {name}" for name in missing)
        raise UserError(
            f"{source}: names the plugin {', '.join(missing)}, which is code. If you trust it, pass {options}."
        )
