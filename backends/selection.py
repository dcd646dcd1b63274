"""The choice of the backend that Keras runs on, made before Keras is imported."""

import os
import sys
from importlib.util import find_spec

BACKENDS = ("jax", "torch", "tensorflow")  # the order of preference where KERAS_BACKEND does not say


class BackendNotAvailable(RuntimeError):
    """No usable backend; the message says what to type."""


def installed_backends() -> tuple[str, ...]:
    """The backends that can be imported here, in order of preference; none of them is imported."""
    return tuple(name for name in BACKENDS if _is_installed(name))


def select_backend() -> str:
    """Set KERAS_BACKEND where it is unset, check it where it is set, and return it: "jax", "torch" or "tensorflow".

    Call it before anything that imports Keras. Unset, the first installed of jax, torch and tensorflow is taken. The
    backend in Keras's own settings file (~/.keras/keras.json) is not asked: a run should not depend on a file that
    neither its command nor its folder shows.

    Raises `BackendNotAvailable` when the variable names something unknown or not installed, when nothing is installed,
    or when Keras is already running on another backend.
    """
    installed = installed_backends()
    chosen = os.environ.get("KERAS_BACKEND")
    if chosen and chosen not in BACKENDS:
        raise BackendNotAvailable(
            f"KERAS_BACKEND={chosen!r} is not a backend of diptych: expected one of {', '.join(BACKENDS)}. "
            f"{_choice(installed)}"
        )
    if not installed:
        raise BackendNotAvailable(
            f"No backend is installed: expected one of {', '.join(BACKENDS)}. Type: {_install(chosen or BACKENDS[0])}"
        )
    if chosen and chosen not in installed:
        raise BackendNotAvailable(
            f"KERAS_BACKEND={chosen} but {chosen} is not installed. Type: {_install(chosen)}. {_choice(installed)}"
        )
    backend = chosen or installed[0]
    if "keras" in sys.modules and (running := sys.modules["keras"].config.backend()) != backend:
        raise BackendNotAvailable(
            f"Keras was imported on {running} before {backend} was selected, and cannot change. "
            f"Call select_backend() before the first import of keras, or set KERAS_BACKEND={backend} in the shell."
        )
    os.environ["KERAS_BACKEND"] = backend
    # Keras imports tensorflow where it is installed, whatever the backend, and tensorflow greets with a screenful of
    # notes.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    return backend


def _is_installed(name: str) -> bool:
    spec = find_spec(name)
    return spec is not None and spec.loader is not None and spec.origin is not None  # a bare folder has no origin


def _install(backend: str) -> str:
    return f'pip install "diptych[{backend}]", or pip install -e ".[{backend}]" in a checkout'


def _choice(installed: tuple[str, ...]) -> str:
    if not installed:
        return f"None of them is installed; type: {_install(BACKENDS[0])}"
    return "Installed here: " + ", ".join(f"KERAS_BACKEND={name}" for name in installed)
