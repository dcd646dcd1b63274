"""A wheel holds every module and every data file, under one name."""

import tarfile
import tomllib
from pathlib import Path
from zipfile import ZipFile

import pytest

import diptych
from tests.packaging import build, differences, wanted
from tests.tree import ROOT


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with the source distribution and the wheel of this tree."""
    folder = tmp_path_factory.mktemp("built")
    build(folder)
    return folder


def test_the_tree_is_read():
    names = wanted()
    assert {"diptych/__init__.py", "diptych/core/data/__init__.py", "diptych/models/siglip/vit.py"} <= names
    assert not {name for name in names if "__pycache__" in name or name.startswith(("diptych/tests", "tests"))}


def test_the_wheel_holds_the_tree_and_nothing_else(built):
    with ZipFile(next(built.glob("*.whl"))) as wheel:
        assert differences([name for name in wheel.namelist() if not name.endswith("/")], wanted()) == []


def test_the_source_distribution_holds_the_tree(built):
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert wanted() <= held
    assert {"pyproject.toml", "LICENSE"} <= held


def test_what_is_missing_or_foreign_is_named():
    whole = wanted()
    lacking = sorted(whole - {"diptych/models/siglip/vit.py"})
    assert differences(lacking, whole) == ["the wheel lacks diptych/models/siglip/vit.py"]
    foreign = differences([*whole, "models/siglip/vit.py", "diptych-0.1.0.dist-info/METADATA"], whole)
    assert foreign == ["the wheel holds models/siglip/vit.py, which the tree has not"]


def test_the_base_install_needs_no_framework():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    base = " ".join(project["dependencies"])
    assert not [name for name in ("jax", "torch", "tensorflow", "pyarrow", "matplotlib") if name in base]
    assert {"jax", "torch", "tensorflow"} <= set(project["optional-dependencies"])


def test_the_version_is_said_in_one_way():
    """What people cite is what is built; a release's workflow holds its tag to it."""
    yaml = pytest.importorskip("yaml")
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == diptych.__version__
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert cited["license"] == project["license"]
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "publish.yml").read_text(encoding="utf-8"))
    build, publish = workflow["jobs"]["build"], workflow["jobs"]["publish"]
    assert any("diptych.__version__" in step.get("run", "") for step in build["steps"])
    assert publish["needs"] == "build"
    assert publish["permissions"] == {"id-token": "write"}


def test_the_supported_pythons_are_those_that_are_tested():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = [name.rpartition(" ")[2] for name in project["classifiers"] if ":: Python :: 3." in name]
    assert f"SUPPORTED = {named}".replace("'", '"') in (ROOT / "noxfile.py").read_text(encoding="utf-8")
