"""What a wheel of diptych must hold, read from the tree; and what one holds, read from its file."""

import shutil
import sys
from pathlib import Path, PurePosixPath
from zipfile import ZipFile

from tests.tree import IGNORED, ROOMS, ROOT, files


def wanted(root: Path = ROOT) -> set[str]:
    """The files that an installation needs: all of `diptych/` and of the four rooms, code and data."""
    found = {path.as_posix() for path in files(root) if path.parts[0] in (*ROOMS, "diptych")}
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


def main(wheel: str) -> None:
    """Check a built wheel: `python -m tests.packaging dist/diptych-0.1.0-py3-none-any.whl`."""
    with ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
    if wrong := differences(names, wanted()):
        sys.exit("\n".join(wrong))
    print(f"{wheel}: {len(names)} files, {Path(wheel).stat().st_size / 1e6:.1f} MB, one package: diptych")


if __name__ == "__main__":
    main(sys.argv[1])
