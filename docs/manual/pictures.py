"""The pictures of the documents, drawn anew from what is stored.

    nox -s pictures

draws those whose numbers are at hand, and says of the others which command makes their numbers. Drawings of stored
benchmarks need nothing else; those of runs need the run, which trains for minutes or hours.
"""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks import contrastive_losses_page, fine_tuning_page
from diptych.core.report import pictures
from diptych.core.report.run.contents import ReportData

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "pictures"
RESULTS = ROOT / "benchmarks" / "results" / "amd-epyc-2-cpus"
RUN = ROOT / "runs" / "siglip" / "report_data.npz"


@dataclass(frozen=True)
class Picture:
    """A picture of the documents.

    Attributes:
        data: what it is drawn from.
        made_by: the command that leaves the data.
        draw: the SVG of the data; None where that command draws it, too.
    """

    data: Path
    made_by: str
    draw: Callable[[Path], str] | None = None


PICTURES: Mapping[str, Picture] = {
    "contrastive_losses.svg": Picture(
        RESULTS / "contrastive_losses.json",
        "python -m benchmarks.contrastive_losses",
        lambda path: contrastive_losses_page.figure(json.loads(path.read_text(encoding="utf-8"))),
    ),
    "fine_tuning.svg": Picture(
        RESULTS / "fine_tuning.json",
        "python -m benchmarks.fine_tuning",
        lambda path: fine_tuning_page.figure(json.loads(path.read_text(encoding="utf-8"))),
    ),
    "gallery.svg": Picture(RUN, "python -m recipes.siglip", lambda path: _gallery(ReportData.load(path))),
    "learning_curves.svg": Picture(
        RUN, "python -m recipes.siglip", lambda path: pictures.learning_curves(ReportData.load(path))
    ),
    "siglip2_ablation.svg": Picture(ROOT / "runs" / "siglip2-ablation", "python -m recipes.siglip2_ablation"),
}


def main(folder: Path = FOLDER) -> int:
    """Draws what can be drawn, and lists the rest; returns the exit status."""
    for name, picture in PICTURES.items():
        if picture.draw is None:
            print(f"{name}: drawn by {picture.made_by}, which goes on with the runs that it has.")
        elif not picture.data.exists():
            print(f"{name}: left as it is; {picture.made_by} leaves {picture.data.relative_to(ROOT)}, which it shows.")
        else:
            (folder / name).write_text(picture.draw(picture.data), encoding="utf-8")
            print(f"{name}: drawn from {picture.data.relative_to(ROOT)}")
    return 0


def _gallery(data: ReportData) -> str:
    if data.samples is None:
        raise ValueError(f"{RUN} holds no pictures with captions: make it anew by python -m recipes.siglip.")
    return pictures.gallery(data.samples)


if __name__ == "__main__":
    sys.exit(main())
