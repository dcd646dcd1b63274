"""The machine a benchmark ran on, and the folder that its results go to."""

import json
import os
from pathlib import Path

from diptych.core.training.card import machine

RESULTS = Path(__file__).parent / "results"


def device_name(accelerator: str | None = None) -> str:
    """The accelerator, or the processor and the number of CPUs."""
    host = machine()
    return accelerator or f"{host['processor']}, {host['cpus']} CPUs"


def write_results(name: str, results: dict, folder: Path = RESULTS, *, accelerator: str | None = None) -> Path:
    """Write <folder>/<device>/<name>.json and return its path; the load tells how busy others kept the machine."""
    device = device_name(accelerator)
    slug = "-".join("".join(letter.lower() if letter.isalnum() else " " for letter in device).split())
    path = folder / slug / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"device": device, "load_average": os.getloadavg(), **results}, indent=1) + "\n")
    return path
