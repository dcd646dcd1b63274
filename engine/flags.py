"""Flags of the command line, and the fields of options that they stand for."""

import re
from dataclasses import fields, is_dataclass


def flag(field: str) -> str:
    """The flag of a field, as tyro names it: "batch_size" -> "--batch-size"."""
    return f"--{field.replace('_', '-')}"


def flags_of(options: object) -> dict[str, str]:
    """The flags of options by the names of their fields, those of options within options included."""
    found: dict[str, str] = {}
    for part in fields(options) if is_dataclass(options) and not isinstance(options, type) else ():
        inner = getattr(options, part.name)
        found |= flags_of(inner) if is_dataclass(inner) else {part.name: flag(part.name)}
    return found


def with_flags(message: str, options: object) -> str:
    """A message with flags in place of the fields that it names.

    What is shared with programs names its arguments, such as batch_size, and a person has flags. Only names of several
    words are taken for fields: "model" and "examples" are words, too. Parts of paths, of calls and of longer names are
    left as they are.
    """
    known = {field: flag for field, flag in flags_of(options).items() if "_" in field}
    if not known:
        return message
    names = "|".join(sorted(map(re.escape, known), key=len, reverse=True))
    return re.sub(rf"(?<![\w/.\-])({names})(?![\w/\-]|\.\w|\s*=)", lambda found: known[found[0]], message)
