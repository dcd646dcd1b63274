"""results.jsonl: a line for each result, on the disk before the next is asked for."""

import json
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAME = "results.jsonl"


@dataclass(frozen=True)
class Journal:
    """Appends to a file that several processes may append to; a number that is not finite is stored as null."""

    path: Path
    stage: str

    def write(self, kind: str, **fields: Any) -> None:
        fields = {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in fields.items()}
        line = json.dumps({"stage": self.stage, "kind": kind, "time": round(time.time(), 1), **fields}) + "\n"
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(file, line.encode())
            os.fsync(file)
        finally:
            os.close(file)


def read(path: Path) -> list[dict[str, Any]]:
    """All whole lines; one that was cut off in the middle is left out."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found
