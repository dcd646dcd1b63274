"""The options of each recipe as its command line begins with them."""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

from diptych.engine import command_line

RECIPES = Path(__file__).parents[2] / "recipes"


@dataclass(frozen=True)
class Asked:
    """What a recipe asks of the command line: its options with their defaults, and what it says about itself."""

    options: Any
    description: str


class _Reached(BaseException):
    pass


def recipe_options() -> dict[str, Asked]:
    """The options of every recipe by its name; of presets those of the first."""
    found = {}
    for path in sorted(RECIPES.glob("[!_]*.py")):
        module = import_module(f"diptych.recipes.{path.stem}")
        with mock.patch.object(command_line.tyro, "cli", side_effect=_Reached) as cli:
            try:
                module.main([])
            except _Reached:
                found[path.stem] = Asked(cli.call_args.kwargs["default"], module.__doc__)
    return found
