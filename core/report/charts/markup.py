"""HTML and SVG as nested calls: every string is escaped unless it already is markup."""

import html
import re
import unicodedata
from itertools import accumulate

# Characters that HTML does not allow even as references, and halves of surrogate pairs, which UTF-8 cannot write.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
_VOID = frozenset({"br", "img", "input", "meta"})


class Markup(str):
    """Text that is already HTML: `element` passes it through, and escapes any other string."""

    __slots__ = ()


def escape(text: object) -> Markup:
    """Text made safe inside elements and quoted attributes; unprintable characters become U+FFFD."""
    if isinstance(text, Markup):
        return text
    return Markup(html.escape(_UNPRINTABLE.sub("\ufffd", str(text)), quote=True))


def element(name: str, /, *children: object, **attributes: object) -> Markup:
    """One element. `element("a", "R&D", class_="x", data_tip="<b>")` is
    `<a class="x" data-tip="&lt;b&gt;">R&amp;D</a>`.

    Args:
        name: tag name.
        children: markup or text; None is left out, lists and tuples are joined.
        attributes: a trailing underscore is dropped and the others become hyphens; None and False are left out, True is
            written without a value.
    """
    written = "".join(
        f" {_attribute_name(key)}" if value is True else f' {_attribute_name(key)}="{escape(value)}"'
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if name in _VOID:
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{join(children)}</{name}>")


def join(children: object) -> Markup:
    """Children one after the other, each escaped if it is not markup."""
    if children is None:
        return Markup("")
    if isinstance(children, list | tuple):
        return Markup("".join(join(child) for child in children))
    return escape(children)


def caption_text(text: str, *, limit: int | None = None) -> Markup:
    """A caption of unknown script and direction, isolated from its surroundings; longer than `limit`, it is cut.

    `dir="auto"` lets Arabic and Hebrew run from right to left, and the isolation keeps a stray direction mark inside.
    """
    return element("bdi", shorten(text, limit) if limit else text, dir="auto")


def isolated(text: str) -> str:
    """A name for the middle of a sentence, whose words keep their order although it runs from right to left.

    Invisible isolates stand around it then, which work in any text, in titles and in drawings as well.
    """
    runs_otherwise = any(unicodedata.bidirectional(letter) in _FROM_RIGHT_TO_LEFT for letter in text)
    return f"\u2068{text}\u2069" if runs_otherwise else text


def is_wide(letter: str) -> bool:
    """Whether a letter is as wide as high, as those of Chinese, Japanese and Korean and most emoji are."""
    return unicodedata.east_asian_width(letter) in ("W", "F")


def drawn_width(text: str) -> float:
    """About how many pixels wide a name in a drawing is, in letters of 11."""
    return sum(11.0 if is_wide(letter) else 6.3 for letter in text)


def shorten(text: str, limit: int) -> str:
    """At most `limit` characters, wide ones counted twice, the last of them an ellipsis where something was cut."""
    widths = [2 if is_wide(letter) else 1 for letter in text]
    if sum(widths) <= limit:
        return text
    fitting = sum(total < limit for total in accumulate(widths))
    return text[:fitting].rstrip() + "…"


_FROM_RIGHT_TO_LEFT = ("R", "AL", "AN", "RLE", "RLO", "RLI")


def _attribute_name(key: str) -> str:
    return key.removesuffix("_").replace("_", "-")
