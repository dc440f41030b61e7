"""README, docs, docstrings, comments, help and messages keep the rules of prose that a machine can check."""

import pytest

from tests.helpers.messages import ROOT, messages
from tests.helpers.prose import complaints, pages, settings, sources


@pytest.mark.parametrize("find", [pages, sources, settings], ids=lambda find: find.__name__)
def test_no_rejected_word_and_no_long_line(find):
    found = find()
    assert found
    assert [each for path in found for each in complaints(path)] == []


def test_the_check_finds_what_it_rejects(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        f"The user is told so.\n\n{'x ' * 60}\n\n| {'x ' * 60} |\n\n`told` <https://told.org>\n{'<' * 7} HEAD\n"
    )
    assert [each.partition(": ")[2] for each in complaints(page)] == [
        "'told' in: The user is told so.",
        "an unresolved conflict of a merge",
        "120 columns, at most 100",
    ]
    module = tmp_path / "module.py"
    module.write_text('"""It is made\\nanew."""\n\ntold = 1  # the rest is left out\n')
    assert len([*complaints(module)]) == 2


def test_the_list_of_messages_has_errors_warnings_and_help():
    found = [*messages()]
    kinds = {each.kind for each in found}
    assert {"raise UserError", "warning", "echo", "help", "command"} <= kinds
    assert any(each.text.startswith("command line") or "{" in each.text for each in found)
    assert all((ROOT / each.place.partition(":")[0]).is_file() for each in found)
