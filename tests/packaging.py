"""The contents that a wheel of diptych must have, read from the tree; and a wheel built from it."""

import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path, PurePosixPath
from zipfile import ZipFile

from tests.tree import IGNORED, ROOMS, ROOT, files

NOT_INSTALLED = "core/data/emoji/building/"


def wanted(root: Path = ROOT) -> set[str]:
    """The files that an installation needs: all of `diptych/` and of the rooms, code and data, but what makes the
    data.
    """
    found = {path.as_posix() for path in files(root) if path.parts[0] in (*ROOMS, "diptych")}
    found = {name for name in found if not name.startswith(NOT_INSTALLED)}
    return {name if name.startswith("diptych/") else f"diptych/{name}" for name in found}


def differences(wheel_names: list[str], wanted_names: set[str]) -> list[str]:
    """What a wheel lacks and what it holds besides `diptych/` and its own metadata, each as a sentence."""
    held = {name for name in wheel_names if not PurePosixPath(name).parts[0].endswith(".dist-info")}
    lacks = [f"the wheel lacks {name}" for name in sorted(wanted_names - held)]
    return lacks + [f"the wheel holds {name}, which the tree has not" for name in sorted(held - wanted_names)]


def copy_tree(root: Path, target: Path) -> Path:
    """A copy of the checkout to build in, links kept as links, without what git ignores."""
    ignored = shutil.ignore_patterns(".[!c]*", "*.egg-info", *IGNORED)
    return Path(shutil.copytree(root, target, symlinks=True, ignore=ignored))


def build(target: Path, root: Path = ROOT) -> Path:
    """Build the source distribution, and the wheel from what it holds, into `target`; returns the wheel.

    The build happens in a copy, so that the checkout keeps neither `build/` nor `*.egg-info`. setuptools runs as it is
    installed here: nothing is fetched.
    """
    target = target.resolve()
    with tempfile.TemporaryDirectory(prefix="build-") as temporary:
        tree = copy_tree(root, Path(temporary) / "tree")
        _setuptools("build_sdist", tree, target)
        (source,) = target.glob("*.tar.gz")
        with tarfile.open(source) as archive:
            # Python 3.11.2, which Debian 12 has, knows no filters.
            archive.extraction_filter = getattr(tarfile, "data_filter", None)
            archive.extractall(temporary)
        _setuptools("build_wheel", Path(temporary) / source.name.removesuffix(".tar.gz"), target)
    (wheel,) = target.glob("*.whl")
    return wheel


def _setuptools(hook: str, tree: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    code = f"import setuptools.build_meta as backend; backend.{hook}({str(target)!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=tree, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{hook} failed in a copy of {tree.name}:\n{done.stderr[-4000:]}")


def main(target: str) -> None:
    """Build a wheel and check what it holds: `python -m tests.packaging dist`."""
    wheel = build(Path(target))
    with ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
    if wrong := differences(names, wanted()):
        sys.exit("\n".join(wrong))
    print(f"{wheel.name}: {len(names)} files, {wheel.stat().st_size / 1e6:.1f} MB, one package: diptych")


if __name__ == "__main__":
    main(sys.argv[1])
