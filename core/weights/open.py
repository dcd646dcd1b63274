"""The format that weights are in, and the file of a folder that holds them."""

from collections.abc import Collection
from pathlib import Path

from diptych.core.files.beginnings import BEGINNING_BYTES, mistaken
from diptych.core.files.errors import WeightFileError
from diptych.core.files.regular import open_regular
from diptych.core.weights.files import WeightFiles
from diptych.core.weights.flat_shards import SHAPES_FILE, FlatShards
from diptych.core.weights.hdf5 import Hdf5File
from diptych.core.weights.npz import NpzFile
from diptych.core.weights.safetensors import SafetensorsFile
from diptych.core.weights.shards import ShardedWeights

WEIGHTS = (
    "open_clip_model.safetensors",
    "model.safetensors",
    "model.safetensors.index.json",
    "model.weights.h5",
    "model.weights.json",
)
"""Files that hold a model's weights, or list the files that do: of several in one folder the first here is read.

Repositories with both have open_clip's configuration as well as transformers', and the first is the more exact of the
two.
"""

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
"""Files that are programs: to read one is to run it."""

_ANY_NAME = (".safetensors", ".npz", ".weights.h5")
_INDICES = (".safetensors.index.json", ".weights.json")
_PICKLE_ADVICE = (
    "A pickle is a program that would run while it is read. Where you trust it, convert it with safetensors: "
    'safetensors.torch.save_file(torch.load(path, weights_only=True), "model.safetensors").'
)


def open_weights(path: Path) -> WeightFiles:
    """The weights in a file, or in the folder of a model.

    Args:
        path: a .safetensors, .npz or .weights.h5 file, a list of shards (model.safetensors.index.json,
            model.weights.json), OpenAI's list of shapes (params_shapes.json), or a folder with one of `WEIGHTS` or with
            a single file of these kinds.

    Raises:
        FileNotFoundError: where there are none, saying what was looked for.
        WeightFileError: for pickles, for damage, and for shards that do not fit together.
    """
    path = Path(path)
    if path.is_dir():
        names = [entry.name for entry in path.iterdir() if entry.is_file()]
        found = find_weights(names)
        if found is None:
            raise _no_weights(path, names)
        path = path / found
    if not path.is_file():
        raise FileNotFoundError(f"{path} is neither a file nor a folder of weights.")
    if path.suffix in PICKLES:
        raise WeightFileError(f"{path} is a pickle. {_PICKLE_ADVICE}")
    if path.name == SHAPES_FILE:
        return FlatShards(path)
    if path.name.endswith(_INDICES):
        return ShardedWeights(path, _open_file)
    return _open_file(path)


def find_weights(names: Collection[str]) -> str | None:
    """The name among those of a folder's files under which its weights are read."""
    for name in WEIGHTS:
        if name in names:
            return name
    others = [name for name in names if name.endswith(_ANY_NAME)]
    return others[0] if len(others) == 1 else None


def _open_file(path: Path) -> WeightFiles:
    """A file says by its first bytes what it is; what no format begins with is read as safetensors."""
    with open_regular(path) as file:
        start = file.read(BEGINNING_BYTES)
    if start.startswith(b"\x89HDF"):
        return Hdf5File(path)
    if start.startswith(b"PK") and path.suffix == ".npz":
        return NpzFile(path)
    if start.startswith(b"PK") or (start[:1] == b"\x80" and start[1:2] in (b"\2", b"\3", b"\4", b"\5")):
        raise WeightFileError(f"{path} is a pickle, or an archive that may hold one. {_PICKLE_ADVICE}")
    expected = {".npz": "a .npz archive", ".h5": "HDF5"}
    if what := mistaken(start, expected.get(path.suffix, "safetensors")):
        raise WeightFileError(f"{path} {what}")
    return SafetensorsFile(path)


def _no_weights(folder: Path, names: list[str]) -> FileNotFoundError | WeightFileError:
    pickles = sorted(name for name in names if name.endswith(PICKLES))
    several = sorted(name for name in names if name.endswith(_ANY_NAME))
    if several:
        return FileNotFoundError(f"{folder} holds several files of weights, give one of them: {', '.join(several)}.")
    if pickles:
        return WeightFileError(f"{folder} holds weights as pickles only ({', '.join(pickles)}). {_PICKLE_ADVICE}")
    return FileNotFoundError(
        f"{folder} holds no weights. Looked for {', '.join(WEIGHTS)}, or a single file {' or '.join(_ANY_NAME)}; found "
        f"{', '.join(sorted(names)[:20]) or 'no files'}."
    )
