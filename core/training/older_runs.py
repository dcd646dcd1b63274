"""Configurations of runs that an earlier diptych began, in the form that recipes have now, so that they can be gone on
with.
"""

from collections.abc import Mapping
from typing import Any

RESOLVED = ("context_length", "captions_per_image", "english_share", "opening_examples")
"""Fields of the data that runs in stages once stored as they were typed, and now as the data decide them."""


def as_now(stored: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """A stored configuration in the form of the one that is given now.

    Fields that there were not yet when it was stored count as given. A run without stages was one of the contrastive
    loss alone.
    """
    config = dict(stored)
    data, run = dict(config.get("data", {})), dict(config.get("run", {}))
    if "language_temperature" in config:
        data["language_temperature"] = config.pop("language_temperature")
    config.pop("devices", None)
    for name in RESOLVED:
        if data.get(name) is None and name in given.get("data", {}):
            data[name] = given["data"][name]
    config |= {"data": data, "run": run}
    if "stages" in config:
        config["stages"] = [_stage(stage) for stage in config["stages"]]
    elif all(set(stage["losses"]) == {"contrastive"} for stage in given["stages"]):
        config["stages"] = given["stages"]
    return _with_new_fields(config, given)


def _stage(stored: Mapping[str, Any]) -> dict[str, Any]:
    stage = dict(stored)
    stage["losses"] = {name: weight for name, weight in stage["losses"].items() if weight}
    if stage.get("curation"):
        stage["curation"] = {name: value for name, value in stage["curation"].items() if name != "method"}
    return stage


def _with_new_fields(stored: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    whole = dict(stored)
    for name, value in given.items():
        if name == "stages":
            continue
        if name not in whole:
            whole[name] = value
        elif isinstance(value, Mapping) and isinstance(whole[name], Mapping) and value:
            whole[name] = _with_new_fields(whole[name], value)
    return whole
