"""results.json: what the stages of a run scored, by name, in one versioned schema.

    {"format": "diptych-run", "version": 1, "stages": {NAME: {"examples_seen", "examples_planned", "stopped_early",
    "best": {"by", "value", "step", "examples", "evaluations_since"}, "retrieval", "zero_shot", "warnings", ...}}}

The folder of a stage holds that of the stage alone, the folder of a run that of all its stages.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diptych.core.files.json_objects import write_json
from diptych.core.training.run_folder import RunFolderError

FORMAT, VERSION = "diptych-run", 1

Scores = dict[str, Any]
"""What a stage scored, as its file has it; what a judge found has other names for each kind of model, and in runs of
earlier versions (`engine.training.results` has today's)."""


def write_results(path: Path, stages: Mapping[str, Scores]) -> None:
    """Stores what stages scored, by their names."""
    write_json(path, {"format": FORMAT, "version": VERSION, "stages": stages})


def read_results(path: Path, stage: str = "training") -> dict[str, Scores]:
    """What stages scored, by name; `stage` is the name that results from before the schema are given, which had none.

    Raises:
        RunFolderError: for a file of another format or a later version.
        FileNotFoundError: where there is none.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunFolderError(
            f"{path} is not readable as JSON: {error}. Move it away, and run the command again."
        ) from None
    if not isinstance(found, dict):
        raise RunFolderError(f"{path} holds no results of a run: expected an object. Move it away, and run again.")
    if "version" in found:
        if found.get("format") != FORMAT or found["version"] != VERSION:
            raise RunFolderError(
                f"{path} has format {found.get('format')!r}, version {found['version']}; this diptych reads "
                f"{FORMAT!r}, version {VERSION}. Read it with the version that wrote it."
            )
        return found["stages"]
    return {stage: found} if "retrieval" in found else found
