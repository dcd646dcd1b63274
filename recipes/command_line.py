"""From a recipe and the words on the command line to the recipe that is run."""

import os
import sys

import tyro

from diptych.backends.selection import BACKENDS, BackendNotAvailable, select_backend
from diptych.core.training.recipe import Recipe


def parse(default: Recipe, arguments: list[str] | None, *, program: str, description: str | None) -> Recipe:
    """The default recipe with the given flags changed, and a backend chosen for Keras, which is not imported yet.

    Leaves the process with a message and status 2 for a flag that does not exist, a value that does not fit, or a backend
    that is not installed.
    """
    try:
        recipe = tyro.cli(
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
    return recipe
