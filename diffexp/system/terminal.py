"""What reaches a terminal or a log: progress, and text without characters that change a terminal.

On a terminal, a progress bar stays in one line. A log (a file, a pipe, or a terminal with TERM=dumb) gets a line of
progress at most every 30 s, and neither carriage returns nor escape sequences.
"""

import os
import re
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

from tqdm import tqdm

from diffexp.formatting import printable

_LOGGED = 30.0  # seconds between two lines of progress in a log
_UPDATED = 0.2  # seconds between two updates of a bar

# Colours, and the sequences with which progress bars move up and clear a line.
_COLOR = re.compile(r"\x1b\[[\d;]*m")
_HARMLESS = re.compile(r"(\r|\x1b\[[\d;]*[AKm])")
_SEQUENCE = re.compile(r"\x1b\[[\d;?]*[@-~]")


def is_live(stream: TextIO) -> bool:
    """Whether a stream is a terminal that can move its cursor."""
    return stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb")


class Output:
    """A stream that shows control characters as escapes, such as ``\\x1b``.

    Args:
        stream: the stream to write to.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write the text."""
        self.stream.write(printable(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class ErrorOutput(Output):
    """Standard error, which drops what it cannot write, such as to a log on a full disk or a closed pipe."""

    def write(self, text: str) -> int:
        """Write the text, if possible."""
        with suppress(OSError, ValueError):
            self._write(text)
        return len(text)

    def flush(self) -> None:
        """Flush, if possible."""
        with suppress(OSError, ValueError):
            self.stream.flush()

    def _write(self, text: str) -> None:
        raise NotImplementedError


class TerminalOutput(ErrorOutput):
    """A terminal, which may get progress bars and, unless NO_COLOR is set, libraries' colours."""

    def _write(self, text: str) -> None:
        if os.environ.get("NO_COLOR"):
            text = _COLOR.sub("", text)
        parts = _HARMLESS.split(text)  # every second one is a harmless sequence
        self.stream.write("".join(part if index % 2 else printable(part) for index, part in enumerate(parts)))


class LogOutput(ErrorOutput):
    """A log, in which a progress bar of any library becomes a line at most every 30 s.

    A carriage return in the same `write` marks a text as progress.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._is_progress = False  # whether the cursor would be in a progress bar
        self._is_mid_line = False
        self._last = time.monotonic()  # of a line of progress; short work shows none

    def isatty(self) -> bool:
        """Whether the stream is a terminal, to libraries: never."""
        return False

    def _write(self, text: str) -> None:
        text = _SEQUENCE.sub("", text).replace("\r\n", "\n")
        first, *others = text.split("\r")
        if not others:
            self._plain(text)
            return
        before, newline, progress = first.rpartition("\n")
        self._plain(before + newline)
        self._progress(progress)
        for part in others:
            progress, newline, after = part.partition("\n")
            self._progress(progress)
            self._is_progress = not newline
            self._plain(after)

    def _plain(self, text: str) -> None:
        if text and self._is_progress:
            self._is_progress = False
            text = text.removeprefix("\n")
        if text:
            self.stream.write(printable(text))
            self._is_mid_line = not text.endswith("\n")

    def _progress(self, text: str) -> None:
        if text.strip() and time.monotonic() - self._last >= _LOGGED:
            self._is_progress = False
            self._plain("\n" * self._is_mid_line + text.rstrip() + "\n")
            self._last = time.monotonic()
        self._is_progress = True


_errors: ErrorOutput | None = None


def error_stream() -> ErrorOutput:
    """Return the present standard error as an `ErrorOutput`."""
    global _errors
    if isinstance(sys.stderr, ErrorOutput):
        return sys.stderr
    if _errors is None or _errors.stream is not sys.stderr:
        _errors = TerminalOutput(sys.stderr) if is_live(sys.stderr) else LogOutput(sys.stderr)
    return _errors


@contextmanager
def readable_output() -> Iterator[None]:
    """Within the context, standard output and standard error are an `Output` and an `ErrorOutput`.

    All that is printed passes them, also by libraries.
    """
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = cast(TextIO, Output(sys.stdout)), cast(TextIO, error_stream())
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


class _LoggedBar(tqdm):  # type: ignore[type-arg]  # not generic when it runs
    """Progress in a log, which ends with a line that says how much is done."""

    def close(self) -> None:
        if not self.disable and self.format_dict["elapsed"] >= self.delay:
            # tqdm would clear it
            error_stream().write(f"{self}\n")
        super().close()


def progress_bar(
    what: str,
    total: float,
    unit: str | None,
    items: Iterable[Any] | None = None,
    *,
    leave: bool = True,
    delay: float = 0.0,
    initial: float = 0,
    disable: bool = False,
) -> "tqdm[Any]":
    """Return a progress bar with rate and time left, on standard error; as an iterable, it yields `items`.

    Args:
        what: the name of the work.
        total: the amount of the work.
        unit: the unit of the amount, in the singular; None shows no amount but the percentage.
        items: what to iterate over; None if the caller updates the bar.
        leave: whether the bar, or in a log a line, remains at the end.
        delay: seconds after which to show it.
        initial: the amount that is done.
        disable: whether to show nothing, as in all processes but one.
    """
    stream = error_stream()
    logged = isinstance(stream, LogOutput)
    shape = None if unit is not None else "{desc} {percentage:3.0f}%|{bar}| [{elapsed}<{remaining}{postfix}]"
    if logged:
        amount = f"{{n_fmt}} of {{total_fmt}} {unit}s, {{rate_fmt}}" if unit is not None else "{percentage:.0f} %"
        shape = f"{{desc}}: {amount}, {{elapsed}} passed, {{remaining}} left{{postfix}}"
    kind: type[tqdm[Any]] = _LoggedBar if logged and leave else tqdm
    return kind(
        items,
        file=stream,
        desc=what,
        total=total,
        initial=initial,
        unit=unit or "",
        leave=leave and not logged,
        delay=delay,
        mininterval=_UPDATED,
        miniters=1,
        dynamic_ncols=not logged,
        position=0 if logged else None,  # other positions move the cursor
        bar_format=shape,
        disable=disable,
    )


def say(line: str) -> None:
    """Write a line to standard error, above the progress bars."""
    tqdm.write(line, file=error_stream())
