"""Files of object stores, read by fsspec: Amazon's S3, Google's cloud storage, and whatever else it knows."""

import time
from collections.abc import Mapping
from typing import Any

from diptych.core.files.errors import RemoteError
from diptych.core.files.remote.store import Described, TryAgain, check_unchanged

_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs"}
_IDENTITIES = ("ETag", "etag", "md5Hash", "generation", "content_md5", "LastModified", "last_modified", "updated")
_TIMES = ("mtime", "created")
_SECONDS_BETWEEN_CHECKS = 60.0


class FilesystemStore:
    """Errors of a store are as many as there are stores: only what Python itself has names for is not tried again."""

    def __init__(self) -> None:
        self._checked: dict[str, float] = {}  # when each file was last described

    def describe(self, url: str) -> Described:
        """See `store.Store`."""
        system, path = filesystem_of(url)
        try:
            system.invalidate_cache()
            info = system.info(path)
        except Exception as error:
            raise failed(url, error) from error
        self._checked[url] = time.monotonic()
        return described_by(info)

    def fetch(self, url: str, offset: int, size: int, expected: Described) -> bytes:
        """See `store.Store`; stores say nothing of a file while they send it, so it is described again now and then."""
        if time.monotonic() - self._checked.setdefault(url, time.monotonic()) > _SECONDS_BETWEEN_CHECKS:
            check_unchanged(url, self.describe(url), expected)
        system, path = filesystem_of(url)
        try:
            data = system.cat_file(path, start=offset, end=offset + size)
        except Exception as error:
            raise failed(url, error) from error
        if len(data) != size:
            check_unchanged(url, self.describe(url), expected)
            raise TryAgain(f"it sent {len(data):,} of {size:,} bytes")
        return data


def filesystem_of(url: str) -> tuple[Any, str]:
    """fsspec's file system, and the path in it; fsspec keeps and shares them.

    Raises:
        ImportError: with what to install.
        ValueError: for a scheme that fsspec does not know.
    """
    scheme = url.partition("://")[0]
    package = _PACKAGES.get(scheme)
    try:
        import fsspec
    except ImportError:
        needed = f"fsspec and {package} are" if package else "fsspec is"
        raise ImportError(
            f"to read {url}, {needed} needed: pip install 'diptych[remote]'{f' {package}' if package else ''}"
        ) from None
    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        what = f"{package} is needed: pip install {package}" if package else f"a package is missing: {error}"
        raise ImportError(f"to read {url}, {what}") from None
    except ValueError:
        raise ValueError(
            f"{url}: there is no way to read {scheme}://; known are https://, s3://, gs://, hf://datasets/ and what "
            "fsspec knows."
        ) from None


def described_by(info: Mapping[str, Any]) -> Described:
    """A file by what its file system says of it."""
    identity = next((str(info[name]) for name in (*_IDENTITIES, *_TIMES) if info.get(name) is not None), "")
    return Described(int(info["size"]), identity)


def failed(url: str, error: Exception) -> Exception:
    """What an error of a file system comes to."""
    if isinstance(error, FileNotFoundError):
        return RemoteError(f"no file {url}. Is the address right?")
    if isinstance(error, PermissionError):
        return RemoteError(f"{url} may not be read: {error}. Log in, or ask for access.")
    if type(error).__name__ in ("NoCredentialsError", "DefaultCredentialsError"):
        return RemoteError(f"{url} needs a login: {error}.")
    return TryAgain(f"{type(error).__name__}: {error}".partition("\n")[0].rstrip(": "))
