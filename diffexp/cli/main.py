"""The command line. Commands import heavy modules when they run, so that help and config checks are fast."""

import atexit
import logging
import os
import signal
import sys

import click

from diffexp import __version__
from diffexp.cli.compare import compare
from diffexp.cli.config import config
from diffexp.cli.evaluate import evaluate
from diffexp.cli.export import export
from diffexp.cli.import_ import import_
from diffexp.cli.report import dashboard, report
from diffexp.cli.reproduce import reproduce
from diffexp.cli.sample import sample
from diffexp.cli.score import score
from diffexp.cli.sweep import sweep
from diffexp.cli.train import train
from diffexp.cli.train_extractor import extractor
from diffexp.errors import TRANSIENT_ERRNOS, EnvironmentFailure, UserError, require_posix
from diffexp.formatting import printable
from diffexp.system.terminal import readable_output


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="diffexp")
def cli() -> None:
    """Run experiments with diffusion models from one config.

    \b
    Exit codes:
      0        success
      1        failure outside the input (full disk, network), failed trials of a
               sweep, or a reproduction with a different result
      2        invalid input, or training diverged
      75       from `sweep trial`: queue the trial again
      128 + n  stopped by signal n (130: Ctrl-C, 143: SIGTERM)

    \b
    Example:
      diffexp train digits
    """


for _command in (
    *(train, sample, evaluate, score, sweep, report, compare, reproduce, export, import_, extractor, config, dashboard),
):
    cli.add_command(_command)


def _flush_or_discard() -> None:
    """Discard output that cannot be written, on a full disk or a broken pipe: Python would exit with 120."""
    for stream in (sys.stdout, sys.stderr):
        if stream is None or stream.closed:
            continue
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class _Formatter(logging.Formatter):
    """Shows control characters, such as those in the name of a file, as escapes."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def main() -> None:
    """Run the command line. Prints a `UserError` (exit code 2) or an `EnvironmentFailure` (1) without a traceback."""
    atexit.register(_flush_or_discard)  # first, so that it runs last
    with readable_output():
        _run()


def _run() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter("%(levelname)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    try:
        require_posix()
        cli(standalone_mode=False)
    except UserError as error:
        _print_error(str(error))
        sys.exit(2)
    except EnvironmentFailure as error:
        _print_error(str(error))
        sys.exit(1)
    except OSError as error:
        if error.errno not in TRANSIENT_ERRNOS and error.filename is None:
            raise
        _print_error(f"{error.filename or 'the disk'}: {error.strerror}")
        sys.exit(1)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(128 + signal.SIGINT)


def _print_error(message: str) -> None:
    click.echo(f"error: {printable(message)}", err=True)
