"""Small pictures of published drawings: SVG or WebP -> WebP on white, longest side 64 pixels."""

import io
from collections.abc import Mapping

from PIL import Image

SIDE = 64  # pixels, the longest side
QUALITY = 70  # of WebP
OVERSAMPLING = 4  # drawn this much larger, then reduced: hides the hairlines between abutting shapes


def icon_svg(icons: Mapping, name: str) -> str:
    """The SVG document of one icon of an Iconify set, aliases resolved.

    Raises ValueError on a transformation that is not known here, so that no drawing is silently wrong.
    """
    flip = False
    while name not in icons["icons"]:
        alias = dict(icons["aliases"][name])
        name, flip = alias.pop("parent"), flip ^ alias.pop("hFlip", False)
        if alias:
            raise ValueError(
                f"alias of {name!r} has {sorted(alias)}; only parent and hFlip are known: extend icon_svg."
            )
    icon = icons["icons"][name]
    left, top = icon.get("left", 0), icon.get("top", 0)
    width, height = icon.get("width", icons["width"]), icon.get("height", icons["height"])
    body = icon["body"]
    if flip:
        body = f'<g transform="translate({2 * left + width} 0) scale(-1 1)">{body}</g>'
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{width}" height="{height}" viewBox="{left} {top} {width} {height}">{body}</svg>'
    )


def draw_svg(svg: str) -> Image.Image:
    """RGB on white, longest side SIDE * OVERSAMPLING pixels."""
    wide = _width_over_height(svg) >= 1
    return _drawn(svg, width=SIDE * OVERSAMPLING if wide else None, height=None if wide else SIDE * OVERSAMPLING)


def draw_any_svg(svg: str) -> Image.Image:
    """RGB on white, SIDE * OVERSAMPLING pixels wide: for documents of any origin, whose size may be in any unit or
    missing.

    Raises:
        ValueError: for one that cannot be drawn.
    """
    return _drawn(svg, width=SIDE * OVERSAMPLING, height=None)


def _drawn(svg: str, *, width: int | None, height: int | None) -> Image.Image:
    try:
        import resvg_py
    except ImportError as error:
        raise ImportError(
            "drawing SVG needs resvg_py, which diptych itself does not: pip install resvg_py==0.5.0"
        ) from error
    png = resvg_py.svg_to_bytes(
        svg_string=svg,
        background="#ffffff",
        skip_system_fonts=True,
        width=width,
        height=height,
        dpi=96,
    )
    return Image.open(io.BytesIO(png)).convert("RGB")


def _width_over_height(svg: str) -> float:
    width, height = (float(svg.split(f'{name}="', 1)[1].split('"', 1)[0]) for name in ("width", "height"))
    return width / height


def draw_bitmap(data: bytes) -> Image.Image:
    """RGB on white, in the picture's own size."""
    picture = Image.open(io.BytesIO(data)).convert("RGBA")
    canvas = Image.new("RGBA", picture.size, "white")
    canvas.alpha_composite(picture)
    return canvas.convert("RGB")


def reduce_to_webp(picture: Image.Image) -> bytes:
    """WebP whose longest side is SIDE pixels, the other rounded."""
    scale = SIDE / max(picture.size)
    width, height = (max(1, round(length * scale)) for length in picture.size)
    small = picture.resize((width, height), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=QUALITY, method=6)
    return buffer.getvalue()
