"""Stand-alone SVG figures of a finished run, for a README: learning curves and a retrieval gallery.

    python -m diptych.core.report.pictures RUN/report_data.npz FOLDER

reads what `ReportData.save` wrote. The files follow the reader's light or dark mode and hold their pictures within.
"""

import argparse
from pathlib import Path

from diptych.core.report.charts.markup import element, shorten
from diptych.core.report.charts.standalone import MARGIN, PANEL_HEIGHT, PANEL_WIDTH, document, side_by_side
from diptych.core.report.charts.thumbnails import Thumbnails
from diptych.core.report.language_names import language_name
from diptych.core.report.run.contents import ReportData, Samples
from diptych.core.report.run.gallery import choose_queries, nearest_images
from diptych.core.report.run.training import evaluation_figure, loss_figure

NAMES, PICTURE, ROW = 232, 52, 62
TILES = ".tile{fill:#fff;stroke:var(--rule)}.tile.right{stroke:var(--pair);stroke-width:3}"


def learning_curves(data: ReportData) -> str:
    """Loss, and beside it the evaluations during training, as one SVG.

    Raises:
        ValueError: the metrics hold neither.
    """
    panels = [
        (title, figure)
        for title, figure in (
            ("Loss", loss_figure(data.metrics, width=PANEL_WIDTH, height=PANEL_HEIGHT, log=True)),
            ("On held-out data", evaluation_figure(data.metrics, width=PANEL_WIDTH, height=PANEL_HEIGHT)),
        )
        if figure is not None
    ]
    if not panels:
        raise ValueError("no curve to draw: the metrics hold fewer than two losses and fewer than two evaluations.")
    return side_by_side(f"Learning curves of {data.title}", panels)


def gallery(samples: Samples, *, rows: int = 10, columns: int = 8, seed: int = 0) -> str:
    """Captions in several scripts, each with its nearest images, the right one framed, as one SVG.

    Args:
        samples: embedded images and captions.
        rows: captions, four tenths of them in the main language; random, not picked.
        columns: images a caption.
        seed: of the choice.
    """
    in_main = max(1, round(0.4 * rows))
    queries = choose_queries(samples, in_main=in_main, in_others=rows - in_main, seed=seed)
    thumbnails, parts = Thumbnails(samples.thumbnails), []
    for row, answer in enumerate(nearest_images(samples, queries, count=columns)):
        top = MARGIN + row * ROW
        language = samples.languages[answer.query]
        spoken = "" if language == "und" else f"{language_name(language)}, "
        parts.append(
            element(
                "text",
                shorten(samples.captions[answer.query], 30),
                x=MARGIN,
                y=top + 24,
                class_="title",
            )
        )
        parts.append(element("text", f"{spoken}rank {answer.rank:,}", x=MARGIN, y=top + 42, class_="tick"))
        for column, image in enumerate(answer.nearest):
            right = samples.image_labels[image] == samples.text_labels[answer.query]
            left = MARGIN + NAMES + column * (PICTURE + 8)
            parts.append(
                element(
                    "rect", x=left, y=top, width=PICTURE, height=PICTURE, rx=7, class_="tile right" if right else "tile"
                )
            )
            parts.append(
                element(
                    "image",
                    href=thumbnails.address(image),
                    x=left + 4,
                    y=top + 4,
                    width=PICTURE - 8,
                    height=PICTURE - 8,
                )
            )
    width = 2 * MARGIN + NAMES + columns * (PICTURE + 8) - 8
    return document(width, 2 * MARGIN + len(queries) * ROW - 10, "Captions and their nearest images", parts, TILES)


def main(arguments: list[str] | None = None) -> None:
    """Write learning_curves.svg and gallery.svg."""
    parser = argparse.ArgumentParser(description="SVG figures of a finished run.")
    parser.add_argument("data", type=Path, help="report_data.npz of a run")
    parser.add_argument("folder", type=Path, help="where learning_curves.svg and gallery.svg are written")
    parser.add_argument("--rows", type=int, default=10, help="captions in the gallery")
    chosen = parser.parse_args(arguments)
    data = ReportData.load(chosen.data)
    chosen.folder.mkdir(parents=True, exist_ok=True)
    figures = {"learning_curves.svg": learning_curves(data)}
    if data.samples is not None:
        figures["gallery.svg"] = gallery(data.samples, rows=chosen.rows)
    for name, figure in figures.items():
        (chosen.folder / name).write_text(figure, encoding="utf-8")
        print(chosen.folder / name)


if __name__ == "__main__":
    main()
