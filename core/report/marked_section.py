"""The section of a document that a command writes: what lies between two marks."""

from pathlib import Path


def write_marked_section(page: Path, begin: str, end: str, section: str) -> None:
    """Replaces what lies between the marks, which stay.

    Raises:
        ValueError: for a document without them.
    """
    text = page.read_text(encoding="utf-8")
    before, found_begin, rest = text.partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found_begin and found_end):
        raise ValueError(f"{page} lacks the marks {begin!r} and {end!r}, between which the results go.")
    page.write_text(f"{before}{begin}\n{section}\n{end}{after}", encoding="utf-8")
