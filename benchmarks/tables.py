"""Insert the tables of benchmarks/results into docs/guides/performance.md, each below the comment that names its file.

python benchmarks/tables.py
"""

import re

from measuring import RESULTS

PAGE = RESULTS.parents[1] / "docs" / "guides" / "performance.md"


def main() -> None:
    """Replace the tables in the page."""

    def newest(match: re.Match[str]) -> str:
        table = (RESULTS / match["file"]).read_text().split("\n\n")[0]
        return f"<!-- {match['file']} -->\n{table}\n"

    text = PAGE.read_text()
    PAGE.write_text(re.sub(r"<!-- (?P<file>\S+) -->\n(?:\|.*\n)*", newest, text))


if __name__ == "__main__":
    main()
