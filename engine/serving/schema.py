"""JSON Schema of typed dictionaries, and the check of a value against the same types."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, NotRequired, Union, get_args, get_origin, get_type_hints, is_typeddict

from diptych.core.spelling import did_you_mean
from diptych.engine.serving.refusals import Refused

MOST_SHOWN = 40  # characters of a value that is wrong
_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", NoneType: "null"}
_WORDS = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", NoneType: "null"}
_BOUNDS = {"string": "Length", "array": "Items", "integer": "imum", "number": "imum"}


@dataclass(frozen=True, kw_only=True)
class Bound:
    """Of a text its characters, of a list its items, of a number its value; `says` is what it is for."""

    least: float | None = None
    most: float | None = None
    says: str = ""


def schema_of(kind: Any) -> dict[str, Any]:
    """The JSON Schema of a type: str, int, float, bool, None, lists, unions, dictionaries of texts to one type,
    `Annotated` with a `Bound`, and TypedDict, which becomes a reference to its name.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        schema, bound = schema_of(arguments[0]), arguments[1]
        name = _BOUNDS.get(schema.get("type", ""), "")
        limits = {f"min{name}": bound.least, f"max{name}": bound.most, "description": bound.says or None}
        return schema | {key: value for key, value in limits.items() if value is not None}
    if origin in (Union, UnionType):
        return {"anyOf": [schema_of(each) for each in arguments]}
    if origin is list:
        return {"type": "array", "items": schema_of(arguments[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": schema_of(arguments[1])}
    if is_typeddict(kind):
        return {"$ref": f"#/components/schemas/{kind.__name__}"}
    return {"type": _TYPES[kind]}


def components_of(kinds: Any) -> dict[str, dict[str, Any]]:
    """Name -> schema of each TypedDict that stands in these types, at any depth."""
    found: dict[str, dict[str, Any]] = {}
    waiting = [kind for outer in kinds for kind in _dictionaries(outer)]
    while waiting:
        kind = waiting.pop()
        if kind.__name__ in found:
            continue
        fields = _fields(kind)
        found[kind.__name__] = {
            "type": "object",
            "description": " ".join((kind.__doc__ or "").split()),
            "properties": {name: schema_of(each) for name, each in fields.items()},
            "required": sorted(kind.__required_keys__),
            "additionalProperties": False,
        }
        waiting += [inner for each in fields.values() for inner in _dictionaries(each)]
    return dict(sorted(found.items()))


def check(value: Any, kind: Any, where: str = "the body") -> None:
    """Raises `Refused` where a value of JSON is not of the type: where it stands, what was got and what was expected.
    A text or a list that is too long is refused by 413 and 400, all else by 400.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        check(value, arguments[0], where)
        _check_bound(value, arguments[1], where)
    elif origin in (Union, UnionType):
        if not any(_is(value, each) for each in arguments):
            raise _refusal(where, value, " or ".join(_WORDS.get(each, "an object") for each in arguments))
    elif origin is list:
        if not isinstance(value, list):
            raise _refusal(where, value, "a list")
        for place, each in enumerate(value):
            check(each, arguments[0], f"{where}[{place}]")
    elif is_typeddict(kind):
        _check_object(value, kind, where)
    elif not _is(value, kind):
        raise _refusal(where, value, _WORDS[kind])


def _check_object(value: Any, kind: Any, where: str) -> None:
    if not isinstance(value, dict):
        raise _refusal(where, value, "an object")
    fields = _fields(kind)
    for name in value:
        if name not in fields:
            raise Refused(
                400, f"{where} has no field {_shown(name)}: it has {', '.join(fields)}.{did_you_mean(name, fields)}"
            )
    for name, each in fields.items():
        inner = name if where == "the body" else f"{where}.{name}"
        if name in value:
            check(value[name], each, inner)
        elif name in kind.__required_keys__:
            raise Refused(400, f"{inner} is missing: {where} needs {', '.join(sorted(kind.__required_keys__))}.")


def _check_bound(value: Any, bound: Bound, where: str) -> None:
    size = len(value) if isinstance(value, str | list) else value
    low, high = bound.least is not None and size < bound.least, bound.most is not None and size > bound.most
    if not (low or high):
        return
    unit = " characters" if isinstance(value, str) else " items" if isinstance(value, list) else ""
    expected = " to ".join(f"{each:g}" for each in (bound.least, bound.most) if each is not None)
    at = "" if None not in (bound.least, bound.most) else "at most " if bound.least is None else "at least "
    status = 413 if high and isinstance(value, str) else 400
    raise Refused(status, f"{where}: got {size:g}{unit}, expected {at}{expected}{unit}.")


def _is(value: Any, kind: Any) -> bool:
    if isinstance(value, bool):
        return kind is bool
    if kind is float:
        return isinstance(value, int | float)
    return isinstance(value, kind) if isinstance(kind, type) else False


def _fields(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind, include_extras=True)
    return {name: get_args(each)[0] if get_origin(each) is NotRequired else each for name, each in hints.items()}


def _dictionaries(kind: Any) -> Iterator[Any]:
    if is_typeddict(kind):
        yield kind
    for inner in get_args(kind):
        yield from _dictionaries(inner)


def _refusal(where: str, value: Any, expected: str) -> Refused:
    return Refused(400, f"{where}: got {_shown(value)}, expected {expected}.")


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}…"
