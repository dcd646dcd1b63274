"""The repository as files: what a checkout holds, without what git ignores."""

import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("core", "backends", "models", "engine", "recipes")
IGNORED = frozenset({"__pycache__", "build", "dist", "runs", "venv"})


def files(root: Path = ROOT, *suffixes: str) -> Iterator[Path]:
    """The files below `root`, links not followed, relative to it and in order; all of them, or those so suffixed."""
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(
            name
            for name in folders
            if name not in IGNORED and not name.endswith(".egg-info") and (not name.startswith(".") or name == ".ci")
        )
        for name in sorted(names):
            if not suffixes or name.endswith(suffixes):
                yield (Path(folder) / name).relative_to(root)


def text_files(root: Path = ROOT) -> Iterator[tuple[Path, str]]:
    """The files that are UTF-8 text, with their content."""
    for path in files(root):
        data = (root / path).read_bytes()
        if b"\0" not in data[:1024]:
            try:
                yield path, data.decode("utf-8")
            except UnicodeDecodeError:
                continue  # an image or an archive without a zero byte in its first kilobyte
