"""The command line: default options and the words behind them -> the options of a run."""

import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import field, fields, make_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import tyro

from diptych.backends.selection import BACKENDS, BackendNotAvailable, select_backend
from diptych.core.spelling import did_you_mean
from diptych.core.training.recipe import Recipe
from diptych.engine.failures import exit_status
from diptych.engine.flags import by_their_names, check_choices, types_of_flags, with_flags
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
    known = types_of_flags(type(default))
    about, examples = parted(description or "")
    try:
        words = by_their_names(sys.argv[1:] if arguments is None else arguments, known, program=program)
        check_choices(words, known)
        with _followed_by(examples if {"-h", "--help"} & {*words} else ""):
            options = tyro.cli(
                type(default),
                default=default,
                args=_with_values(words, known),
                prog=program,
                description=about,
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
        print(
            f"{program}: there is no preset {name!r}.{did_you_mean(name, presets)} There are {', '.join(presets)}.",
            file=sys.stderr,
        )
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


def _with_values(arguments: list[str], known: Mapping[str, Any]) -> list[str]:
    """The arguments, where `--name` and `--no-name` of an option that may be true, false or neither are given their
    value: tyro takes such a pair for those alone that are true or false.
    """
    spelled: dict[str, list[str]] = {}
    for flag, kind in known.items():
        if kind == bool | None:
            spelled |= {flag: [flag, "True"], f"--no-{flag[2:]}": [flag, "False"]}
    followed = zip(arguments, [*arguments, ""][1:], strict=True)
    valued = [[argument] if after in _VALUES else spelled.get(argument, [argument]) for argument, after in followed]
    return [word for words in valued for word in words]


def parted(description: str) -> tuple[str, str]:
    """What a description says, and its examples: the paragraph's lines from "Command:" on, as they stand."""
    found = _EXAMPLES.search(description)
    if found is None:
        return description, ""
    about = f"{description[: found.start()].rstrip()}\n\n{description[found.end() :].lstrip()}"
    return about, textwrap.indent(found[0], "  ")


@contextmanager
def _followed_by(examples: str) -> Iterator[None]:
    """Examples at the end of what --help prints, which ends the process with status 0."""
    try:
        yield
    except SystemExit as ended:
        if not ended.code and examples:
            print(f"examples:\n{examples}")
        raise


_VALUES = ("True", "False", "None")
_EXAMPLES = re.compile(r"^Command:.*?(?=\n\n|\Z)", re.M | re.S)
