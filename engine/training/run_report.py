"""The report of a stage: its page, and the data that the page is made of."""

from collections.abc import Sequence
from typing import Any

from diptych.core.report.run import write_report
from diptych.core.report.run.contents import ReportData
from diptych.core.training.card import Card
from diptych.core.training.learner import Learner
from diptych.core.training.metrics import MetricsRow
from diptych.core.training.run_folder import RunFolder


def report(
    learner: Learner, folder: RunFolder, card: Card, *, title: str, metrics: Sequence[MetricsRow], **shown: Any
) -> None:
    """Writes both into the stage's folder, and prints where the page is.

    Args:
        card: the run's, to which the seconds are added.
        metrics: the rows of the stage's metrics.
        shown: what else the page shows, by the names of `ReportData`.
    """
    data = ReportData(
        title=title,
        card=card | {"wall_seconds": learner.seconds},
        metrics=metrics,
        skipped=learner.skipped_examples,
        examples_read=learner.examples_read,
        **shown,
    )
    data.save(folder.path / "report_data.npz")
    print(f"Report: {write_report(folder.report, data).resolve().as_uri()}", flush=True)
