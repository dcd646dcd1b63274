"""Figures of the pairwise scores: histograms of logits, reliability of the probabilities, the two clouds."""

import numpy as np
from numpy.typing import ArrayLike

from diptych.core.evaluation.calibration import LogitHistograms, Reliability, sigmoid
from diptych.core.report.charts.axes import Scale, frame, logarithmic, plot_area, probability
from diptych.core.report.charts.markup import Markup, element, shorten
from diptych.core.report.run.contents import Samples

CLOUD_POINTS = 260


def histogram_figure(histograms: LogitHistograms, *, width: float, height: float) -> Markup:
    """Counts of logits of pairs and of non-pairs, both logarithmic in height, over the same bins.

    Args:
        histograms: of `calibration.logit_histograms`.
        width, height: of the view box.
    """
    edges = np.asarray(histograms["edges"])
    counts = {"other": np.asarray(histograms["non_pairs"]), "pair": np.asarray(histograms["pairs"])}
    highest = max(int(count.max()) for count in counts.values())
    x, y = plot_area(width, height, Scale("linear", edges[0], edges[-1]), Scale("log", 0.6, max(highest * 1.5, 10)))
    marks = []
    for style, count in counts.items():
        marks.append(element("path", d=_steps(x, y, edges, count), class_=f"area {style}"))
    if edges[0] < 0 < edges[-1]:
        at = f"{float(x(0.0)):.1f}"
        marks.append(element("line", x1=at, x2=at, y1=y.stop, y2=y.start, class_="mark"))
        marks.append(element("text", "p = ½", x=float(at) + 4, y=y.stop + 10, class_="tick"))
    for place, (left, right) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
        pairs, others = counts["pair"][place], counts["other"][place]
        if pairs or others:
            marks.append(
                element(
                    "rect",
                    element("title", f"logit {left:.1f} to {right:.1f}: {pairs:,} pairs, {others:,} non-pairs"),
                    x=f"{float(x(left)):.1f}",
                    width=f"{float(x(right) - x(left)):.1f}",
                    y=y.stop,
                    height=y.start - y.stop,
                    class_="touch",
                )
            )
    return frame(
        width,
        height,
        x,
        y,
        marks,
        title="Histograms of the logits of pairs and of non-pairs",
        x_label="logit, t · cosine + b",
        y_label="cells, logarithmic",
    )


def reliability_figure(reliability: Reliability, *, width: float, height: float) -> Markup:
    """Share of true pairs against predicted probability, both in log-odds, with 95% intervals.

    Args:
        reliability: of `calibration.reliability`.
        width, height: of the view box.
    """
    rows = reliability["bins"]
    seen = [value for row in rows for value in (row["mean_probability"], row["share"]) if 0 < value < 1]
    smallest = 1.0 / max(sum(row["cells"] for row in rows), 10)
    low = 10.0 ** np.floor(np.log10(max(min([*seen, 0.1]), smallest)))
    high = 1 - 10.0 ** np.floor(np.log10(max(1 - max([*seen, 0.9]), 1e-5)))
    x, y = plot_area(width, height, Scale("odds", low, high), Scale("odds", low, high))
    marks = [element("line", x1=x.start, y1=y.start, x2=x.stop, y2=y.stop, class_="mark")]
    for row in rows:
        px = _inside(x, row["mean_probability"])
        bottom, top = (_inside(y, bound) for bound in row["interval"])
        # Where no pair was seen the share is only known to lie below the upper bound.
        dot = (_inside(y, row["share"]), "dot pair") if row["share"] > 0 else (top, "ring pair")
        sentence = (
            f"predicted {probability(row['mean_probability'])}, true {probability(row['share'])} of {row['cells']:,} "
            f"cells (95%: {probability(row['interval'][0])} to {probability(row['interval'][1])})"
        )
        marks.append(
            element(
                "g",
                element("title", sentence),
                element("line", x1=px, x2=px, y1=bottom, y2=top, class_="whisker strict") if row["share"] > 0 else None,
                element("circle", cx=px, cy=dot[0], r=3.6, class_=dot[1]),
            )
        )
    return frame(
        width,
        height,
        x,
        y,
        marks,
        title="Reliability diagram: share of true pairs against predicted probability",
        x_label="predicted probability (log-odds)",
        y_label="share of true pairs",
    )


def clouds_figure(samples: Samples, *, width: float, height: float, seed: int = 0) -> tuple[Markup, dict[str, float]]:
    """Images and captions in the plane of the two directions of largest variance of both clouds together.

    Args:
        samples: at least one pair in its main language.
        width, height: of the view box.
        seed: of the choice of `CLOUD_POINTS` pairs.

    Returns:
        The figure and {"gap": distance of the clouds' means, "variance": share of the variance in the plane,
        "pair_cosine": mean cosine of the shown pairs}.
    """
    images, texts = matched(samples, limit=None, seed=seed)
    x_all, y_all = (
        samples.image_embeddings[images].astype(np.float64),
        samples.text_embeddings[texts].astype(np.float64),
    )
    both = np.concatenate([x_all, y_all])
    both -= both.mean(axis=0)
    variances, directions = np.linalg.eigh(both.T @ both)
    plane = both @ directions[:, :-3:-1]
    if plane.shape[1] < 2:
        plane = np.pad(plane, ((0, 0), (0, 1)))
    numbers = {
        "gap": float(np.linalg.norm(x_all.mean(axis=0) - y_all.mean(axis=0))),
        "variance": float(variances[-2:].sum() / variances.sum()) if variances.sum() > 0 else 1.0,
        "pair_cosine": float((x_all * y_all).sum(axis=1).mean()),
    }
    chosen = np.random.default_rng(seed).permutation(len(images))[:CLOUD_POINTS]
    half = len(images)
    x, y = _equal_scales(plane, width, height)
    lines, dots = [], []
    for place in chosen:
        ends = []
        caption = shorten(samples.captions[texts[place]], 60)
        for style, row in (("image", plane[place]), ("text", plane[half + place])):
            px, py = f"{float(x(row[0])):.1f}", f"{float(y(row[1])):.1f}"
            ends.append((px, py))
            what = "image" if style == "image" else "caption"
            dots.append(
                element("circle", element("title", f"{what}: {caption}"), cx=px, cy=py, r=3, class_=f"dot {style}")
            )
        lines.append(f"M{ends[0][0]} {ends[0][1]}L{ends[1][0]} {ends[1][1]}")
    figure = frame(
        width,
        height,
        x,
        y,
        element("path", d="".join(lines), class_="tie"),
        dots,
        title="Images and captions in two principal components",
        x_label="first principal component",
        y_label="second",
    )
    return figure, numbers


def matched(samples: Samples, *, limit: int | None, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images and main-language texts that belong together, one text an image, in random order.

    Returns:
        Two int64 arrays of the same length, at most `limit`.
    """
    text_of: dict[int, int] = {}
    for text in samples.in_language():
        text_of.setdefault(int(samples.text_labels[text]), int(text))
    described = [index for index, label in enumerate(samples.image_labels) if int(label) in text_of]
    images = np.random.default_rng(seed).permutation(np.array(described, dtype=np.int64))[:limit]
    return images, np.array([text_of[int(samples.image_labels[image])] for image in images], dtype=np.int64)


def pair_probability(samples: Samples, cosines: ArrayLike) -> np.ndarray:
    """Sigmoid probability of cosines under the samples' scale and bias; raises ValueError where they have no bias."""
    if samples.logit_bias is None:
        raise ValueError("A softmax model gives a pair no probability.")
    return sigmoid(samples.logit_scale * np.asarray(cosines, dtype=np.float64) + samples.logit_bias)


def _inside(scale: Scale, value: float) -> str:
    return f"{float(scale(np.clip(value, scale.low, scale.high))):.1f}"


def _steps(x: Scale, y: Scale, edges: np.ndarray, counts: np.ndarray) -> str:
    floor = y.start
    pieces = [f"M{float(x(edges[0])):.1f} {floor:.1f}"]
    for place, count in enumerate(counts):
        top = float(y(count)) if count > 0 else floor
        pieces.append(f"V{top:.1f}H{float(x(edges[place + 1])):.1f}")
    return "".join([*pieces, f"V{floor:.1f}Z"])


def _equal_scales(plane: np.ndarray, width: float, height: float) -> tuple[Scale, Scale]:
    """Scales of equal units a pixel around all points."""
    x, y = plot_area(width, height, logarithmic([]), logarithmic([]))
    across, up = x.stop - x.start, y.start - y.stop
    low, high = plane.min(axis=0), plane.max(axis=0)
    unit = 1.08 * max((high[0] - low[0]) / across, (high[1] - low[1]) / up, 1e-9)
    middle = (low + high) / 2
    return (
        Scale("linear", middle[0] - unit * across / 2, middle[0] + unit * across / 2, x.start, x.stop),
        Scale("linear", middle[1] - unit * up / 2, middle[1] + unit * up / 2, y.start, y.stop),
    )
