"""The reference: pages made from the docstrings of the front door and from the flags of every recipe."""

import ast
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import tyro

import diptych
from diptych.engine.command_line import parted
from docs.manual.markdown import with_blocks, with_links
from docs.manual.recipe_options import Asked, recipe_options

GROUPS: Mapping[str, tuple[str, ...]] = {
    "Models": ("SigLIP", "CLIP", "ImageClassifier", "PaliGemma", "Gemma", "GPT", "from_preset"),
    "Pictures and texts in, vectors out": ("Processor", "PaliGemmaProcessor", "Encoder", "ZeroShotClassifier"),
    "The losses by themselves": (
        "sigmoid_loss",
        "sigmoid_loss_and_gradients",
        "distributed_sigmoid_loss",
        "softmax_contrastive_loss",
        "softmax_contrastive_loss_and_gradients",
        "distributed_softmax_contrastive_loss",
    ),
    "Runs": ("load_run",),
}
"""What `import diptych` gives, in the order of the page; what a group does not name stands last."""
SAME = {"SigLIP2": "SigLIP"}
"""Second names."""


def python_page() -> str:
    """Markdown of the names that `import diptych` gives, for mkdocstrings to fill in."""
    named = {name for names in GROUPS.values() for name in names} | SAME.keys()
    rest = tuple(name for name in diptych.__all__ if name not in named)
    parts = ["# In Python", inspect.getdoc(diptych) or ""]
    for title, names in (GROUPS | ({"Others": rest} if rest else {})).items():
        parts += [f"## {title}", *(f"::: diptych.{name}" for name in names)]
    parts += [f"`diptych.{second}` is `diptych.{first}`." for second, first in SAME.items()]
    return "\n\n".join(parts) + "\n"


def recipe_pages() -> dict[str, str]:
    """Markdown by the name of its page, for each recipe."""
    return {f"reference/recipes/{name}.md": recipe_page(name, asked) for name, asked in recipe_options().items()}


def recipe_page(name: str, asked: Asked) -> str:
    """What a recipe says about itself, its examples, and its flags by group."""
    about, examples = parted(asked.description)
    title, _, rest = about.partition("\n\n")
    parts = [f"# {name}", title, f"```text\n{textwrap.dedent(examples)}\n```", with_blocks(rest)]
    for group in groups(asked.options):
        parts += [f"## {group.title}", group.about, *map(_entry, group.flags)]
    page = "\n\n".join(parts)
    return with_links(page, "../../") + "\n"


@dataclass(frozen=True)
class Flag:
    """A flag: its name, what it takes, its default, and what it is."""

    name: str
    takes: str
    default: Any
    about: str


@dataclass(frozen=True)
class Group:
    """The flags of one dataclass of options."""

    title: str
    about: str
    flags: list[Flag]


def groups(options: Any, title: str = "Options") -> Iterator[Group]:
    """The flags of options, and of the options within them, as the command line groups them."""
    hints, documented = get_type_hints(type(options), include_extras=True), docstrings(type(options))
    flags, inner = [], []
    for part in fields(options):
        value, notes = getattr(options, part.name), getattr(hints[part.name], "__metadata__", ())
        if tyro.conf.Suppress in notes:
            continue
        if is_dataclass(value):
            inner.append(groups(value, part.name.replace("_", " ").capitalize()))
            continue
        helps = [help_ for note in notes if (help_ := getattr(note, "help", None))]
        about = documented.get(part.name) or " ".join(helps)
        positional = any("positional" in repr(note).lower() for note in notes)
        name = part.name.upper() if positional else f"--{part.name.replace('_', '-')}"
        flags.append(Flag(name, _takes(hints[part.name]), value, about))
    if flags:
        yield Group(title, inspect.getdoc(type(options)) or "", flags)
    for each in inner:
        yield from each


def docstrings(kind: type) -> dict[str, str]:
    """The string below each field of a dataclass."""
    try:
        (body,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    except (OSError, TypeError):
        return {}
    assert isinstance(body, ast.ClassDef)
    return {
        field.target.id: " ".join(below.value.value.split())
        for field, below in zip(body.body, body.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
    }


def _takes(kind: Any) -> str:
    """What a flag takes, as the command line says it; nothing for one that is there or not."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _takes(inner[0])
    if origin is Literal:
        return " or ".join(map(str, inner))
    if kind is bool:
        return ""
    if origin is tuple:
        return f"{_takes(inner[0])} ..."
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "NAME NUMBER ..."
    if inner:
        return " or ".join(filter(None, (_takes(each) for each in inner if each is not type(None))))
    return {str: "TEXT", int: "NUMBER", float: "NUMBER", Path: "PATH"}.get(kind, "")


def _entry(flag: Flag) -> str:
    """A flag with its text below it, as an entry of a list of definitions."""
    default = "" if flag.default in (None, (), {}) else f", by default `{flag.default}`"
    return f"`{flag.name}` {flag.takes}{default}\n:   {flag.about}"
