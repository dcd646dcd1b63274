"""Flags of the command line, and the fields of options that they stand for."""

import re
from dataclasses import fields, is_dataclass


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
