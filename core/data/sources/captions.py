"""The shapes in which data sets write captions down, brought to one."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from diptych.core.data.records import UNKNOWN_LANGUAGE, BadExample, Caption
from diptych.core.files.beginnings import OTHERS_TEXT, kind_of, mistaken

TEXT_FIELDS = ("caption", "text", "captions", "texts")
LANGUAGE_FIELDS = ("language", "lang")
_ENTRY_TEXT = ("text", "caption")
MAX_CAPTION_FILE_BYTES = 1_000_000


def captions_from_fields(fields: Mapping[str, Any], names: Sequence[str] = TEXT_FIELDS) -> tuple[Caption, ...]:
    """All captions in a JSON object or table row.

    Each of the fields that are named may hold a string, an object {"text" or "caption", "language",
    "weight"}, a list of such, or a mapping from language to string or strings. A field "language" tells the language of
    plain strings.
    """
    language = next((fields[name] for name in LANGUAGE_FIELDS if isinstance(fields.get(name), str)), UNKNOWN_LANGUAGE)
    captions: list[Caption] = []
    for name in names:
        if fields.get(name) is not None:
            captions += _captions(fields[name], language)
    return tuple(captions)


def captions_from_json(data: bytes, names: Sequence[str] = TEXT_FIELDS) -> tuple[Caption, ...]:
    """The captions of a JSON object, as `captions_from_fields` reads it; raises `BadExample` where it is none."""
    return captions_from_fields(object_from_json(data), names)


def object_from_json(data: bytes) -> dict[str, Any]:
    """A JSON object; raises `BadExample` where the bytes are none."""
    _refuse_large(data)
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadExample("caption_not_json", mistaken(data, "JSON") or str(error)) from None
    if not isinstance(fields, dict):
        raise BadExample("caption_not_json", f"a JSON object is needed, got {type(fields).__name__}")
    return fields


def captions_from_text(data: bytes) -> tuple[Caption, ...]:
    """One caption a line, empty lines left out; raises `BadExample` where the bytes are not UTF-8, or plainly another
    file's.
    """
    _refuse_large(data)
    if kind_of(data) in OTHERS_TEXT:
        raise BadExample("caption_not_text", mistaken(data, "captions") or "")
    try:
        lines = data.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise BadExample("caption_not_utf8", str(error)) from None
    return tuple(Caption(line) for line in map(str.strip, lines) if line)


def _captions(value: Any, language: str) -> list[Caption]:
    if isinstance(value, Mapping) and not any(name in value for name in _ENTRY_TEXT):
        return [
            caption for code, texts in value.items() if texts is not None for caption in _captions(texts, str(code))
        ]
    if isinstance(value, list | tuple):
        return [caption for entry in value for caption in _entry(entry, language)]
    return _entry(value, language)


def _entry(entry: Any, language: str) -> list[Caption]:
    if not isinstance(entry, Mapping):
        return [Caption(entry, language)]  # `Record.caption_parts` leaves out what is no text, or has no weight
    # A table fills the fields that an entry lacks with None.
    text = next((entry[name] for name in _ENTRY_TEXT if entry.get(name) is not None), "")
    own_language = next((entry[name] for name in LANGUAGE_FIELDS if isinstance(entry.get(name), str)), language)
    return [Caption(text, own_language, 1.0 if entry.get("weight") is None else entry["weight"])]


def _refuse_large(data: bytes) -> None:
    if len(data) > MAX_CAPTION_FILE_BYTES:
        raise BadExample("caption_too_long", f"{len(data)} bytes of captions, at most {MAX_CAPTION_FILE_BYTES}")
