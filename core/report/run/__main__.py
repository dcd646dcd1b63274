"""Make a report again: `python -m diptych.core.report.run RUN/report_data.npz report.html`."""

import argparse
from pathlib import Path

from diptych.core.report.run import ReportData, write_report


def main(arguments: list[str] | None = None) -> None:
    """Read what `ReportData.save` wrote and write the page."""
    parser = argparse.ArgumentParser(description="The HTML report of a run, from its stored data.")
    parser.add_argument("data", type=Path, help="report_data.npz of a run")
    parser.add_argument("page", type=Path, help="HTML file to write")
    chosen = parser.parse_args(arguments)
    print(write_report(chosen.page, ReportData.load(chosen.data)))


if __name__ == "__main__":
    main()
