"""What is requested from Slurm: checked, and as lines of a job script."""

import os
import re
import shlex
import subprocess
import sys

from diffexp.config.schemas.engines import SlurmEngineConfig
from diffexp.errors import UserError


def check_request(request: SlurmEngineConfig) -> None:
    """Validate a request to Slurm.

    Raises:
        UserError: if an option contains spaces, the time limit is none, the grace period is half of it or more, or
            `setup` or `python` is no shell command.
    """
    for value in (request.partition, request.account, request.qos, request.constraint, request.mem, request.time):
        if value is not None and any(letter.isspace() for letter in value):
            raise UserError(f"command line: expected an sbatch option without spaces, got {value!r}.")
    limit = _seconds(request.time) if request.time is not None else None
    if limit is not None and limit <= 2 * request.grace:
        raise UserError(
            f"grace: expected less than half of the time limit of {limit} s, got {request.grace} s. "
            "Decrease grace or increase time."
        )
    _setup_commands(request)
    python_command(request)


def _seconds(time: str) -> int | None:
    """Parse a Slurm time limit: MIN, MIN:S, H:MIN:S, D-H, D-H:MIN or D-H:MIN:S; None for no limit.

    Raises:
        UserError: if it is none.
    """
    if time.upper() in ("UNLIMITED", "INFINITE", "0"):
        return None
    if not re.fullmatch(r"\d+(:\d+){0,2}|\d+-\d+(:\d+){0,2}", time):
        raise UserError(
            "time: expected MINUTES, HOURS:MINUTES:SECONDS or DAYS-HOURS, such as 90, 4:00:00 or 1-12, "
            f"got {time!r}. Write it as Slurm does."
        )
    days, dash, rest = time.rpartition("-")
    numbers = [int(part) for part in rest.split(":")]
    hours, minutes, seconds = ([*numbers, 0, 0] if dash else [0, *numbers, 0] if len(numbers) < 3 else numbers)[:3]
    return int(days or 0) * 86_400 + hours * 3600 + minutes * 60 + seconds


def setup_lines(request: SlurmEngineConfig, copied: str = "") -> str:
    """Return the lines that run `setup` and end the job if one fails.

    Args:
        request: the request.
        copied: a pipe that copies the message to another log.
    """
    commands = _setup_commands(request)
    if not commands:
        return ""
    message = "error: setup: exit code $1 of: $2. The job ends. Correct the line and submit again."
    lines = ["setup_failed() {", f'    echo "{message}" {copied}'.rstrip(), "    exit 1", "}"]
    for command in commands:
        lines += [command, f"code=$?; [ $code = 0 ] || setup_failed $code {shlex.quote(command)}"]
    return "\n".join(lines) + "\n"


def _setup_commands(request: SlurmEngineConfig) -> list[str]:
    """Return the complete commands of `setup`: single lines, or several lines such as an `if`.

    Raises:
        UserError: if bash cannot parse them.
    """
    commands: list[str] = []
    pending: list[str] = []
    for line in "\n".join(request.setup).split("\n"):
        pending.append(line)
        problem = _syntax_error("\n".join(pending))
        if problem is None:
            commands.append("\n".join(pending))
            pending = []
    if pending:
        got = "\n".join(pending)
        raise UserError(f"setup: expected shell commands, got {got!r}. bash says: {problem}")
    return commands


def _syntax_error(command: str) -> str | None:
    """Return the message of bash for a shell command that it cannot parse or that the next line continues."""
    if command.endswith("\\"):
        return "the line is continued"
    environment = {**os.environ, "LC_ALL": "C"}  # with a locale that is not installed, bash warns of that
    checked = subprocess.run(
        ["bash", "-n"], input=command, env=environment, capture_output=True, text=True, check=False
    )
    return checked.stderr.strip() or None


def python_command(request: SlurmEngineConfig) -> str:
    """Return the command of the Python interpreter, for a shell script; the job expands its variables.

    Raises:
        UserError: if it is empty, or bash cannot parse it.
    """
    if request.python is None:
        return shlex.quote(sys.executable)
    try:
        words = shlex.split(request.python)
    except ValueError as error:
        raise UserError(f"python: expected a command, got {request.python!r}: {error}.") from error
    if not words:
        raise UserError("python: expected a command, such as python, got an empty text.")
    command = " ".join(_word(os.path.expanduser(word)) for word in words)
    if (problem := _syntax_error(command)) is not None:
        raise UserError(
            f"python: expected a command that expands nothing but $VARIABLES, got {request.python!r}. "
            f"bash says: {problem}"
        )
    return command


def _word(word: str) -> str:
    """Quote a word for the shell, which expands only its variables."""
    return '"' + re.sub(r'(["\\`])', r"\\\1", word) + '"' if "$" in word else shlex.quote(word)
