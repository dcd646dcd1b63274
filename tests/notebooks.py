"""Notebooks of examples/, carried out from the first cell to the last; with their outputs written anew by hand.

python -m tests.notebooks             # all of them, each with the first backend installed
python -m tests.notebooks zero_shot   # one
"""

import os
import sys
from pathlib import Path
from typing import Any

from tests.tree import ROOT

FOLDER = ROOT / "examples" / "notebooks"
SECONDS = 600


def notebooks() -> list[Path]:
    """All of them."""
    return sorted(FOLDER.glob("*.ipynb"))


def carried_out(path: Path, folder: Path) -> Any:
    """The notebook with the outputs of this machine; raises where a cell fails.

    Args:
        path: of the notebook.
        folder: where it is carried out, as a person's own folder.
    """
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    there = {"metadata": {"path": folder}}
    return NotebookClient(
        notebook, timeout=SECONDS, kernel_name="python3", resources=there, coalesce_streams=True
    ).execute()


def is_log(output: Any) -> bool:
    """Whether an output is what a framework says of the machine."""
    return output["output_type"] == "stream" and output["name"] == "stderr"


def written(notebook: Any, path: Path) -> None:
    """Writes it without what tells of this machine: its kernel and the times of the cells."""
    import nbformat

    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not is_log(output)]
    notebook.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(notebook, path)


if __name__ == "__main__":
    import tempfile

    for each in notebooks():
        if not sys.argv[1:] or each.stem in sys.argv[1:]:
            with tempfile.TemporaryDirectory() as temporary:
                written(carried_out(each, Path(temporary)), each)
            print(each.relative_to(ROOT), flush=True)
