"""The commands of each document, run as a reader would; `nox -s docs`.

Programs in Python run on each backend where the README has them, and of other documents with DIPTYCH_THOROUGH.
"""

import os
from pathlib import Path

import pytest

from diptych.backends.selection import installed_backends
from tests.commands.document_commands import SHELL, Command, commands_in, documents, run
from tests.packaging import copy_tree
from tests.tree import ROOT

THOROUGH = bool(os.environ.get("DIPTYCH_THOROUGH"))
RUN = {
    path: [command for command in commands_in(path.read_text(encoding="utf-8"), path.name) if command.reason is None]
    for path in documents()
}


def test_there_are_commands_to_run():
    assert sum(map(len, RUN.values())) >= 8


@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("document", [path for path, commands in RUN.items() if commands], ids=lambda path: path.name)
def test_commands_do_what_the_document_says(document, tmp_path):
    """In one copy of the checkout, in order."""
    checkout = copy_tree(ROOT, tmp_path / "diptych")
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    for command in RUN[document]:
        everywhere = command.language not in SHELL and (document.name == "README.md" or THOROUGH)
        for backend in installed_backends()[: None if everywhere else 1]:
            check(command, checkout, folder, backend)


def check(command: Command, checkout: Path, folder: Path, backend: str) -> None:
    done = run(command, checkout, folder, backend)
    place = f"{command.document}:{command.line} on {backend}"
    assert done.returncode == 0, f"{place}: exit status {done.returncode}\n{command.text}\n{done.stdout[-6000:]}"
