"""Two tables of shades: similarity of images and captions, and the confusion of classes."""

import numpy as np

from diptych.core.evaluation.zero_shot import Confusion
from diptych.core.report.charts.axes import probability, svg
from diptych.core.report.charts.markup import Markup, drawn_width, element, isolated, shorten
from diptych.core.report.charts.numbers import percent
from diptych.core.report.charts.thumbnails import Thumbnails
from diptych.core.report.run.contents import Samples
from diptych.core.report.run.score_figures import pair_probability

_LARGEST = 1.5
"""At most how many times its size a matrix of few classes is drawn."""


def similarity_matrix(
    samples: Samples, thumbnails: Thumbnails, images: np.ndarray, texts: np.ndarray, *, cell: float, names: float
) -> Markup:
    """Cosines of images (columns) with captions (rows); pairs stand on the diagonal.

    The shade grows from the smallest to the largest cosine of the figure; a dot marks a probability of one half or
    more.

    Args:
        samples: the embeddings.
        thumbnails: of all images.
        images, texts: the pairs shown, int [pairs] each, in the same order.
        cell: side of a cell.
        names: at most this width is kept for the captions.
    """
    cosines = samples.text_embeddings[texts] @ samples.image_embeddings[images].T
    probabilities = pair_probability(samples, cosines)
    low, high = float(cosines.min()), float(cosines.max())
    short = [shorten(samples.captions[text], max(8, int((names - 10) / 6.3))) for text in texts]
    names = min(names, 10 + max(map(drawn_width, short)))
    marks = []
    for column, image in enumerate(images):
        marks.append(
            element(
                "image",
                href=thumbnails.address(int(image)),
                x=f"{names + column * cell + 1:.1f}",
                y=0,
                width=cell - 2,
                height=cell - 2,
            )
        )
    for row, text in enumerate(texts):
        top = cell * (row + 1) + 4
        caption = samples.captions[text]
        marks.append(
            element(
                "text",
                element("title", caption),
                short[row],
                x=names - 7,
                y=f"{top + cell / 2 + 4:.1f}",
                text_anchor="end",
                class_="tick caption",
            )
        )
        for column, image in enumerate(images):
            share = (float(cosines[row, column]) - low) / (high - low or 1.0)
            x = names + column * cell
            pair = samples.image_labels[image] == samples.text_labels[text]
            other = samples.captions[texts[column]]
            text_of_cell = (
                f"“{isolated(shorten(caption, 40))}” with the image of “{isolated(shorten(other, 40))}”: "
                f"cosine {float(cosines[row, column]):.2f}, p = {probability(float(probabilities[row, column]))}"
            )
            marks.append(
                element(
                    "rect",
                    element("title", text_of_cell),
                    x=f"{x + 1:.1f}",
                    y=f"{top + 1:.1f}",
                    width=cell - 2,
                    height=cell - 2,
                    rx=2,
                    fill_opacity=f"{0.04 + 0.96 * share**2:.2f}",
                    class_="cell pair" if pair else "cell",
                )
            )
            if probabilities[row, column] >= 0.5:
                marks.append(
                    element("circle", cx=f"{x + cell / 2:.1f}", cy=f"{top + cell / 2:.1f}", r=2, class_="sure")
                )
    size = cell * len(images)
    width, title = names + size + 2, "Similarity of images and captions"
    style = f"max-width:{_LARGEST * width:.0f}px"
    return svg(width, cell + 4 + size + 2, title, marks, class_="matrix", style=style)


def confusion_figure(result: Confusion, *, cell: float = 40, names: float = 128) -> Markup:
    """Shares of the answers (columns) given to each true class (rows).

    Args:
        result: the confusion.
        cell: side of a cell.
        names: at most this width is kept for the names of the rows.
    """
    confusion = np.asarray(result["confusion"], dtype=np.float64)
    class_names = result["class_names"]
    images = confusion.sum(axis=1) + np.asarray(result["no_answer"])
    short = [shorten(name, min(20, int((names - 10) / 6.3))) for name in class_names]
    lengths = [drawn_width(name) for name in short]
    names, head = min(names, 10 + max(lengths)), 20 + 0.75 * max(lengths)
    marks: list[Markup] = []
    for place, name in enumerate(short):
        x = names + place * cell + cell / 2
        marks.append(
            element("text", name, transform=f"translate({x + 3:.1f} {head - 8:.1f}) rotate(-48)", class_="tick")
        )
        marks.append(
            element(
                "text",
                name,
                x=f"{names - 7:.1f}",
                y=f"{head + place * cell + cell / 2 + 4:.1f}",
                text_anchor="end",
                class_="tick",
            )
        )
    for row, name in enumerate(class_names):
        for column, answer in enumerate(class_names):
            share = confusion[row, column] / images[row] if images[row] else 0.0
            x, y = names + column * cell, head + row * cell
            of = f"{int(confusion[row, column]):,} of {int(images[row]):,}"
            sentence = f"{isolated(name)} taken for {isolated(answer)}: {of}"
            marks.append(
                element(
                    "rect",
                    element("title", sentence),
                    x=f"{x + 1:.1f}",
                    y=f"{y + 1:.1f}",
                    width=cell - 2,
                    height=cell - 2,
                    rx=3,
                    fill_opacity=f"{0.04 + 0.5 * share:.2f}",
                    class_="cell pair" if row == column else "cell",
                )
            )
            if share >= 0.005:
                marks.append(
                    element(
                        "text",
                        percent(round(share, 2)).removesuffix("%").removesuffix(".0"),
                        x=f"{x + cell / 2:.1f}",
                        y=f"{y + cell / 2 + 4:.1f}",
                        text_anchor="middle",
                        class_="share",
                    )
                )
    size = cell * len(class_names)
    # Slanted names reach beyond the last column.
    beyond = [(place + 0.5 - len(class_names)) * cell + 0.7 * length for place, length in enumerate(lengths)]
    width, title = names + size + max(2, 8 + max(beyond)), "Confusion of classes, in percent of the true class"
    return svg(width, head + size + 2, title, marks, class_="matrix", style=f"max-width:{_LARGEST * width:.0f}px")
