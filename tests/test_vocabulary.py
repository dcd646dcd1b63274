"""The tree speaks of itself alone, in files small enough to read and named after what they hold."""

import ast
import re
from pathlib import Path, PurePosixPath

import pytest

from tests.tree import ROOT, files, text_files

EMPTY_NAMES = {"util", "utils", "common", "misc", "helper", "helpers", "manager"}
MOST_LINES = 500

# Written in pieces, so that this file does not hold what it looks for.
FOREIGN = {
    "a folder of somebody's machine": r"(?<![\w.])/(work|farm|tmp|root|home)" + r"/\w",
    "the host of a package registry": "|".join(
        name + r"\." + top
        for name, top in [("pythonhosted", "org"), ("pypi", "org"), ("npmjs", "org|npmjs" + r"\.com")]
    ),
    "how the work was organised": r"\b(issue \d|sub-?"
    + r"agent|work"
    + r"place\b|before-"
    + r"stop)|(?<!\w)\."
    + r"library\b",
    "work left undone": r"(#|//) *(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b",
}


def foreign_words(text: str) -> list[str]:
    """What in a text speaks of something other than diptych: 'line: kind: words'."""
    return [
        f"{number}: {kind}: {match.group(0)}"
        for number, line in enumerate(text.splitlines(), 1)
        for kind, pattern in FOREIGN.items()
        for match in re.finditer(pattern, line)
    ]


def says_nothing(path: PurePosixPath | Path) -> bool:
    """Whether a file or one of its folders has a name under which anything could be kept."""
    return any(re.sub(r"\.\w+$", "", part) in EMPTY_NAMES for part in path.parts)


def test_no_file_is_too_long():
    lengths = {path: len((ROOT / path).read_text(encoding="utf-8").splitlines()) for path in files(ROOT, ".py")}
    assert len(lengths) > 20
    assert {path: length for path, length in lengths.items() if length > MOST_LINES} == {}


def test_every_name_says_something():
    paths = list(files())
    assert len(paths) > 40
    assert [path for path in paths if says_nothing(path)] == []


def title_fault(text: str) -> str | None:
    """What is wrong with how a module says what it is, which is a noun phrase on its first line; None for nothing."""
    module = ast.parse(text)
    docstring = ast.get_docstring(module)
    if docstring is None:
        return "no docstring" if module.body else None
    title = docstring.partition("\n\n")[0]
    if "\n" in title:
        return f"more than one line: {title}"
    return f"no noun phrase: {title}" if re.match(r"(What|Which|How|When|Where|Why|Who|Whether)\b", title) else None


def test_every_module_says_what_it_is_in_a_line():
    paths = list(files(ROOT, ".py"))
    assert len(paths) > 40
    faults = {str(path): title_fault((ROOT / path).read_text(encoding="utf-8")) for path in paths}
    assert {path: fault for path, fault in faults.items() if fault} == {}


def test_no_foreign_words():
    read, found = 0, []
    for path, text in text_files():
        read += 1
        found += [f"{path}:{words}" for words in foreign_words(text)]
    assert read > 40
    assert not found, "\n".join(found)


def test_every_python_folder_is_a_package():
    """A folder without `__init__.py` would miss the wheel, and `backends/jax` without one would shadow jax."""
    folders = {path.parent for path in files(ROOT, ".py") if path.parent != Path(".")}
    assert len(folders) > 10
    assert [str(folder) for folder in sorted(folders) if not (ROOT / folder / "__init__.py").exists()] == []


@pytest.mark.parametrize(
    "text",
    ["see /wo" "rk/plan.md", "cd /ho" "me/ann/diptych", "https://files.python" "hosted.org/x", "as iss" "ue 7 asks",
     "# TO" "DO: later"],
)  # fmt: skip
def test_foreign_words_are_found(text):
    assert foreign_words(text)


@pytest.mark.parametrize(
    "text", ["workers issue batches", "core/data/root/file", "a temporary folder", "network/tmpfs"]
)
def test_own_words_are_left_alone(text):
    assert foreign_words(text) == []


@pytest.mark.parametrize(
    "text", ["import re", '"""A title that goes\non."""', '"""What it is."""', '"""How it\nis."""']
)
def test_wrong_titles_are_found(text):
    assert title_fault(text)


@pytest.mark.parametrize("text", ["", '"""A title."""', '"""Whatever fits.\n\nThe rest\nof it.\n"""\n'])
def test_right_titles_are_left_alone(text):
    assert title_fault(text) is None


def test_empty_names_are_found():
    assert says_nothing(PurePosixPath("core/utils.py"))
    assert says_nothing(PurePosixPath("core/common/batch.py"))
    assert not says_nothing(PurePosixPath("core/data/batch.py"))
