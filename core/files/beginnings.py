"""Well-known kinds of files by their first bytes, so that a reader can say what it was given."""

import re

from diptych.core.files.errors import WeightFileError
from diptych.core.files.random_access import Place, opened

BEGINNING_BYTES = 512
"""Enough to tell: a tar names itself in bytes 257 to 262."""

_FETCH_AGAIN = "It was not copied or downloaded to its end: fetch it again."
_PAGE = "A server answered with a message instead of the file: read it, log in if it asks so, and fetch the file."
_KINDS = (
    ("empty", rb"\Z", _FETCH_AGAIN),
    (
        "a git-lfs pointer",
        rb"version https://git-lfs\.github\.com/spec/",
        "Only the pointer was cloned: run `git lfs pull` in its folder, or download the file itself.",
    ),
    ("SVG", rb"(?is)(\xef\xbb\xbf)?\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?(<!doctype svg[^>]*>\s*)?<svg\b", ""),
    (
        "HTML",
        rb"(?is)(\xef\xbb\xbf)?\s*(<!--.*?-->\s*)?"
        rb"<(!doctype\s+html\b|html\s*>|html\s[^<>]*=|(head|body)\b[^<>]*>[^<]*<[/!a-z])",  # "<head of a cat" is a text
        _PAGE,
    ),
    ("XML", rb"(?is)(\xef\xbb\xbf)?\s*<\?xml\b", _PAGE),
    ("gzip-compressed", rb"\x1f\x8b", "Unpack it with gunzip."),
    ("bzip2-compressed", rb"BZh[1-9]1AY&SY", "Unpack it with bunzip2."),
    ("xz-compressed", rb"\xfd7zXZ\0", "Unpack it with unxz."),
    ("zstd-compressed", rb"\x28\xb5\x2f\xfd", "Unpack it with unzstd."),
    ("a zip archive", rb"PK(\x03\x04|\x05\x06)", "Unpack it with unzip."),
    ("a 7z archive", rb"7z\xbc\xaf\x27\x1c", "Unpack it."),
    ("a tar archive", rb"(?s).{257}ustar", "Unpack it with tar -xf, or give it the name it should have."),
    ("a pickle", rb"\x80[\x02-\x05]", "A pickle is a program that would run while it is read: have it converted."),
    ("HDF5", rb"\x89HDF\r\n\x1a\n", ""),
    ("Parquet", rb"PAR1", ""),
    ("Arrow", rb"ARROW1", ""),
    ("a NumPy array", rb"\x93NUMPY", ""),
    ("JPEG", rb"\xff\xd8\xff", ""),
    ("PNG", rb"\x89PNG\r\n\x1a\n", ""),
    ("GIF", rb"GIF8[79]a", ""),
    ("WebP", rb"(?s)RIFF.{4}WEBP", ""),
    ("TIFF", rb"II\*\0|MM\0\*", ""),
    ("PDF", rb"%PDF-", ""),
    ("SQLite", rb"SQLite format 3\0", ""),
    ("GGUF", rb"GGUF[\x01-\x09]\0\0\0", ""),
    ("safetensors", rb"(?s).{3}\0{5}\{\s*[\"}]", ""),
    ("JSON", rb"(\xef\xbb\xbf)?\s*(\{\s*[\"}]|\[\s*[\[\]{\"\d-])", ""),
)
"""Name, first bytes, and what to do; the first that matches."""


OTHERS_TEXT = ("a git-lfs pointer", "HTML", "XML")
"""Kinds that a reader of plain text has to look for, since they are text."""


def kind_of(beginning: bytes) -> str | None:
    """What a file of these first bytes is, such as "a git-lfs pointer" or "Parquet"; None where nothing tells."""
    found = _found(beginning)
    return found and found[0]


def mistaken(beginning: bytes, expected: str) -> str | None:
    """What a file is instead of what a reader expects, and what to do: "is HTML, expected safetensors. ...".

    None where it is of the expected kind, or of none that is known here: then it is the reader's to judge.

    Args:
        beginning: the first `BEGINNING_BYTES` of the file, or all of a shorter one.
        expected: the reader's kind; by the name it has here where it has one, such as "Parquet".
    """
    found = _found(beginning)
    if found is None or found[0] == expected:
        return None
    kind, advice = found
    return f"is {kind}, expected {expected}. {advice or 'Give the right file, or this one the name it should have.'}"


def refuse_mistaken(path: Place, expected: str) -> None:
    """Raises WeightFileError where a file is well known to be something else than a reader expects; see `mistaken`.

    Raises:
        OSError: for a path that cannot be read, or is no regular file.
    """
    what = mistaken(opened(path).pread(BEGINNING_BYTES, 0), expected)
    if what is not None:
        raise WeightFileError(f"{path} {what}")


def _found(beginning: bytes) -> tuple[str, str] | None:
    start = bytes(beginning[:BEGINNING_BYTES])
    return next(((name, advice) for name, pattern, advice in _KINDS if re.match(pattern, start)), None)
