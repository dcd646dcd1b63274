"""The card of a run: everything needed to know what was run, on what, and to run it again. It never holds a secret."""

import dataclasses
import enum
import functools
import importlib.metadata
import os
import platform
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import diptych

Card = dict[str, Any]
"""A card, in JSON's types: what `resolve_card` says, and what whoever keeps the run adds to it; a card of an earlier
version may lack some of it."""


class GitState(TypedDict):
    """Which code ran."""

    commit: str
    dirty: bool  # whether tracked files differed from it


class Machine(TypedDict):
    """What it ran on."""

    platform: str
    processor: str | None
    cpus: int | None
    usable_cpus: int | None  # those that the process may use


# Only these are stored: an environment also holds keys and tokens.
ENVIRONMENT = (
    "KERAS_BACKEND",
    "CUDA_VISIBLE_DEVICES",
    "CUBLAS_WORKSPACE_CONFIG",
    "NVIDIA_TF32_OVERRIDE",
    "PYTHONHASHSEED",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "XLA_FLAGS",
    "XLA_PYTHON_CLIENT_PREALLOCATE",
    "XLA_PYTHON_CLIENT_MEM_FRACTION",
    "JAX_PLATFORMS",
    "JAX_ENABLE_X64",
    "JAX_DEFAULT_MATMUL_PRECISION",
    "JAX_THREEFRY_PARTITIONABLE",
    "TF_DETERMINISTIC_OPS",
    "TF_ENABLE_ONEDNN_OPTS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
    "TF_XLA_FLAGS",
    "TORCHINDUCTOR_MAX_AUTOTUNE",
    "PYTORCH_CUDA_ALLOC_CONF",
    "SLURM_JOB_ID",
    "SLURM_NNODES",
    "SLURM_NTASKS",
)
_FRAMEWORK_PACKAGES = {"jax": ("jax", "jaxlib"), "torch": ("torch",), "tensorflow": ("tensorflow", "tensorflow-cpu")}
_SECRET_WORD = re.compile(
    r"(?i)(?:^|[-_.])(?:token|secret|password|passwd|passphrase|credentials?|api-?_?key|access-?_?key|auth)(?:$|[-_.])"
)
_HIDDEN = "(hidden)"


def resolve_card(
    config: object,
    *,
    seed: int,
    backend: str,
    implementation: str,
    parameters: int | None,
    flops_per_step: float | None = None,
    device: str | None = None,
    peak_flops_per_second: float | None = None,
) -> Card:
    """The card of a run that starts now, as plain JSON.

    `config` is the recipe (a dataclass); `device` and `peak_flops_per_second` come from the backend, None where it does
    not know them.
    """
    return {
        "config": plain(config),
        "seed": seed,
        "backend": backend,
        "implementation": implementation,
        "parameters": parameters,
        "flops_per_step": flops_per_step,
        "peak_flops_per_second": peak_flops_per_second,
        "device": device,
        "versions": versions(backend),
        "git": git_state(Path(__file__).resolve().parents[2]),
        "machine": machine(),
        "environment": {name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
        "command": command_line(),
        "start_time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "restarts": [],
    }


def plain(value: object, name: str = "config") -> object:
    """A configuration as plain JSON: dataclasses become dictionaries, paths strings, functions their dotted names.

    Strings in fields named like secrets (``hub_token``) are hidden.

    Raises: TypeError naming the field that has no faithful plain form.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value.value if isinstance(value, enum.Enum) else value
    if isinstance(value, enum.Enum | Path):
        return str(value) if isinstance(value, Path) else value.name
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _named(str(key), inner, f"{name}.{key}") for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [plain(inner, f"{name}[{place}]") for place, inner in enumerate(value)]
    if isinstance(value, set | frozenset):
        return sorted((plain(inner, name) for inner in value), key=repr)
    if isinstance(value, functools.partial):
        return {"function": plain(value.func, name), "arguments": plain([*value.args, value.keywords], name)}
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        return plain(value.item(), name)
    raise TypeError(
        f"{name} is a {type(value).__name__}, which a card cannot store: use a number, string, path, dataclass or "
        "named function"
    )


def versions(backend: str) -> dict[str, str | None]:
    """Versions of Python, diptych, keras, numpy and the packages of `backend`; None for what is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version(), "diptych": diptych.__version__}
    for package in ("keras", "numpy", *_FRAMEWORK_PACKAGES.get(backend, ())):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    if backend == "tensorflow":
        found = {
            package: version for package, version in found.items() if version or not package.startswith("tensorflow")
        }
    return found


def git_state(root: Path) -> GitState | None:
    """The state of a checkout; None without git or when `root` is not the top of one."""
    top = _git(root, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != root.resolve():
        return None
    commit, changes = _git(root, "rev-parse", "HEAD"), _git(root, "status", "--porcelain", "--untracked-files=no")
    return None if commit is None or changes is None else {"commit": commit, "dirty": bool(changes)}


def machine() -> Machine:
    """This machine, and what this process may use of it."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"platform": platform.platform(), "processor": _processor(), "cpus": os.cpu_count(), "usable_cpus": usable}


def command_line() -> str:
    """The command that started this process, as one would type it, without secrets."""
    return shlex.join(hide_secrets(sys.orig_argv))


def hide_secrets(arguments: Sequence[str]) -> list[str]:
    """The arguments of a command, with the values of options named like secrets, and passwords within addresses,
    hidden.
    """
    shown, hide_next = [], False
    for argument in arguments:
        option, equals, _ = argument.partition("=")
        if hide_next and not argument.startswith("-"):
            shown.append(_HIDDEN)
        elif _SECRET_WORD.search(option.lstrip("-")) and equals:
            shown.append(f"{option}={_HIDDEN}")
        else:
            shown.append(re.sub(r"(\w+://[^/\s:@]*):[^/\s@]*@", rf"\1:{_HIDDEN}@", argument))
        hide_next = argument.startswith("-") and not equals and bool(_SECRET_WORD.search(option.lstrip("-")))
    return shown


def _named(field: str, value: object, name: str) -> object:
    return _HIDDEN if isinstance(value, str) and _SECRET_WORD.search(field) else plain(value, name)


def _processor() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or None
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.processor() or None,
    )


def _git(root: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(root), "--no-optional-locks", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
