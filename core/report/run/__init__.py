"""The report of a run: one HTML file that works offline, in light and dark, on a phone, and without scripts."""

from pathlib import Path

from diptych.core.files.atomic import replacing
from diptych.core.report.run.contents import ReportData, Samples
from diptych.core.report.run.page import render

__all__ = ["ReportData", "Samples", "write_report"]


def write_report(path: str | Path, data: ReportData) -> Path:
    """Write the report of `data` to `path`, replacing it in one step.

    Args:
        path: of the HTML file; its folder must exist.
        data: what to show; sections without data are left out.

    Returns:
        The path.
    """
    path = Path(path)
    page = render(data).encode("utf-8")
    with replacing(path) as file:
        file.write(page)
    return path
