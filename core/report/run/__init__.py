"""The report of a run: one HTML file that works offline, in light and dark, on a phone, and without scripts."""

import os
from pathlib import Path

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
    page = render(data)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(page, encoding="utf-8")
    os.replace(temporary, path)
    return path
