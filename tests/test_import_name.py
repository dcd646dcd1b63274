"""`import models` at a checkout's root is `diptych.models`; anywhere else it is whatever it was."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tree import ROOMS, ROOT


def python(*arguments: str, at: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=at, capture_output=True, text=True)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A checkout with the real `diptych` folder and rooms of a few lines, so that no framework is loaded."""
    root = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "diptych", root / "diptych", symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for room in ROOMS:
        source = (ROOT / room / "__init__.py").read_text(encoding="utf-8")
        statements = [ast.get_source_segment(source, node) or "" for node in ast.parse(source).body]
        (alias,) = (statement for statement in statements if statement.startswith(f'if __name__ == "{room}":'))
        (root / room / "inner").mkdir(parents=True)
        (root / room / "__init__.py").write_text(f"from diptych.{room}.part import Part\n{alias}", encoding="utf-8")
        (root / room / "part.py").write_text("print('loaded', __name__)\nclass Part: ...\n", encoding="utf-8")
        (root / room / "inner" / "__init__.py").write_text("", encoding="utf-8")
        (root / room / "inner" / "deep.py").write_text("class Deep: ...\n", encoding="utf-8")
    (root / "recipes" / "run.py").write_text(
        "print('run', __name__, __spec__.name)\nif __name__ == '__main__':\n    import sys; print(sys.argv[1:])\n",
        encoding="utf-8",
    )
    return root


@pytest.mark.parametrize("room", ROOMS)
@pytest.mark.parametrize("order", ["bare first", "diptych first"])
def test_both_names_give_the_same_objects(checkout, room, order):
    imports = [
        f"import {room}, {room}.part, {room}.inner.deep",
        f"import diptych.{room}.part, diptych.{room}.inner.deep",
    ]
    imports = imports if order == "bare first" else imports[::-1]
    same = [
        f"{name} is diptych.{name}" for name in (room, f"{room}.part", f"{room}.part.Part", f"{room}.inner.deep.Deep")
    ]
    named = f"{room}.part.__spec__.name == {room}.part.Part.__module__ == 'diptych.{room}.part'"
    done = python("-c", "\n".join([*imports, f"assert {' and '.join([*same, named])}"]), at=checkout)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["loaded", f"diptych.{room}.part"]


@pytest.mark.parametrize(
    "statement", ["import models.missing", "from models import missing", "import diptych.models.missing"]
)
def test_a_missing_module_is_an_import_error(checkout, statement):
    done = python("-c", statement, at=checkout)
    assert done.returncode == 1
    assert "missing" in done.stderr.splitlines()[-1]
    assert "Error" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("name", ["recipes.run", "diptych.recipes.run"])
def test_a_recipe_runs_by_either_name(checkout, name):
    done = python("-W", "error", "-m", name, "--steps", "3", at=checkout)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == [f"run __main__ {name}", "['--steps', '3']"]
    assert done.stdout.count("run ") == 1


def test_a_folder_of_that_name_elsewhere_is_left_alone(checkout, tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").write_text("", encoding="utf-8")
    (tmp_path / "models" / "vit.py").write_text("OWN = True\n", encoding="utf-8")
    code = (
        f"import sys; sys.path.append({str(checkout)!r})\n"
        "import diptych.models, models.vit, core.part\n"
        "assert models.vit.OWN and models is not diptych.models and core.part.Part.__module__ == "
        "'diptych.core.part'"
    )
    done = python("-c", code, at=tmp_path)
    assert done.returncode == 0, done.stderr


def test_links_that_git_wrote_as_text_are_explained(tmp_path):
    shutil.copytree(ROOT / "diptych", tmp_path / "diptych", ignore=lambda folder, names: set(names) - {"__init__.py"})
    (tmp_path / "diptych" / "core").write_text("../core", encoding="utf-8")
    done = python("-c", "import diptych", at=tmp_path)
    assert "core.symlinks=true" in done.stderr


@pytest.mark.parametrize("room", ROOMS)
def test_each_room_is_a_link_in_diptych(room):
    link = ROOT / "diptych" / room
    assert link.is_symlink()
    assert link.resolve() == ROOT / room


def test_the_real_rooms_too():
    code = (
        "import core.data.records, backends.selection, diptych.core.data.records, diptych.backends.selection\n"
        "assert core.data.records.Record is diptych.core.data.records.Record\n"
        "assert backends.selection.select_backend is diptych.backends.selection.select_backend"
    )
    done = python("-c", code, at=ROOT)
    assert done.returncode == 0, done.stderr
