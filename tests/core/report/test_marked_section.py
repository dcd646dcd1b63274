"""The section that a command writes into a document."""

import pytest

from diptych.core.report.marked_section import write_marked_section


def test_what_lies_between_the_marks_is_replaced_and_nothing_else(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before <a>\nold\nlines\n<b> after\n")
    write_marked_section(page, "<a>", "<b>", "new")
    write_marked_section(page, "<a>", "<b>", "newer")
    assert page.read_text() == "before <a>\nnewer\n<b> after\n"


@pytest.mark.parametrize("text", ["nothing", "<a> alone", "<b> before <a>"])
def test_a_document_without_both_marks_is_refused_and_left(tmp_path, text):
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(ValueError, match="lacks the marks"):
        write_marked_section(page, "<a>", "<b>", "new")
    assert page.read_text() == text
