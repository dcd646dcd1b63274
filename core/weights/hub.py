"""The files of a preset: a folder, a file, or a repository of the Hugging Face hub, fetched once and then cached."""

import re
from collections.abc import Collection, Sequence
from pathlib import Path

from diptych.core.files.errors import HubError
from diptych.core.files.json_objects import read_json
from diptych.core.spelling import did_you_mean
from diptych.core.weights.open import PICKLES, WEIGHTS, find_weights

SCHEME = "hf://"
SHIPPED = {"emoji_36_languages": Path(__file__).parent / "shipped" / "emoji_36_languages"}
"""Trained models that come with diptych, and their folders."""

SETTINGS = ("*.json", "*.txt", "*.model")
"""Configurations, vocabularies and tokenizers."""

_OTHER_WEIGHTS = ("*.npz", "*.safetensors", "*.weights.h5")
_NEVER = tuple(f"*{suffix}" for suffix in PICKLES) + ("*/*",)
_REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)


def preset_folder(
    preset: str | Path,
    *,
    revision: str | None = None,
    patterns: Sequence[str] | None = None,
    known: Collection[str] = (),
) -> Path:
    """The folder, or the single file of weights, that a preset is.

    Args:
        preset: a path, the name of a model that is shipped, or "hf://owner/name" or "hf://owner/name@revision". The
            hub's own settings apply: HF_HOME, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE; what was fetched before is
            found without a connection.
        revision: a branch, tag or commit of the hub's repository.
        patterns: which of the repository's files to fetch; the default is its settings and its weights, in one format.
            Pickles and folders inside the repository are never fetched.
        known: names that may have been meant, for the message where there is no such path.

    Raises:
        FileNotFoundError: for a path that is not there.
        ValueError: for a malformed name, and for a revision of a path.
        HubError: for a repository or revision that is not there, may not be read, or cannot be fetched now.
        ImportError: where huggingface_hub is not installed.
    """
    name = str(preset)
    if name in SHIPPED:
        return SHIPPED[name]
    if not name.startswith(SCHEME):
        if revision is not None:
            raise ValueError(
                f"revision={revision!r} belongs to repositories of the hub ({SCHEME}owner/name), not to {name}."
            )
        return _local(name, known)
    repository, commit = repository_of(name)
    if commit and revision not in (None, commit):
        raise ValueError(f"{name!r} and revision={revision!r} name two revisions, give one.")
    revision = commit or revision
    if patterns is not None:
        return _fetch(repository, revision, patterns)
    return _fetch_model(repository, revision)


def repository_of(address: str) -> tuple[str, str | None]:
    """Owner and name of the hub's repository in an address, and the revision if it names one.

    Raises:
        ValueError: for anything but "hf://owner/name" and "hf://owner/name@revision".
    """
    repository, at, commit = address.removeprefix(SCHEME).partition("@")
    if not address.startswith(SCHEME) or not _REPOSITORY.fullmatch(repository) or (at and not commit):
        raise ValueError(
            f"{address!r} names no repository, expected {SCHEME}owner/name or {SCHEME}owner/name@revision."
        )
    return repository, commit or None


def _local(name: str, known: Collection[str]) -> Path:
    path = Path(name).expanduser()
    if path.exists():
        return path
    beside = [str(path.with_name(entry.name)) for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    advice = did_you_mean(name, [*SHIPPED, *known, *beside], most=3)
    if _REPOSITORY.fullmatch(name):
        advice += f" For a repository of the hub, write {SCHEME}{name}."
    raise FileNotFoundError(f"{name!r} is neither a folder, a file of weights nor a preset's name.{advice}")


def _fetch_model(repository: str, revision: str | None) -> Path:
    """Settings first; then weights, of the first kind that is there, so that nobody waits for the same weights
    twice.
    """
    folder = _fetch(repository, revision, SETTINGS)
    # All that follows is asked of the same commit: a branch may move in between. The cache names its folders by
    # commits.
    for name in (*WEIGHTS, *_OTHER_WEIGHTS):
        _fetch(repository, folder.name, [name])
        found = find_weights([entry.name for entry in folder.iterdir()])
        if found is not None and found.endswith(".json"):
            files = read_json(folder / found).get("weight_map", {}).values()
            _fetch(repository, folder.name, sorted({str(file) for file in files}))
        if found is not None:
            return folder
    raise HubError(
        f"{SCHEME}{repository} holds no weights that are safe to read. Looked for "
        f"{', '.join((*WEIGHTS, *_OTHER_WEIGHTS))}. Weights that are there as pickles only can be converted with "
        "https://huggingface.co/spaces/safetensors/convert."
    )


def _fetch(repository: str, revision: str | None, patterns: Sequence[str]) -> Path:
    try:
        from huggingface_hub import errors, snapshot_download
    except ImportError as error:
        raise ImportError(
            f"To fetch {SCHEME}{repository}, huggingface_hub is needed: pip install huggingface_hub."
        ) from error
    where = f"{SCHEME}{repository}" + (f"@{revision}" if revision else "")
    try:
        folder = snapshot_download(
            repository, revision=revision, allow_patterns=list(patterns), ignore_patterns=list(_NEVER)
        )
    except errors.GatedRepoError as error:
        raise HubError(
            f"{where} is gated: agree to its terms at https://huggingface.co/{repository}, then log in with `hf auth "
            "login` or set HF_TOKEN."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise HubError(f"{where}: the repository has no revision {revision!r}.") from error
    except errors.RepositoryNotFoundError as error:
        raise HubError(
            f"{where} does not exist, or is private; then log in with `hf auth login` or set HF_TOKEN."
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise HubError(
            f"{where} is not in the cache, and the hub cannot be reached ({first_line(error)}). Fetch it once with a "
            "connection, without HF_HUB_OFFLINE, or give a folder."
        ) from error
    except errors.HfHubHTTPError as error:
        raise HubError(f"{where} could not be fetched: {first_line(error)}") from error
    return Path(folder)


def first_line(error: Exception) -> str:
    """What huggingface_hub found, without the advice that it adds."""
    return str(error).strip().partition("\n")[0].rstrip(". ")
