"""Cleaning of captions: one line of visible text from what people write."""

import re

from diptych.core.data.bad_example import BadExample

MAX_CAPTION_CHARACTERS = 10_000
MAX_COMBINING_MARKS_IN_A_ROW = 12

_JOINERS = "\u200c\u200d\ufe0e\ufe0f"  # meaningful between letters (Persian, Hindi) and in emoji, nothing alone
_INVISIBLE = "\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb"
_COMBINING = (
    "\u0300-\u036f\u0483-\u0489\u0591-\u05bd\u0610-\u061a\u064b-\u065f"
    "\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f"
)
_UNUSUAL = re.compile(f"[\x00-\x1f\x7f-\x9f{_INVISIBLE}\ud800-\udfff{_JOINERS}{_COMBINING}]|\\s\\s|^\\s|\\s$")
_DROPPED = re.compile(f"[{_INVISIBLE}]")
_CONTROLS = re.compile("[\x01-\x1f\x7f-\x9f]")
_SURROGATES = re.compile("[\ud800-\udfff]")
_STACKED_MARKS = re.compile(f"([{_COMBINING}]{{{MAX_COMBINING_MARKS_IN_A_ROW}}})[{_COMBINING}]+")
_VISIBLE = re.compile(f"[^\\s{_JOINERS}{_COMBINING}]")


def clean_caption(text: str | bytes) -> str:
    """The caption on one line, without invisible characters; raises `BadExample` for what is not a caption.

    Runs in time proportional to the text. Nothing is normalised: tokenizers bring their own Unicode normalisation.
    """
    if isinstance(text, bytes):
        if len(text) > 4 * MAX_CAPTION_CHARACTERS:
            raise BadExample("caption_too_long", f"{len(text)} bytes")
        try:
            text = text.decode("utf-8")
        except UnicodeDecodeError as error:
            raise BadExample("caption_not_utf8", str(error)) from None
    if not isinstance(text, str):
        raise BadExample("caption_not_text", type(text).__name__)
    if len(text) > MAX_CAPTION_CHARACTERS:
        raise BadExample("caption_too_long", f"{len(text)} characters, at most {MAX_CAPTION_CHARACTERS}")
    if text and not _UNUSUAL.search(text):
        return text
    if "\0" in text:
        raise BadExample("caption_nul", "a NUL character: binary data rather than text")
    if _SURROGATES.search(text):
        raise BadExample("caption_surrogate", "half of a surrogate pair, which no encoding can store")
    text = _CONTROLS.sub(" ", _DROPPED.sub("", text))
    text = " ".join(_STACKED_MARKS.sub(r"\1", text).split())
    if not _VISIBLE.search(text):
        raise BadExample("caption_empty")
    return text
