"""Flags of the command line: the fields of options that they stand for, and what people type in their place."""

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import tyro

from diptych.core.spelling import did_you_mean

OTHER_NAMES: Mapping[str, tuple[str, ...]] = {
    "--classnames": ("--classes",),
    "--custom-classname-file": ("--classes",),
    "--custom-template-file": ("--templates",),
    "--data": ("--train-data",),
    "--dataset": ("--data", "--train-data"),
    "--fewest": ("--min-group",),
    "--image": ("--images",),
    "--images": ("--refcoco-images", "--data", "--train-data"),
    "--input-dataset": ("--data",),
    "--k": ("--top-k",),
    "--labels": ("--classes",),
    "--longest-ngram": ("--max-ngram",),
    "--lr": ("--learning-rate",),
    "--most-pairs": ("--max-pairs",),
    "--most-regions": ("--max-regions",),
    "--output": ("--index", "--run-dir"),
    "--output-dir": ("--output", "--index", "--run-dir"),
    "--output-folder": ("--index", "--output", "--run-dir"),
    "--pretrained": ("--model",),
    "--questions": ("--data",),
    "--template": ("--templates",),
    "--templates": ("--template",),
    "--text": ("--query",),
    "--train-data": ("--data",),
    "--train-pictures": ("--max-train-images",),
    "--wd": ("--weight-decay",),
}
"""What a flag was called once, is called in another recipe or by other programs -> what it is called. A name that the
options have means itself; else it means the first of these that they have."""


def flags_of(options: object, within: str = "") -> dict[str, str]:
    """The flags of options, as tyro names them, by the fields' dotted names.

    Example: {"data.val_fraction": "--val-fraction", "optimization.batch_size": "--batch-size"}
    """
    found: dict[str, str] = {}
    for part in fields(options) if is_dataclass(options) and not isinstance(options, type) else ():
        inner = getattr(options, part.name)
        if is_dataclass(inner):
            found |= flags_of(inner, f"{within}{part.name}.")
        else:
            found[within + part.name] = f"--{part.name.replace('_', '-')}"
    return found


def types_of_flags(options: type) -> dict[str, Any]:
    """The type of each flag's value, by the flag, for all the fields of options that the command line shows."""
    found: dict[str, Any] = {}
    for name, hint in get_type_hints(options, include_extras=True).items():
        inner = hint
        if get_origin(hint) is Annotated:
            inner, *notes = get_args(hint)
            if tyro.conf.Suppress in notes:
                continue
        if is_dataclass(inner) and isinstance(inner, type):
            found |= types_of_flags(inner)
        else:
            found[f"--{name.replace('_', '-')}"] = inner
    return found


def by_their_names(arguments: Sequence[str], known: Mapping[str, Any], *, program: str) -> list[str]:
    """The arguments with the flags that have other names (`OTHER_NAMES`) under those that they have; each is said once.

    Args:
        arguments: as typed.
        known: the flags that there are.
        program: to begin the sentence with, on stderr.
    """
    found: list[str] = []
    said: set[str] = set()
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        typed = flag.replace("_", "-")
        meant = () if typed in known else [name for name in OTHER_NAMES.get(typed, ()) if name in known]
        found.append(f"{meant[0]}{equals}{value}" if meant else argument)
        if meant and typed not in said:
            said.add(typed)
            print(f"{program}: {typed} is called {meant[0]} here, and taken for it.", file=sys.stderr)
    return found


def check_choices(arguments: Sequence[str], known: Mapping[str, Any]) -> None:
    """Raises ValueError where a flag that takes one of several words is given another, with the word that is near."""
    words = [
        word for argument in arguments for word in (argument.split("=", 1) if argument[:2] == "--" else [argument])
    ]
    for flag, value in zip(words, words[1:], strict=False):
        kind = known.get(flag.replace("_", "-"))
        choices = [each for part in (kind, *get_args(kind)) if get_origin(part) is Literal for each in get_args(part)]
        if choices and value not in (*map(str, choices), "None"):
            listed = ", ".join(map(str, choices))
            raise ValueError(f"{flag} takes one of {listed}, got {value!r}.{did_you_mean(value, map(str, choices))}")


def check_least(options: object, **least: float) -> None:
    """Raises ValueError where an option is below its least value; of several values all are looked at, and None is
    never wrong.

    Args:
        least: by the name of the field.
    """
    for name, bound in least.items():
        given = getattr(options, name)
        values = given if isinstance(given, tuple) else () if given is None else (given,)
        for value in values:
            if value < bound:
                raise ValueError(f"--{name.replace('_', '-')} must be at least {bound}, got {value}.")


def with_flags(message: str, options: object) -> str:
    """A message with flags in place of the fields that it names.

    What is shared with programs names its arguments, such as batch_size, and a person has flags. Only names of several
    words are taken for fields: "model" and "examples" are words, too. Parts of paths, of calls and of longer names are
    left as they are.
    """
    known = {field.rpartition(".")[2]: flag for field, flag in flags_of(options).items()}
    names = "|".join(sorted((name for name in known if "_" in name), key=len, reverse=True))
    if not names:
        return message
    return re.sub(rf"(?<![\w/.\-])({names})(?![\w/\-]|\.\w|\s*=)", lambda found: known[found[0]], message)
