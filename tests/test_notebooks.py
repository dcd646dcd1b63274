"""The notebooks are well-formed and hold their outputs; `nox -s thorough` carries them out."""

import ast
import json
import os

import pytest

from tests.notebooks import carried_out, is_log, notebooks

THOROUGH = pytest.mark.skipif(not os.environ.get("DIPTYCH_THOROUGH"), reason="minutes; with DIPTYCH_THOROUGH")


def cells_of(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["metadata"]["kernelspec"]["name"]) == (4, "python3")
    return notebook["cells"]


def test_there_are_notebooks():
    assert {path.stem for path in notebooks()} >= {"zero_shot", "fine_tuning", "sigmoid_loss"}


@pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.stem)
def test_a_notebook_reads_from_top_to_bottom_and_holds_its_outputs(path):
    cells = cells_of(path)
    assert cells[0]["cell_type"] == "markdown"
    assert "".join(cells[0]["source"]).startswith("# ")
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error" or is_log(output)]
    assert sum(bool(cell["outputs"]) for cell in code) >= 3
    for cell in code:
        source = "".join(cell["source"])
        ast.parse(source.partition("\n")[2] if source.startswith("%%") else source)
    assert path.stat().st_size < 400_000


@THOROUGH
@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.stem)
def test_a_notebook_is_carried_out_to_its_end(path, tmp_path):
    pytest.importorskip("nbclient", reason="nbclient is not installed")
    done = carried_out(path, tmp_path)
    stored = [cell for cell in cells_of(path) if cell["cell_type"] == "code"]
    code = [cell for cell in done.cells if cell.cell_type == "code"]
    assert list(map(says_something, code)) == list(map(says_something, stored))


def says_something(cell) -> bool:
    return any(not is_log(output) for output in cell["outputs"])
