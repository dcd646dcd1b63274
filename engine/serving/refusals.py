"""Refusals of the page, in sentences for the person in front of it."""

from collections.abc import Iterator
from contextlib import contextmanager

from diptych.core.data.image import FORMATS, MAX_PIXELS
from diptych.core.data.records import BadExample

_READABLE = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
_SENTENCES = {
    "image_empty": (400, "The file is empty."),
    "image_format": (415, f"This is no picture that can be read here: give a {_READABLE} file."),
    "image_too_large": (413, f"The picture has too many pixels: at most {MAX_PIXELS // 1_000_000} million."),
    "image_too_slow": (413, "The picture is made of so many parts that it would take too long to read."),
    "image_truncated": (422, "The picture ends too early: the file was cut off."),
    "image_damaged": (422, "The picture is damaged and cannot be read."),
    "image_missing": (404, "The picture is not where it was."),
    "image_unreadable": (404, "The picture cannot be read from where it was."),
    "caption_beyond_table": (422, "The text holds a token that the model does not know."),
    "caption_empty": (400, "The text holds no readable character."),
    "caption_nul": (400, "The text holds a NUL character."),
    "caption_surrogate": (400, "The text holds half a character (a surrogate)."),
    "caption_too_long": (413, "The text is too long."),
}


class Refused(Exception):
    """A request that is not answered: an HTTP status, 4xx or 503, a sentence, and for 503 the seconds after which it
    may be asked again.
    """

    def __init__(self, status: int, message: str, *, retry_after: int | None = None):
        super().__init__(message)
        self.status, self.message, self.retry_after = status, message, retry_after


@contextmanager
def in_sentences() -> Iterator[None]:
    """Turns what is wrong with an image or a text into a `Refused`."""
    try:
        yield
    except BadExample as error:
        status, message = _SENTENCES.get(error.reason, (422, f"This cannot be used: {error.reason}."))
        raise Refused(status, message) from error
