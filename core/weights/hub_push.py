"""Files to a repository of the Hugging Face hub, which is made where it is missing, in one commit."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path

from diptych.core.files.errors import HubError
from diptych.core.weights.hub import SCHEME, first_line, repository_of


def push(files: Mapping[str, Path | bytes], address: str, *, private: bool = False, message: str) -> str:
    """Uploads files, and returns the address of the commit.

    What the hub has already is not sent again: after an interruption, the same call goes on. The hub's own settings
    apply: HF_TOKEN or `hf auth login`, HF_ENDPOINT, HF_HUB_DISABLE_PROGRESS_BARS.

    Args:
        files: by their names in the repository. Others that lie there stay.
        address: "hf://owner/name".
        private: whether a repository that is made is private; one that is there must be so then.
        message: of the commit.

    Raises:
        ValueError: for a malformed address.
        HubError: without a token, with one that the hub refuses or that may not write there, where a repository is
            public that was to be private, and where the hub cannot be reached.
        ImportError: where huggingface_hub is not installed.
    """
    repository, revision = repository_of(address)
    if revision is not None:
        raise ValueError(f"{address!r} names a revision; files go to the main branch: give {SCHEME}{repository}.")
    try:
        from huggingface_hub import CommitOperationAdd, HfApi, get_token
    except ImportError as error:
        raise ImportError(f"To push to {address}, huggingface_hub is needed: pip install 'diptych[hub]'.") from error
    if get_token() is None:
        raise HubError(f"{address} needs a token that may write: log in with `hf auth login` or set HF_TOKEN.")
    with _in_sentences(address):
        hub = HfApi(library_name="diptych")
        hub.create_repo(repository, private=private or None, exist_ok=True)
        if private and not hub.model_info(repository).private:
            raise HubError(
                f"{address} exists and is public, and --private was asked for. Nothing was uploaded: make it private "
                "in its settings, or give another name."
            )
        operations = [CommitOperationAdd(name, file) for name, file in files.items()]
        return str(hub.create_commit(repository, operations, commit_message=message).commit_url)


@contextmanager
def _in_sentences(address: str) -> Iterator[None]:
    """Turns what the hub or the connection raise into a sentence with the next step."""
    from huggingface_hub import errors

    try:
        yield
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        reason = first_line(error)
        advice = {
            401: "The hub does not know the token: log in anew with `hf auth login`, or set HF_TOKEN.",
            403: "The token may not write there: take one with write access to that owner's repositories.",
            404: "The hub has no such owner, or the token may not see the repository.",
        }.get(status or 0, "The same command again goes on from there.")
        raise HubError(f"{address} was not pushed: {reason}. {advice}") from error
    except _transport_errors() as error:
        raise HubError(
            f"{address} was not pushed, the hub cannot be reached: {type(error).__name__}: {first_line(error)}. The "
            "same command again goes on from there."
        ) from error


def _transport_errors() -> tuple[type[Exception], ...]:
    """What a connection fails by: requests' errors, which are the system's, or those of the httpx that huggingface_hub
    has come to use, whichever is installed.
    """
    found: list[type[Exception]] = [OSError]
    for name in ("httpx", "httpx2"):
        with suppress(ImportError):
            found.append(import_module(name).HTTPError)
    return tuple(found)
