"""Configurations and optimizers of older runs in the form that both have now, so that the runs can go on."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from diptych.core.training.checkpoint import CheckpointError

RESOLVED = ("context_length", "captions_per_image", "english_share", "opening_examples", "augment")
"""Fields of the data that runs in stages once stored as they were typed, and now as the data decide them."""


def as_now(stored: Mapping[str, Any], given: Mapping[str, Any], unused: Collection[str] = ()) -> dict[str, Any]:
    """A stored configuration in the form of the one that is given now.

    Fields that there were not yet when it was stored count as given, and so do those `unused`, which no stage asks for.
    A run without stages was one of the contrastive loss alone. A teacher's momentum that was not given was 0.966 at a
    batch of 16,384.
    """
    config = dict(stored) | {name: given[name] for name in unused if name in given}
    if (distillation := dict(config.get("distillation", {}))).get("teacher_momentum", 0) is None:
        config["distillation"] = distillation | {"teacher_momentum": 0.966, "teacher_momentum_batch": 16_384}
    data, run = dict(config.get("data", {})), dict(config.get("run", {}))
    if "language_temperature" in config:
        data["language_temperature"] = config.pop("language_temperature")
    config.pop("devices", None)
    for name in RESOLVED:
        if data.get(name) is None and name in given.get("data", {}):
            data[name] = given["data"][name]
    config |= {"data": data, "run": run}
    if "stages" in config:
        known = {stage["name"]: stage for stage in given.get("stages", ())}
        config["stages"] = [_stage(stage, known.get(stage["name"], {})) for stage in config["stages"]]
    elif all(set(stage["losses"]) == {"contrastive"} for stage in given["stages"]):
        config["stages"] = given["stages"]
    return _with_new_fields(config, given)


def slots_as_now(stored: Mapping[str, np.ndarray], wanted: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The stored slots of an optimizer, by name, as those that are `wanted`.

    An earlier diptych counted updates once for all weights, and so they go on: each weight's slots have as many.

    Raises:
        CheckpointError: for Adafactor's second moments of whole kernels, which are now those of each head.
    """
    slots, counted = dict(stored), stored.get("iterations")
    if counted is None or any(name.endswith("/updates") for name in stored):
        return slots
    for name in wanted:
        weight, _, slot = name.rpartition("/")
        if slot == "updates" and f"{weight}/momentum" in stored:
            slots[name] = np.asarray(counted, np.float32)
    for name, variable in wanted.items():
        whole = ("row_second_moment", "column_second_moment", "second_moment")
        if "_kernel/" in name and name.endswith(whole) and name in stored and stored[name].ndim != len(variable.shape):
            raise CheckpointError(
                f"An earlier diptych began this run and kept Adafactor's second moments of {name.rpartition('/')[0]} "
                "for the whole kernel, where they are now those of each head: finish the run with the version that "
                "began it, or start anew with another --run-dir."
            )
    return slots


def _stage(stored: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    stage = dict(stored)
    stage["losses"] = {name: weight for name, weight in stage["losses"].items() if weight}
    if stage.get("curation"):
        stage["curation"] = {name: value for name, value in stage["curation"].items() if name != "method"}
    return {**{name: value for name, value in given.items() if name not in stage}, **stage}


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
