"""The contents of a SentencePiece `.model` file, a protocol buffer: pieces, kind of model, normalisation.

The message is `sentencepiece.ModelProto` (google/sentencepiece, src/sentencepiece_model.proto); its fields are named
below by number.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

UNIGRAM, BPE = 1, 2  # TrainerSpec.ModelType
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # SentencePiece.Type

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types
_LONGEST_VARINT = 10


@dataclass(frozen=True)
class Piece:
    """One entry of the vocabulary; its id is its place."""

    text: str
    score: float
    kind: int


@dataclass(frozen=True, kw_only=True)
class SentencePieceModel:
    """The parts of a model that decide how a text becomes ids."""

    pieces: tuple[Piece, ...]
    model_type: int
    byte_fallback: bool
    normalization: str
    """The name of the normalisation rule: "identity", "nmt_nfkc", "nfkc" and so on."""
    charsmap: bytes
    """The precompiled character map; empty for none."""
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool
    escape_whitespaces: bool
    whitespace_as_suffix: bool


def parse_sentencepiece(data: bytes) -> SentencePieceModel:
    """Reads a `.model` file's bytes; raises ValueError where they are cut short or damaged."""
    pieces, trainer, normalizer = [], {}, {}
    for field, value in _fields(data):
        if field == 1:
            pieces.append(_piece(_message(value, "a piece")))
        elif field == 2:
            trainer = dict(_fields(_message(value, "the trainer's settings")))
        elif field == 3:
            normalizer = dict(_fields(_message(value, "the normaliser's settings")))
    return SentencePieceModel(
        pieces=tuple(pieces),
        model_type=int(trainer.get(3, UNIGRAM)),
        byte_fallback=bool(trainer.get(35, False)),
        normalization=_message(normalizer.get(1, b""), "a name").decode("utf-8", "replace"),
        charsmap=_message(normalizer.get(2, b""), "the character map"),
        add_dummy_prefix=bool(normalizer.get(3, True)),
        remove_extra_whitespaces=bool(normalizer.get(4, True)),
        escape_whitespaces=bool(normalizer.get(5, True)),
        whitespace_as_suffix=bool(trainer.get(24, False)),
    )


def _piece(data: bytes) -> Piece:
    fields = dict(_fields(data))
    score = fields.get(2, b"\0\0\0\0")
    text, kind = _message(fields.get(1, b""), "a piece's text"), fields.get(3, NORMAL)
    return Piece(text.decode("utf-8"), struct.unpack("<f", _message(score, "a score"))[0], int(kind))


def _message(value: int | bytes, what: str) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError(f"this SentencePiece model is damaged: a number stands where {what} should be")
    return value


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(number, value) of each field of a message: whole numbers as such, anything else as its bytes."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, place = _varint(data, place)
            yield number, value
            continue
        if wire == _BYTES:
            length, place = _varint(data, place)
        elif wire in (_FIXED32, _FIXED64):
            length = 4 if wire == _FIXED32 else 8
        else:
            raise ValueError(f"this SentencePiece model is damaged: no field has the wire type {wire}")
        if place + length > len(data):
            raise ValueError(
                f"this SentencePiece model is cut short: {length} bytes expected, {len(data) - place} left"
            )
        yield number, data[place : place + length]
        place += length


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = 0
    for count in range(_LONGEST_VARINT):
        if place + count >= len(data):
            break
        byte = data[place + count]
        value |= (byte & 0x7F) << 7 * count
        if byte < 0x80:
            return value, place + count + 1
    raise ValueError("this SentencePiece model is damaged: a number does not end")
