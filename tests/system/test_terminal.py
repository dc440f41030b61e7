"""What reaches terminals and logs, of diffexp and of any library."""

import io
import sys

import click
import pytest
from tqdm import tqdm

from diffexp.formatting import printable
from diffexp.system import terminal
from diffexp.system.terminal import LogOutput, TerminalOutput, progress_bar, readable_output, say


class Stream(io.StringIO):
    """A terminal, or a file."""

    def __init__(self, is_terminal=False):
        super().__init__()
        self.is_terminal = is_terminal

    def isatty(self):
        return self.is_terminal


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when a test says so."""
    now = [1000.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    return now


def written(monkeypatch, is_terminal=False, term="xterm"):
    """Replace standard error; return what it gets."""
    stream = Stream(is_terminal)
    monkeypatch.setenv("TERM", term)
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def test_control_characters_are_shown_as_escapes():
    assert printable("\x1b]0;x\x07 a\tb\nc \x9b1m \u202eabc \udcff \r") == (
        "\\x1b]0;x\\x07 a\tb\nc \\x9b1m \\u202eabc \\udcff \\r"
    )
    assert printable("ᾱ × ± ε̂ 🙂") == "ᾱ × ± ε̂ 🙂"


def test_a_library_s_bar_is_a_line_every_half_minute(clock, monkeypatch):
    log = written(monkeypatch)
    with readable_output():
        for _ in tqdm(range(100), desc="download", mininterval=0, miniters=1):
            clock[0] += 2.0
            if _ == 50:
                print("a warning", file=sys.stderr)
    lines = log.getvalue().splitlines()
    assert "\r" not in log.getvalue()
    assert "\x1b" not in log.getvalue()
    assert len([line for line in lines if line.startswith("download")]) == pytest.approx(200 / 30, abs=1)
    assert "a warning" in log.getvalue()


def test_bars_in_bars_share_the_half_minute(clock, monkeypatch):
    log = written(monkeypatch)
    with readable_output(), progress_bar("train", 10, "step") as bar:
        for step in range(10):
            with progress_bar("sample", 10, "call", leave=False) as inner:
                for _ in range(10):
                    clock[0] += 1.0
                    inner.update()
            bar.update()
            if step == 4:
                say("a score")
    *lines, last = log.getvalue().splitlines()
    assert last.startswith("train: 10 of 10 steps")
    assert len([line for line in lines if line != "a score"]) == 3  # after 30, 60 and 90 s
    assert lines.count("a score") == 1
    assert not {"\r", "\x1b"} & set(log.getvalue())


@pytest.mark.parametrize(("is_terminal", "term"), [(False, "xterm"), (True, "dumb"), (True, "")])
def test_short_work_is_one_line_in_a_log_and_shows_rate_and_time(clock, monkeypatch, is_terminal, term):
    log = written(monkeypatch, is_terminal, term)
    with progress_bar("train", 8, "step") as bar:
        for _ in range(8):
            clock[0] += 0.5
            bar.update()
    assert log.getvalue() == "train: 8 of 8 steps,  2.00step/s, 00:04 passed, 00:00 left\n"
    with progress_bar("decoding", 8, "image", leave=False):
        pass
    assert log.getvalue().count("\n") == 1


def test_work_that_stops_says_how_far_it_came(clock, monkeypatch):
    log = written(monkeypatch)
    with pytest.raises(KeyboardInterrupt), progress_bar("train", 8, "step") as bar:  # noqa: PT012
        bar.update(3)
        raise KeyboardInterrupt
    assert log.getvalue().startswith("train: 3 of 8 steps")


def test_a_text_that_ends_with_a_return_is_progress_and_messages_stay(clock, monkeypatch):
    log = written(monkeypatch)
    with readable_output():
        sys.stderr.write("uploading 1 of 2\r")
        sys.stderr.write("uploading 2 of 2\r")
        sys.stderr.write("\r                \r")
        sys.stderr.write("done\n")
        sys.stderr.write("\x1b[31mred\x1b[0m\r\n")
        clock[0] += 31
        sys.stderr.write("half a line")
        sys.stderr.write("\rstep 7\n")
        sys.stderr.write("next\n")
    assert log.getvalue() == "done\nred\nhalf a line\nstep 7\nnext\n"


def test_a_terminal_gets_bars_but_nothing_that_changes_it(monkeypatch):
    screen = written(monkeypatch, is_terminal=True)
    with readable_output():
        assert isinstance(sys.stderr, TerminalOutput)
        click.echo("\x1b[31mred\x1b[0m \x1b]52;c;aGk=\x07 \x1b[2J", err=True)
        sys.stderr.write("\rtrain\x1b[A")
    assert screen.getvalue() == "\x1b[31mred\x1b[0m \\x1b]52;c;aGk=\\x07 \\x1b[2J\n\rtrain\x1b[A"


def test_no_color_is_respected(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    screen = written(monkeypatch, is_terminal=True)
    with readable_output():
        click.echo("\x1b[31mred\x1b[0m", err=True)
    assert screen.getvalue() == "red\n"


def test_standard_output_shows_escapes(monkeypatch):
    out = Stream(is_terminal=True)
    monkeypatch.setattr(sys, "stdout", out)
    with readable_output():
        click.echo("run \x1b[31m \udcff \u202e")
    assert out.getvalue() == "run \\x1b[31m \\udcff \\u202e\n"


def test_what_cannot_be_written_is_dropped(monkeypatch):
    class Full(Stream):
        def write(self, text):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "stderr", Full())
    with readable_output(), progress_bar("train", 2, "step") as bar:
        bar.update()
        print("a warning", file=sys.stderr)
        assert isinstance(sys.stderr, LogOutput)
