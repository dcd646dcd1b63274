"""Files far away by what a person types: an address, a pattern of such, or a folder."""

import fnmatch
import posixpath
import re
from collections.abc import Sequence
from glob import has_magic

from diptych.core.files.errors import RemoteError
from diptych.core.files.remote import retries
from diptych.core.files.remote.file import RemoteFile
from diptych.core.files.remote.filesystem import described_by, failed, filesystem_of
from diptych.core.files.remote.hub import KINDS, SCHEME, hub_files

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://")


def is_remote(text: str) -> bool:
    """Whether a text is an address rather than a path."""
    return _ADDRESS.match(text) is not None


def find_remote(address: str) -> list[RemoteFile]:
    """The files that an address stands for, at least one, in the order of their names: itself, those that fit a
    pattern, or the shards or tables of a folder. Over HTTP nothing can be listed: there an address is a file's.

    Raises:
        ValueError: for an address of no known kind, and a folder of which several things may be meant.
        RemoteError, HubError: for what is not there, or cannot be asked.
        ImportError: where a package is missing for this kind of address.
    """
    if address.startswith(("http://", "https://")):
        if "*" in address:
            raise ValueError(
                f"{address}: a web server does not list its files, so * cannot be used; give a range of numbers, such "
                "as https://server/{00000..00999}.tar"
            )
        return [RemoteFile(address)]
    if address.startswith("hf://"):
        if not address.startswith(SCHEME):
            raise ValueError(f"{address}: data sets of the hub are {SCHEME}owner/name; hf://owner/name is a model.")
        files, path = hub_files(address)
        return _chosen(address, files, path)
    return _in_filesystem(address)


def _in_filesystem(address: str) -> list[RemoteFile]:
    system, path = filesystem_of(address)
    if path.endswith(KINDS) and not has_magic(path):
        return [RemoteFile(address)]

    def listed() -> dict[str, dict]:
        try:
            return system.glob(path, detail=True) if has_magic(path) else system.find(path, detail=True)
        except Exception as error:
            raise failed(address, error) from error

    found = retries.USUAL.answer(address, listed)
    files = {
        posixpath.relpath(name, path) if not has_magic(path) else name: RemoteFile(
            system.unstrip_protocol(name), described_by(info)
        )
        for name, info in sorted(found.items())
        if info.get("type") == "file"
    }
    return _chosen(address, files, "**" if has_magic(path) else "")


def _chosen(address: str, files: dict[str, RemoteFile], path: str) -> list[RemoteFile]:
    """Those that a path among the files means: one file, all that fit a pattern, or what a folder holds.

    As in a shell, * stays within a folder, and ** does not.
    """
    if path in files:
        return [files[path]]
    if has_magic(path):
        chosen = {name: file for name, file in files.items() if _fits(name, path)}
    else:
        inside = {name: file for name, file in files.items() if not path or name.startswith(f"{path}/")}
        kind = next((kind for kind in KINDS if any(name.endswith(kind) for name in inside)), "")
        chosen = {name: file for name, file in inside.items() if kind and name.endswith(kind)}
        _check_one_folder(address, path, list(chosen))
    if not chosen:
        raise RemoteError(
            f"{address} holds no {' or '.join(KINDS)} files; {len(files):,} others are there"
            f"{f', such as {min(files)}' if files else ''}."
        )
    return list(chosen.values())


def _fits(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern) and ("**" in pattern or name.count("/") == pattern.count("/"))


def _check_one_folder(address: str, path: str, names: Sequence[str]) -> None:
    folders = sorted({posixpath.dirname(name) for name in names})
    if len(folders) > 1:
        base = address.rstrip("/").removesuffix(f"/{path}" if path else "")
        raise ValueError(
            f"{address} holds files in {len(folders)} folders: {', '.join(folders[:8])}; choose one, such as "
            f"{base}/{folders[0]}"
        )
