"""From default options and the words on the command line to the options of a run."""

import os
import sys
from typing import TypeVar

import tyro

from diptych.backends.selection import BACKENDS, BackendNotAvailable, select_backend

Options = TypeVar("Options")
"""A frozen dataclass; a recipe, for those that train."""


def parse(default: Options, arguments: list[str] | None, *, program: str, description: str | None) -> Options:
    """The default options with the given flags changed, and a backend chosen for Keras, which is not imported yet.

    Leaves the process with a message and status 2 for a flag that does not exist, a value that does not fit, or a backend
    that is not installed.
    """
    try:
        options = tyro.cli(
            type(default),
            default=default,
            args=arguments,
            prog=program,
            description=description,
            config=(tyro.conf.OmitArgPrefixes,),
        )
        unset = not os.environ.get("KERAS_BACKEND")
        backend = select_backend()
    except (ValueError, BackendNotAvailable) as error:
        print(f"{program}: {error}", file=sys.stderr)
        sys.exit(2)
    if unset:
        print(f"KERAS_BACKEND is not set: using {backend}, the first installed of {', '.join(BACKENDS)}.", flush=True)
    return options
