"""Cells of a comparison: runs of recipes, each carried out once in a folder of its own, and the rows that they leave.

A finished cell is a line of RUN_DIR/cells.jsonl. The same command again finds it there, and goes on with the others,
within a cell from its checkpoint.
"""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

ROOT = Path(__file__).parents[1]
Row = dict[str, Any]


class Cell(Protocol):
    """One run; a frozen dataclass, whose fields decide what it does."""

    __dataclass_fields__: Any

    @property
    def name(self) -> str:
        """Of its folder."""


class Rows:
    """The rows of the cells that are finished.

    Args:
        run_dir: has a folder a cell, and the file of their rows.
    """

    def __init__(self, run_dir: Path):
        self.path = run_dir / "cells.jsonl"
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        self._rows: dict[str, Row] = {row["name"]: row for row in map(json.loads, lines)}

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows.values())

    def of(self, cell: Cell) -> Row | None:
        """What a cell left; None where it is not finished.

        Raises:
            ValueError: for a cell of this name that was something else.
        """
        row = self._rows.get(cell.name)
        for field, wanted in _plain(cell).items() if row else ():
            if row[field] != wanted:
                raise ValueError(
                    f"{self.path} holds {cell.name} with {field} {row[field]}, and {wanted} is asked for. Give the "
                    "same options, or another --run-dir."
                )
        return row

    def add(self, cell: Cell, found: Mapping[str, Any]) -> Row:
        """Keeps what a cell has left."""
        row = {"name": cell.name, **_plain(cell), **found}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self._rows[cell.name] = row
        return row


def _plain(cell: Any) -> Row:
    return json.loads(json.dumps(asdict(cell)))


def carry_out(command: Sequence[str], folder: Path) -> dict[str, float]:
    """Runs a command from the checkout, its output in the folder.

    Returns:
        "wall_seconds" by the clock, and "cpu_seconds" of processors, which count what it computed whatever else the
        machine did; those are 0 on Windows.

    Raises:
        SystemExit: where it ends badly.
    """
    folder.mkdir(parents=True, exist_ok=True)
    before = os.times()
    with (folder / "output.txt").open("a", encoding="utf-8") as output:
        done = subprocess.run(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
    after = os.times()
    if done.returncode:
        raise SystemExit(f"{folder.name} ended with status {done.returncode}; see {folder / 'output.txt'}.")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return {"wall_seconds": round(after.elapsed - before.elapsed, 1), "cpu_seconds": round(cpu, 1)}
