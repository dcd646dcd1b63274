"""Two tables of shades: similarity of images and captions, and the confusion of classes."""

import numpy as np

from diptych.core.evaluation.zero_shot import Confusion
from diptych.core.report.charts.axes import probability, svg
from diptych.core.report.charts.markup import Markup, element, shorten
from diptych.core.report.charts.numbers import percent
from diptych.core.report.charts.thumbnails import Thumbnails
from diptych.core.report.run.contents import Samples
from diptych.core.report.run.score_figures import pair_probability


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
        names: width kept for the captions.
    """
    cosines = samples.text_embeddings[texts] @ samples.image_embeddings[images].T
    probabilities = pair_probability(samples, cosines)
    low, high = float(cosines.min()), float(cosines.max())
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
                shorten(caption, max(8, int(names / 6.4))),
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
                f"“{shorten(caption, 40)}” with the image of “{shorten(other, 40)}”: "
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
    return svg(names + size + 2, cell + 4 + size + 2, "Similarity of images and captions", marks, class_="matrix")


def confusion_figure(result: Confusion, *, cell: float = 40, names: float = 128) -> Markup:
    """Shares of the answers (columns) given to each true class (rows).

    Args:
        result: the confusion.
        cell: side of a cell.
        names: width kept for the names of the rows.
    """
    confusion = np.asarray(result["confusion"], dtype=np.float64)
    class_names = result["class_names"]
    images = confusion.sum(axis=1) + np.asarray(result["no_answer"])
    head, marks = 92, []
    for place, name in enumerate(class_names):
        x = names + place * cell + cell / 2
        marks.append(
            element(
                "text", shorten(name, 18), transform=f"translate({x + 3:.1f} {head - 8}) rotate(-48)", class_="tick"
            )
        )
        marks.append(
            element(
                "text",
                shorten(name, 20),
                x=names - 7,
                y=head + place * cell + cell / 2 + 4,
                text_anchor="end",
                class_="tick",
            )
        )
    for row, name in enumerate(class_names):
        for column, answer in enumerate(class_names):
            share = confusion[row, column] / images[row] if images[row] else 0.0
            x, y = names + column * cell, head + row * cell
            sentence = f"{name} taken for {answer}: {int(confusion[row, column]):,} of {int(images[row]):,}"
            marks.append(
                element(
                    "rect",
                    element("title", sentence),
                    x=x + 1,
                    y=y + 1,
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
                        x=x + cell / 2,
                        y=y + cell / 2 + 4,
                        text_anchor="middle",
                        class_="share",
                    )
                )
    # The last slanted name reaches beyond the last column.
    size = cell * len(class_names)
    return svg(
        names + size + 46, head + size + 2, "Confusion of classes, in percent of the true class", marks, class_="matrix"
    )
