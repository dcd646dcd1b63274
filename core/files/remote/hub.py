"""Data sets of the Hugging Face hub by name: which files one has, at which commit, and where they are."""

import json
import re
from operator import itemgetter
from typing import NamedTuple
from urllib.parse import quote

from diptych.core.files.errors import HubError, RemoteError
from diptych.core.files.remote import retries
from diptych.core.files.remote.credentials import hub_address
from diptych.core.files.remote.file import RemoteFile
from diptych.core.files.remote.http import read_page
from diptych.core.files.remote.store import Described

SCHEME = "hf://datasets/"
KINDS = (".tar", ".parquet")
"""What is read far away; of a folder that holds both, the first."""
CONVERTED = "refs/convert/parquet"
"""The branch on which the hub itself keeps data sets as Parquet that are something else."""

_MOST_BYTES = 256 << 20  # a million files, each with its size
_NAMED = re.compile(
    r"(?P<name>[\w-][\w.-]*/[\w.-]+)(?:@(?P<revision>refs/(?:convert|pr)/[^/]+|[^/]+))?(?:/(?P<path>.*))?"
)


class HubFiles(NamedTuple):
    """The files of a data set at one commit, by their paths in it, and the path that was asked for, "" for all."""

    files: dict[str, RemoteFile]
    path: str


def hub_files(address: str) -> HubFiles:
    """The files of "hf://datasets/owner/name", with "@revision" or not, and with a path or pattern behind it or not.

    What is asked for later is asked of the commit that the revision is now, so it stays the same for the run.

    Raises:
        ValueError: for an address that names no data set.
        HubError: for one that is not there, or may not be read.
        RemoteError: where the hub cannot be reached.
    """
    named = _NAMED.fullmatch(address.removeprefix(SCHEME))
    if named is None:
        raise ValueError(
            f"{address!r} names no data set, expected {SCHEME}owner/name, with @revision or /path behind it."
        )
    name, revision, path = named["name"], named["revision"], named["path"] or ""
    files = _files_at(name, revision or "main")
    if revision is None and not any(file.endswith(KINDS) for file in files):
        files = _files_at(name, CONVERTED)
    return HubFiles(files, path.strip("/"))


def _files_at(name: str, revision: str) -> dict[str, RemoteFile]:
    """The files of a revision by their paths, in order; their sizes and checksums are the hub's."""
    address = f"{hub_address()}/api/datasets/{name}/revision/{quote(revision, safe='')}?blobs=true"
    try:
        page = retries.USUAL.answer(address, lambda: read_page(address, _MOST_BYTES))
    except RemoteError as error:
        if not any(f"answered {status} " in str(error) for status in (401, 403, 404)):
            raise
        raise HubError(
            f"{SCHEME}{name}@{revision} does not exist, or may not be read without logging in: log in with `hf auth "
            f"login` or set HF_TOKEN, after agreeing to its terms at {hub_address()}/datasets/{name} where it is gated."
        ) from error
    try:
        found = json.loads(page)
        where = f"{hub_address()}/datasets/{name}/resolve/{found['sha']}"
        return {
            file["rfilename"]: _file(where, file) for file in sorted(found["siblings"], key=itemgetter("rfilename"))
        }
    except (ValueError, LookupError, TypeError) as error:
        raise RemoteError(f"{address} answered what is no description of a data set ({error}).") from error


def _file(where: str, described: dict) -> RemoteFile:
    """A file as the hub describes it: with the checksum of its bytes, or git's, which is as good."""
    size, checksum = described.get("size"), (described.get("lfs") or {}).get("sha256") or described.get("blobId")
    url = f"{where}/{quote(described['rfilename'])}"
    return RemoteFile(url, None if size is None else Described(int(size), ""), checksum=str(checksum or ""))
