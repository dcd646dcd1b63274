"""HTML and SVG as nested calls: every string is escaped unless it already is markup."""

import html
import re

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


def shorten(text: str, limit: int) -> str:
    """At most `limit` characters, the last of them an ellipsis where something was cut."""
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def _attribute_name(key: str) -> str:
    return key.removesuffix("_").replace("_", "-")
