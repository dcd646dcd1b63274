"""Values as they stand in a model card: in Markdown, where nothing of them is read as markup, and in its YAML."""

import json
import re
from collections.abc import Mapping


def on_one_line(value: object) -> str:
    """A value on one line, without characters that YAML and Markdown do not take."""
    return " ".join("".join(each if each.isprintable() else " " for each in str(value)).split())


def in_text(value: object) -> str:
    """A value in a sentence or a cell of a table, nothing in it read as Markdown or HTML."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", on_one_line(value))


def as_code(value: object) -> str:
    """A value as code in a sentence."""
    return f"`{on_one_line(value).replace('`', chr(39))}`"


def fenced(text: str) -> str:
    """A text for a block that three backticks enclose, which it cannot end."""
    return text.replace("```", "'''")


def yaml(value: object, indent: str = "") -> str:
    """Nested dictionaries and lists as YAML; strings are quoted as in JSON."""
    if isinstance(value, Mapping):
        lines = []
        for name, inner in value.items():
            nested = isinstance(inner, Mapping | list) and inner
            lines.append(f"{indent}{name}:" + (f"\n{yaml(inner, indent + '  ')}" if nested else f" {_scalar(inner)}"))
        return "\n".join(lines)
    if isinstance(value, list):
        lines = []
        for inner in value:
            if isinstance(inner, Mapping | list) and inner:
                lines.append(f"{indent}- {yaml(inner, indent + '  ').lstrip()}")
            else:
                lines.append(f"{indent}- {_scalar(inner)}")
        return "\n".join(lines)
    return f"{indent}{_scalar(value)}"


def _scalar(value: object) -> str:
    return json.dumps(on_one_line(value) if isinstance(value, str) else value, ensure_ascii=False)
