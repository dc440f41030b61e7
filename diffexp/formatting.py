"""Format durations, values with errors, lists of names, and tables as text."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

# Control characters but tab and newline, marks that reverse the direction of text, and bytes that are not UTF-8.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


@dataclass(frozen=True)
class Table:
    """A table of strings.

    Attributes:
        title: a short title, which also names the table's files.
        head: the column titles.
        rows: the cells; each row is as long as `head`.
        source: where the numbers come from.
        bold: (row, column) of each cell that is the best in its column.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    source: str = ""
    bold: frozenset[tuple[int, int]] = frozenset()

    def transposed(self) -> "Table":
        """Return the table with rows and columns exchanged."""
        grid = [list(self.head), *map(list, self.rows)]
        head, *rows = ([row[column] for row in grid] for column in range(len(self.head)))
        return Table(self.title, head, rows, self.source, frozenset((c - 1, r + 1) for r, c in self.bold if c))

    def markdown(self) -> str:
        """Return Markdown with aligned columns, for terminals, and the source below."""
        grid = [[_in_markdown(cell) for cell in self.head]]
        for number, row in enumerate(self.rows):
            bold = [(number, column) in self.bold for column in range(len(row))]
            cells = [_in_markdown(cell) for cell in row]
            grid.append([f"**{cell}**" if strong else cell for cell, strong in zip(cells, bold, strict=True)])
        widths = [max(3, *(len(row[column]) for row in grid)) for column in range(len(self.head))]
        lines = [
            "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in grid
        ]
        lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
        return "\n".join(lines) + (f"\n\n{self.source}\n" if self.source else "\n")

    def latex(self) -> str:
        """Return a LaTeX tabular with booktabs rules."""
        lines = [f"% {self.title}: {self.source}" if self.source else f"% {self.title}"]
        lines += [r"\begin{tabular}{l" + "r" * (len(self.head) - 1) + "}", r"\toprule"]
        lines += [" & ".join(map(_in_latex, self.head)) + r" \\", r"\midrule"]
        for number, row in enumerate(self.rows):
            cells = [
                rf"\textbf{{{_in_latex(cell)}}}" if (number, column) in self.bold else _in_latex(cell)
                for column, cell in enumerate(row)
            ]
            lines.append(" & ".join(cells) + r" \\")
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table without padding, for files."""
    lines = ["| " + " | ".join(row) + " |" for row in [head, *rows]]
    lines.insert(1, "|---" * len(head) + "|")
    return "\n".join(lines) + "\n"


def pm(value: float, spread: float | None) -> str:
    """Return ``0.555 ± 0.17``, or ``0.555`` without a spread."""
    return f"{value:.4g}" if spread is None else f"{value:.4g} ± {spread:.2g}"


def _in_markdown(text: str) -> str:
    return text.replace("|", r"\|").replace("\n", " ")


_LATEX = {
    "\\": r"\textbackslash{}",
    **{character: "\\" + character for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "ᾱ": r"$\bar\alpha$",
    "√": r"$\surd$",
    "η": r"$\eta$",
    "ε": r"$\varepsilon$",
}


def _in_latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text.replace("\n", " "))


def duration(seconds: float) -> str:
    """Return seconds in a readable unit: "40 s", "12 min", "3.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def listed(names: Sequence[str]) -> str:
    """Return ``"a, b, c and 4 more"``, or ``"none"`` for no names."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3]) or 'none'}{more}"


def printable(text: str) -> str:
    r"""Return the text with escapes, such as ``\x1b``, for characters that would change a terminal or its text."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
