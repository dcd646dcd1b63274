"""Recipes read back from the cards of runs, so that a run can begin with the options of another."""

import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from diptych.core.files.json_objects import read_json
from diptych.core.training.card import plain
from diptych.core.training.older_runs import as_now
from diptych.core.training.recipe import Recipe


def stored_recipe(path: Path, recipe: Recipe) -> Recipe:
    """The recipe that a run's card holds, as its data and its beginning resolved it.

    Where the run kept itself, and whether it was a dry one, is not taken over.

    Args:
        path: of a card.json, or of a run's folder.
        recipe: gives what the card does not say, because an earlier diptych wrote it.

    Raises:
        FileNotFoundError: where there is no card.
        ValueError: for a file that holds no options of a recipe.
    """
    path = path / "card.json" if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"--config {path}: no such file. Give the card.json of a run, or the run's folder.")
    config = read_json(path).get("config")
    if not isinstance(config, Mapping) or not {"data", "model", "optimization", "run"} <= config.keys():
        raise ValueError(f"--config {path} holds no options of a training run: expected the card.json of one.")
    try:
        stored = _read(Recipe, as_now(config, cast(dict[str, Any], plain(recipe))), recipe)
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"--config {path} holds options that this diptych does not read: {error}") from error
    run = replace(stored.run, run_dir=recipe.run.run_dir, dry_run=recipe.run.dry_run)
    return replace(stored, run=run)


def _read(kind: Any, value: Any, default: Any = None) -> Any:
    """A value of a type from its plain form (`core.training.card.plain`)."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _read(inner[0], value, default)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in inner:
            return None
        return _read(next(each for each in inner if each is not type(None)), value)
    if is_dataclass(kind):
        return _read_fields(kind, value, default)
    if origin is tuple:
        each = inner[:1] * len(value) if inner[-1] is ... else inner
        return tuple(_read(one, part) for one, part in zip(each, value, strict=True))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {name: _read(inner[1], part) for name, part in value.items()}
    if origin is Literal:
        if value not in inner:
            raise ValueError(f"expected one of {', '.join(map(str, inner))}, got {value!r}")
        return value
    if kind is Path:
        return Path(value)
    allowed = (int, float) if kind is float else kind
    if not isinstance(value, allowed):
        raise ValueError(f"expected {kind.__name__}, got {value!r}")
    return value


def _read_fields(kind: Any, value: Any, default: Any) -> Any:
    known, found = get_type_hints(kind, include_extras=True), {}
    if unknown := sorted(value.keys() - {part.name for part in fields(kind)}):
        raise ValueError(f"{kind.__name__} has no {', '.join(unknown)}")
    for name, part in value.items():
        try:
            found[name] = _read(known[name], part, getattr(default, name, None))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name}: {error}") from None
    return kind(**found) if default is None else replace(default, **found)
