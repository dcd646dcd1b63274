"""Pictures of patches' features: their first three principal components as red, green and blue.

Patches that the model finds alike have one colour, in all pictures of a set. Reference: Oquab et al. 2023, "DINOv2",
figure 1, where the first component also tells the things from their background.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diptych.core.evaluation.upsampling import upsample
from diptych.core.report.charts.markup import Markup, element
from diptych.core.report.charts.sheet import square
from diptych.core.report.charts.thumbnails import Thumbnails

CHANNELS = 3
TAILS = 0.02  # of the patches at either end of a component are shown as if they were at the end of the scale
BACKGROUND = 255
PAGE_SIDE = 224

STYLE = """
ul.pairs{list-style:none;margin:0;padding:0;display:grid;gap:14px;
  grid-template-columns:repeat(auto-fill,minmax(230px,1fr))}
.pairs li{display:grid;grid-template-columns:1fr 1fr;gap:6px;align-content:start}
.pairs p{grid-column:1/-1;font-size:13px;color:var(--muted);line-height:1.35;overflow-wrap:anywhere}
.pairs .thumb{padding:0}
"""


@dataclass(frozen=True, kw_only=True)
class PatchPicture:
    """A picture and the colours of its patches."""

    picture: np.ndarray  # uint8 [height, width, 3]
    colours: np.ndarray  # uint8 [rows, columns, 3], of `principal_colours`
    name: str = ""


def principal_colours(features: np.ndarray, *, foreground: bool = False) -> np.ndarray:
    """The first three principal components of all patches, each stretched to 0..255.

        score_k = (x - mean) · v_k,    colour_k = 255 · clip((score_k - q_low) / (q_high - q_low), 0, 1)

    v_k are the eigenvectors of the covariance by falling eigenvalue; q are the quantiles `TAILS` and 1 - `TAILS`. The
    sign of each is such that Σ score³ >= 0: neither the order of the patches nor a rotation of the features changes the
    colours.

    Args:
        features: float [images, rows, columns, width]. All images share the components.
        foreground: whether to take the background out first (`foreground_mask`), which is then white: the components of
            the things alone show their parts.

    Returns:
        uint8 [images, rows, columns, 3]; a component that does not vary is an even 128.

    Raises:
        ValueError: another shape, or features that are not finite.
    """
    rows = _rows(features)
    there = foreground_mask(features).ravel() if foreground else np.ones(len(rows), bool)
    colours = np.full((len(rows), CHANNELS), BACKGROUND, np.uint8)
    colours[there] = _stretched(_components(rows[there], CHANNELS))
    return colours.reshape(*features.shape[:3], CHANNELS)


def foreground_mask(features: np.ndarray) -> np.ndarray:
    """The patches of things, told from the background by the first principal component: bool [images, rows, columns].

    The component is cut in two half-way between the means of the two sides. The side that has the smaller share of the
    patches along the edges of the pictures is taken for the things.

    Args:
        features: float [images, rows, columns, width].

    Raises:
        ValueError: as `principal_colours`.
    """
    score = _components(_rows(features), 1)[:, 0]
    cut = score.mean()
    for _ in range(100):
        above = score > cut
        if above.all() or not above.any():
            break
        middle = (score[above].mean() + score[~above].mean()) / 2
        if middle == cut:
            break
        cut = middle
    above = (score > cut).reshape(features.shape[:3])
    edge = np.ones(features.shape[1:3], bool)
    edge[1:-1, 1:-1] = False
    shares = [side[:, edge].sum() / side.sum() if side.any() else 0.0 for side in (above, ~above)]
    return above if shares[0] <= shares[1] else ~above


def patch_figure(pictures: Sequence[PatchPicture]) -> Markup:
    """Pictures, each with its patches' colours beside it, as a list for a page."""
    side = PAGE_SIDE
    shown = np.stack([square(picture, side) for each in pictures for picture in (each.picture, colour_map(each))])
    thumbnails = Thumbnails(shown, largest=side)
    items = [
        element(
            "li",
            thumbnails.picture(2 * place, each.name or "picture"),
            thumbnails.picture(2 * place + 1, f"principal components of {each.name or 'the picture'}"),
            element("p", element("bdi", each.name, dir="auto")) if each.name else None,
        )
        for place, each in enumerate(pictures)
    ]
    return element("ul", items, class_="pairs")


def colour_map(picture: PatchPicture) -> np.ndarray:
    """The patches' colours at the size of the picture, interpolated: uint8 [height, width, 3]."""
    height, width = picture.picture.shape[:2]
    return upsample(picture.colours[None].astype(np.float32), height, width)[0].round().astype(np.uint8)


def _rows(features: np.ndarray) -> np.ndarray:
    if features.ndim != 4 or 0 in features.shape:
        raise ValueError(
            f"features must be [images, rows, columns, width] with none of them 0, got {list(features.shape)}."
        )
    rows = features.reshape(-1, features.shape[-1]).astype(np.float64)
    if not np.isfinite(rows).all():
        raise ValueError(
            f"{np.count_nonzero(~np.isfinite(rows))} of {rows.size} features are not finite. Check the model's weights."
        )
    return rows


def _components(rows: np.ndarray, count: int) -> np.ndarray:
    """Scores [patches, count] of the components of largest variance; 0 for those that are not there."""
    scores = np.zeros((len(rows), count))
    if len(rows):
        centred = rows - rows.mean(axis=0)
        _, vectors = np.linalg.eigh(centred.T @ centred)
        found = centred @ vectors[:, ::-1][:, :count]
        scores[:, : found.shape[1]] = found * np.where((found**3).sum(axis=0) < 0, -1.0, 1.0)
    return scores


def _stretched(scores: np.ndarray) -> np.ndarray:
    colours = np.full(scores.shape, 128, np.uint8)
    if len(scores):
        low, high = np.quantile(scores, [TAILS, 1 - TAILS], axis=0)
        # Rounding alone makes components of constant features vary a little: that is no colour.
        varies = high - low > 1e-9 * np.abs(scores).max(initial=0.0)
        shares = (scores[:, varies] - low[varies]) / (high - low)[varies]
        colours[:, varies] = (255 * np.clip(shares, 0, 1)).round().astype(np.uint8)
    return colours
