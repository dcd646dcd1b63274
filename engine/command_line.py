"""The command line: default options and the words behind them -> the options of a run."""

import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import field, fields, is_dataclass, make_dataclass, replace
from pathlib import Path
from typing import Annotated, TypeVar, get_type_hints

import tyro

from diptych.backends.selection import BACKENDS, BackendNotAvailable, select_backend
from diptych.core.training.recipe import Recipe
from diptych.engine.failures import exit_status
from diptych.engine.flags import with_flags
from diptych.engine.stored_recipe import stored_recipe

CONFIG = (
    "The card.json of another run, or its folder: its options are the defaults, as that run resolved them, but for "
    "--run-dir. Further flags come on top."
)
Options = TypeVar("Options")
"""A frozen dataclass; a recipe, for those that train."""


def parse(default: Options, arguments: list[str] | None, *, program: str, description: str | None) -> Options:
    """The default options with the given flags changed, and a backend chosen for Keras, which is not imported yet.

    Leaves the process with a message and status 2 for a flag that does not exist, a value that does not fit, or a
    backend that is not installed.
    """
    try:
        options = tyro.cli(
            type(default),
            default=default,
            args=_with_values(sys.argv[1:] if arguments is None else arguments, type(default)),
            prog=program,
            description=description and _HEADINGS.sub("\n\n", description),
            config=(tyro.conf.OmitArgPrefixes,),
        )
        unset = not os.environ.get("KERAS_BACKEND")
        backend = select_backend()
    except (ValueError, BackendNotAvailable) as error:
        print(f"{program}: {with_flags(str(error), default)}", file=sys.stderr)
        sys.exit(2)
    if unset:
        print(f"KERAS_BACKEND is not set: using {backend}, the first installed of {', '.join(BACKENDS)}.", flush=True)
    return options


def train(recipe: Recipe, arguments: list[str] | None, *, program: str, description: str | None) -> int:
    """Runs a recipe with the command line's changes; returns the exit status."""
    recipe = parse_recipe(recipe, arguments, program=program, description=description)

    def imported_and_run() -> int:
        from diptych.engine.training.run import run

        return run(recipe)

    return exit_status(imported_and_run, recipe)  # a Ctrl-C that meets the imports is no fault either


def train_preset(
    presets: Mapping[str, Callable[[], Recipe]], arguments: list[str] | None, *, program: str, description: str | None
) -> int:
    """As `train`, of the preset that the first word names; without one it is the first preset."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    name = words.pop(0) if words and not words[0].startswith("-") else next(iter(presets))
    if name not in presets:
        print(f"{program}: there is no preset {name!r}; there are {', '.join(presets)}.", file=sys.stderr)
        return 2
    return train(presets[name](), words, program=f"{program} {name}", description=description)


def parse_recipe(recipe: Recipe, arguments: list[str] | None, *, program: str, description: str | None) -> Recipe:
    """As `parse`, for a recipe: flags of what none of its stages uses are neither shown nor taken, and `--config` gives
    the options of another run, to which the other flags are added.
    """
    arguments, stored = _without_config(sys.argv[1:] if arguments is None else arguments)
    try:
        recipe = recipe if stored is None else stored_recipe(Path(stored), recipe)
    except (ValueError, OSError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        sys.exit(2)
    hints, unused = get_type_hints(Recipe, include_extras=True), recipe.unused()
    shown = [
        (
            part.name,
            Annotated[hints[part.name], tyro.conf.Suppress] if part.name in unused else hints[part.name],
            field(default=getattr(recipe, part.name)),
        )
        for part in fields(Recipe)
    ]
    shown.insert(0, ("config", Annotated[Path | None, tyro.conf.arg(help=CONFIG)], field(default=None)))
    flags = make_dataclass("Recipe", shown, frozen=True, kw_only=True, namespace={"__doc__": Recipe.__doc__})
    changed = parse(flags(), arguments, program=program, description=description)
    try:
        if changed.model.pretrained and changed.model.model != recipe.model.model:
            raise ValueError(
                f"--model {changed.model.model} is a size for fresh weights, and --pretrained brings both. "
                "Leave one of them out."
            )
        return replace(recipe, **{part.name: getattr(changed, part.name) for part in fields(Recipe)})
    except ValueError as error:
        print(f"{program}: {with_flags(str(error), recipe)}", file=sys.stderr)
        sys.exit(2)


def _without_config(arguments: list[str]) -> tuple[list[str], str | None]:
    """The arguments without --config, and its value."""
    for place, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name == "--config" and (equals or place + 1 < len(arguments)):
            rest = arguments[place + 1 :] if equals else arguments[place + 2 :]
            return [*arguments[:place], *rest], value if equals else arguments[place + 1]
    return arguments, None


def _with_values(arguments: list[str], options: type) -> list[str]:
    """The arguments, where `--name` and `--no-name` of an option that may be true, false or neither, anywhere in the
    options, are given their value: tyro takes such a pair for those alone that are true or false.
    """
    spelled: dict[str, list[str]] = {}
    waiting = [options]
    while waiting:
        for name, hint in get_type_hints(waiting.pop()).items():
            flag = name.replace("_", "-")
            if hint == bool | None:
                spelled |= {f"--{flag}": [f"--{flag}", "True"], f"--no-{flag}": [f"--{flag}", "False"]}
            elif is_dataclass(hint) and isinstance(hint, type):
                waiting.append(hint)
    followed = zip(arguments, [*arguments, ""][1:], strict=True)
    valued = [[argument] if after in _VALUES else spelled.get(argument, [argument]) for argument, after in followed]
    return [word for words in valued for word in words]


_VALUES = ("True", "False", "None")
_HEADINGS = re.compile(r"(?<!\n)\n(?=[A-Z][\w -]*: )")
"""Before a line of a description that begins as "Command:" does; tyro joins lines that no empty one parts."""
