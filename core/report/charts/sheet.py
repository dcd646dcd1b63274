"""Single pages of pictures in the report's dress: complete in themselves, without scripts, in light and dark."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from diptych.core.files.atomic import replacing
from diptych.core.report.charts.layout import masthead
from diptych.core.report.charts.markup import Markup, element
from diptych.core.report.charts.style import COLOURS, FIGURES, PAGE

SIDE = 128

SHEET = """
ul.hits,ul.cards{list-style:none;margin:0;padding:0;display:grid;gap:12px}
ul.hits{grid-template-columns:repeat(auto-fill,minmax(168px,1fr))}
ul.cards{grid-template-columns:repeat(auto-fill,minmax(340px,1fr))}
.hit,.shown{background:var(--card);border:1px solid var(--rule);border-radius:14px;padding:10px;min-width:0}
.hit{display:grid;grid-template:auto auto auto 1fr/minmax(0,1fr);gap:7px}
.hit .thumb,.shown .thumb{border-color:transparent}
.hit p{font-size:13px;line-height:1.35;overflow-wrap:anywhere;display:-webkit-box;-webkit-line-clamp:3;
  -webkit-box-orient:vertical;overflow:hidden}
.figures{display:flex;justify-content:space-between;gap:0 6px;flex-wrap:wrap;align-items:baseline;font-size:12px;
  color:var(--muted)}
.figures b{color:var(--ink);font-size:14px;font-weight:650}
.bar-of{display:block;height:5px;border-radius:3px;background:var(--grid);overflow:hidden}
.bar-of i{display:block;height:100%;border-radius:3px;background:var(--image);min-width:1px}
.bar-of.text i{background:var(--text)}
.bar-of.pair i{background:var(--pair)}
.lost{display:grid;place-items:center;aspect-ratio:1;border-radius:8px;background:var(--grid);color:var(--muted);
  font-size:12px;padding:8px;text-align:center;overflow-wrap:anywhere}
.asked{display:flex;align-items:center;gap:14px;flex-wrap:wrap;margin-bottom:14px}
.asked .thumb{width:84px;padding:4px}
.asked h2{margin:0;overflow-wrap:anywhere}
.shown{display:grid;grid-template-columns:112px minmax(0,1fr);gap:14px;align-items:start;padding:12px 14px 12px 12px}
.shown h3{font-size:13px;font-weight:550;color:var(--muted);overflow-wrap:anywhere;margin-bottom:6px}
.guesses{list-style:none;margin:0;padding:0;display:grid;gap:7px}
.guess{display:grid;grid-template-columns:minmax(0,1fr) auto;gap:1px 10px;font-size:13.5px;line-height:1.35;
  color:var(--muted)}
.guess.first{color:var(--ink);font-weight:600}
.guess .bar-of{grid-column:1/-1;height:4px}
.guess .bar-of+.bar-of{margin-top:1px}
.guess data{font-size:12.5px;white-space:nowrap}
.guess bdi{overflow-wrap:anywhere}
.verdict{font-weight:700}
.verdict.right{color:var(--pair)}
.verdict.wrong{color:var(--wrong)}
@media (max-width:640px){
ul.hits{grid-template-columns:repeat(auto-fill,minmax(104px,1fr))}
ul.cards{grid-template-columns:minmax(0,1fr)}}
"""


def sheet(title: str, summary: Sequence[object], sections: Sequence[Markup]) -> str:
    """One HTML document that loads nothing and runs nothing.

    Args:
        title: the headline.
        summary: markup and text of the paragraph below it.
        sections: one after the other.
    """
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'"
    head = [
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"{title} · diptych"),
        element("style", Markup(COLOURS + FIGURES + PAGE + SHEET)),
    ]
    body = [
        element(
            "header",
            masthead(),
            element("h1", title),
            element("p", *summary, class_="summary"),
        ),
        element("main", [element("section", section) for section in sections]),
        element("footer", "Made by diptych. This file is complete in itself and works offline."),
    ]
    return "<!doctype html>\n" + element("html", element("head", head), element("body", body), lang="en") + "\n"


def write_page(path: Path, page: str) -> Path:
    """Writes a page in one step, making its folder if need be; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(page.encode("utf-8"))
    return path


def square(pixels: np.ndarray, side: int = SIDE) -> np.ndarray:
    """A picture uint8 [height, width, 3] fitted into uint8 [side, side, 3], what it does not fill white."""
    picture = Image.fromarray(pixels)
    share = side / max(picture.size)
    size = (max(1, round(picture.width * share)), max(1, round(picture.height * share)))
    ground = Image.new("RGB", (side, side), "white")
    fitted = picture.resize(size, Image.Resampling.LANCZOS if share < 1 else Image.Resampling.BICUBIC)
    ground.paste(fitted, ((side - size[0]) // 2, (side - size[1]) // 2))
    return np.asarray(ground)


def bar(share: float, kind: str = "image") -> Markup:
    """A horizontal bar that fills `share` of its width; `kind` is a colour: image, text or pair."""
    width = f"width:{100 * min(max(share, 0.0), 1.0):.2f}%"
    return element("span", element("i", style=width), class_=f"bar-of {kind}", aria_hidden="true")
