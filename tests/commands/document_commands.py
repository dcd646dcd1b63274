"""The commands that the documents show, found and run.

A fenced block in `sh` is one shell script, run at the root of a copy of the checkout; a block in `python` is one
program, run in an empty folder, once on each backend that is installed. Commands of one document share the copy and the
folder, in order. A block that cannot run where the others do has the reason in a comment before it:

    <!-- not run: it trains for ten minutes; `nox -s recipes` runs the same command at its tiny size -->

Every fence names its language, so that none escapes. `nox -s docs` runs them all.
"""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.tree import ROOT

SHELL = {"sh", "bash", "console"}
SHOWN_ONLY = {"text", "json", "toml", "html", "diff"}
FENCE = re.compile(r"^(?P<fence>```+|~~~+)(?P<language>[\w+-]*)[^\n]*\n(?P<text>.*?)^(?P=fence)[ \t]*$", re.M | re.S)
NOT_RUN = re.compile(r"<!--\s*not run:\s*(?P<reason>(?:(?!-->).)*?)\s*-->\s*\Z", re.S)


@dataclass(frozen=True)
class Command:
    """One fenced block that a reader may paste; `reason` says why it is not run, None where it is."""

    document: str
    line: int
    language: str
    text: str
    reason: str | None


def documents(root: Path = ROOT) -> list[Path]:
    """The documents whose commands are held to run."""
    return [root / "README.md", root / "CONTRIBUTING.md", *sorted((root / "docs").glob("*.md"))]


def commands_in(text: str, document: str) -> list[Command]:
    """The commands of one document; a fence of no or of an unknown language raises `ValueError`."""
    found = []
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        language = match["language"]
        if language in SHOWN_ONLY:
            continue
        if language not in SHELL | {"python"}:
            expected = ", ".join(sorted(SHELL | SHOWN_ONLY | {"python"}))
            raise ValueError(f"{document}:{line}: a fence in {language!r}, expected one of {expected}")
        marked = NOT_RUN.search(text, 0, match.start())
        reason = marked["reason"] if marked else None
        if reason == "":
            raise ValueError(f"{document}:{line}: `not run:` without a reason")
        found.append(Command(document, line, language, match["text"], reason))
    return found


def run(command: Command, checkout: Path, folder: Path, backend: str = "jax") -> subprocess.CompletedProcess[str]:
    """Run one command as its reader would, with KERAS_BACKEND set to `backend`."""
    environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": str(checkout)}
    program = ["bash", "-euo", "pipefail", "-c"] if command.language in SHELL else [sys.executable, "-c"]
    where = checkout if command.language in SHELL else folder
    return subprocess.run(
        [*program, command.text], cwd=where, env=environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
