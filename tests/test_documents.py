"""The documents are true as far as a program can tell: links, files, rooms and commands are there."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.commands.document_commands import Command, commands_in, documents, run
from tests.tree import IGNORED, ROOT, files

LINK = re.compile(
    r"(?<!!)\[[^\]]*\]\((?P<target>[^)\s]+)\)|!\[[^\]]*\]\((?P<image>[^)\s]+)\)|<img[^>]*\bsrc=\"(?P<src>[^\"]+)\""
)
PATH = re.compile(
    r"`(?P<path>(?:core|backends|models|recipes|tests|benchmarks|docs|diptych)/[\w./-]*|[\w-]+\.(?:py|toml|md))`"
)


def broken_links(text: str, folder: Path) -> list[str]:
    """The relative links of a document that lead to no file, or to no heading of one."""
    broken = []
    for match in LINK.finditer(text):
        target = match["target"] or match["image"] or match["src"]
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = folder / path if path else None
        if file is not None and not file.exists():
            broken.append(target)
            continue
        if anchor and anchor not in headings(file.read_text(encoding="utf-8") if file else text):
            broken.append(target)
    return broken


def long_lines(text: str) -> list[str]:
    """Lines of prose that end after column 120; tables, blocks of code and addresses of links do not count."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    shown = re.sub(r"\]\([^)]*\)", "]", prose)
    return [line for line in shown.splitlines() if len(line) > 120 and not line.startswith("|")]


def headings(text: str) -> set[str]:
    """The anchors of a Markdown text's headings."""
    titles = re.findall(r"^#+ +(.+?) *$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def missing_paths(text: str, root: Path = ROOT) -> list[str]:
    """The paths in backquotes that the tree does not hold; a bare file name may stand in any folder."""
    names = {path.name for path in files(root)}
    named = [match["path"] for match in PATH.finditer(text)]
    return [path for path in named if not ((root / path).exists() or ("/" not in path and path in names))]


def test_the_readme_is_short_and_maps_every_room():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 150
    rooms = sorted(
        path.name
        for path in ROOT.iterdir()
        if path.is_dir() and not path.name.startswith(".") and path.name not in IGNORED
    )
    rooms = [room for room in rooms if any((ROOT / room).rglob("*.*")) and not room.endswith(".egg-info")]
    assert len(rooms) >= 8
    assert [room for room in rooms if not re.search(rf"^\s*{room}/", readme, re.M)] == []


@pytest.mark.parametrize(
    "path", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))]
)
def test_links_and_paths_lead_somewhere(path):
    text = (ROOT / path).read_text(encoding="utf-8")
    assert broken_links(text, (ROOT / path).parent) == []
    assert missing_paths(text) == []
    assert long_lines(text) == []


def test_the_tour_names_the_rooms_files():
    tour = (ROOT / "docs" / "tour.md").read_text(encoding="utf-8")
    named = {match["path"] for match in PATH.finditer(tour)}
    assert len(named) >= 15
    assert {path.partition("/")[0] for path in named} >= {"core", "backends", "models", "recipes"}


def test_a_wrong_document_is_seen():
    assert broken_links("[a](nowhere.md) [b](README.md) ![c](no.png) [d](https://x.y) [e](#no)", ROOT) == [
        "nowhere.md",
        "no.png",
        "#no",
    ]
    assert missing_paths("`core/nowhere.py` and `core/data/` and `nothing.py` and `pyproject.toml`") == [
        "core/nowhere.py",
        "nothing.py",
    ]
    long = "x" * 121
    assert long_lines(f"{long}\n| {long} |\n[a](https://{long})\n```text\n{long}\n```\n{long[1:]}\n") == [long]


def test_every_fence_is_a_command_or_shown_only():
    found = [command for path in documents() for command in commands_in(path.read_text(encoding="utf-8"), path.name)]
    assert len(found) >= 5
    assert [command for command in found if command.reason is None]


def test_commands_are_found_with_their_reasons():
    text = """a
```sh
one
```
<!-- not run: slow -->

```python
two
```
<!-- not run: also
slow -->
```sh
three
```
```text
four
```
<!-- not run: a mark that prose cuts off -->
prose
```sh
five
```
"""
    assert commands_in(text, "D.md") == [
        Command("D.md", 2, "sh", "one\n", None),
        Command("D.md", 7, "python", "two\n", "slow"),
        Command("D.md", 12, "sh", "three\n", "also\nslow"),
        Command("D.md", 20, "sh", "five\n", None),
    ]


@pytest.mark.parametrize("text", ["```\nls\n```\n", "```zsh\nls\n```\n", "<!-- not run: -->\n```sh\nls\n```\n"])
def test_a_fence_that_could_escape_is_refused(text):
    with pytest.raises(ValueError, match=r"D\.md:\d"):
        commands_in(text, "D.md")


@pytest.mark.parametrize(
    ("language", "text", "status"), [("sh", "true", 0), ("sh", "false | true", 1), ("python", "raise SystemExit(3)", 3)]
)
def test_a_command_that_fails_is_seen(tmp_path, language, text, status):
    assert run(Command("D.md", 1, language, text, None), tmp_path, tmp_path).returncode == status


def test_continuous_integration_runs_the_line_of_the_readme():
    """`.ci/run` takes the line from the README; asked to print it, it does not run it."""
    printed = subprocess.run(
        ["bash", ".ci/run", "--print"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert printed.endswith("/nox")
    assert [line for line in readme.splitlines() if line == printed] == [printed]


def test_the_changelog_keeps_its_form():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"].get("version")
    assert version is None  # it stands in diptych/__init__.py alone
    assert "## [Unreleased]" in text
    assert "### Numerics" in text
