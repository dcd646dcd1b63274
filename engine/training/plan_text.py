"""Plans of runs as text for people: what each stage is, what it costs and holds, and what it fits on."""

from collections.abc import Mapping
from typing import NamedTuple

from diptych import backends
from diptych.core.training.recipe import Recipe
from diptych.engine.training.costs import stage_parameters, taught_parts, training_flops
from diptych.engine.training.memory import Setting, first_fitting, stage_memory
from diptych.engine.training.planned_stage import PlannedStage
from diptych.engine.training.terms.stage_term import Terms
from diptych.models import NaFlexVisionConfig


class Device(NamedTuple):
    """A kind of device: memory that a program finds, and operations of bfloat16 a second."""

    name: str
    gigabytes: float
    peak_tflops: float


DEVICES = (
    Device("TPU v5e (16 GB)", 16.9, 197),  # 15.75 GiB
    Device("H100 (80 GB)", 84.9, 989),
    Device("H200 (141 GB)", 149.6, 989),
)
UTILISATION = 0.4
"""The share of a peak at which times are stated."""

MOST_OF_THE_BEGINNING = 0.1
"""Of the weights that a moving average begins with, the share in it that needs saying."""


def plan_text(recipe: Recipe, planned: Mapping[str, PlannedStage], terms: Terms) -> str:
    """The stages as a table for people: batches, optimizer steps, parameters, operations and memory. Nothing is
    allocated for it.
    """
    devices = recipe.run.planned_devices
    head = ("stage", "from", "inputs", "batches", "steps", "examples", "parameters", "GFLOP/ex.", "PFLOP", "GiB")
    rows: list[tuple[str, ...]] = [head]
    total = 0.0
    for name, stage in planned.items():
        flops = training_flops(recipe, stage, terms)["total"]
        total += flops * stage.examples
        rows.append(
            (
                name,
                stage.stage.after or ("checkpoint" if recipe.model.from_checkpoint else "fresh"),
                _inputs(stage),
                f"{stage.batches:,}",
                f"{stage.updates:,}",
                f"{stage.examples:,}",
                f"{stage_parameters(stage, terms)['total'] / 1e6:,.1f} M",
                f"{flops / 1e9:,.3g}",
                f"{flops * stage.examples / 1e15:,.4g}",
                f"{stage_memory(recipe, stage, terms)['total'] / 2**30:,.2f}",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = [
        "  ".join(
            cell.ljust(w) if i < 3 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    first = next(iter(planned.values()))
    lines.insert(
        0,
        f"{backends.name()}: batches of {recipe.optimization.batch_size:,}; {total / 1e15:,.4g} PFLOP in all; memory "
        f"on {_devices_text(devices, recipe.run.fsdp)}",
    )
    for name, stage in planned.items():
        parts = {
            key: value
            for key, value in stage_parameters(stage, terms).items()
            if key not in ("total", "logits") and value
        }
        memory = {key: value for key, value in stage_memory(recipe, stage, terms).items() if key != "total" and value}
        if stage is first or stage.naflex or taught_parts(stage, terms) is not None:
            work = {key: value for key, value in training_flops(recipe, stage, terms).items() if key != "total"}
            lines.append(
                f"{name}: parameters {_listed(parts, 1e6, 'M')}; memory {_listed(memory, 2**30, 'GiB')}; "
                f"GFLOP an example {_listed(work, 1e9, '')}"
            )
    return "\n".join([*lines, *fitting_lines(recipe, planned, terms), *moving_lines(recipe, planned, terms)])


def fitting_lines(recipe: Recipe, planned: Mapping[str, PlannedStage], terms: Terms) -> list[str]:
    """What of the memory is exact, and what all stages fit, a line each; with the time that a device's peak allows."""
    heaviest = max(planned, key=lambda name: stage_memory(recipe, planned[name], terms)["total"])
    lines = [
        "Of a device's memory scratch, what lives within a step, is an estimate, held against the compiler for TPUs "
        f"alone (docs/scale.md); all else is counted. {heaviest} takes the most."
    ]
    costliest = max(planned, key=lambda name: training_flops(recipe, planned[name], terms)["total"])
    flops = training_flops(recipe, planned[costliest], terms)["total"]
    whole = sum(training_flops(recipe, stage, terms)["total"] * stage.examples for stage in planned.values())
    for device in DEVICES:
        setting = first_fitting(recipe, planned, terms, device.gigabytes * 1e9)
        line = f"{device.name}: {_setting_text(recipe, setting)}"
        if setting:
            speed = UTILISATION * device.peak_tflops * 1e12 * recipe.run.planned_devices * 3600
            line += (
                f"; a billion examples of {costliest} take {1e9 * flops / speed:,.3g} hours, and the run "
                f"{time_text(3600 * whole / speed)}, at {UTILISATION:.0%} of its peak"
            )
            if recipe.model.precision != "bfloat16":
                line += ", which is that of --precision bfloat16"
        lines.append(line)
    return lines


def time_text(seconds: float) -> str:
    """A time in the unit that suits it."""
    for unit, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60), ("s", 1)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.3g} {unit}"
    return f"{seconds * 1e3:,.3g} ms"


def _setting_text(recipe: Recipe, setting: Setting | None) -> str:
    if setting is None:
        return "does not fit with the smallest micro-batches either: spread the state (--fsdp) over more --devices"
    flags = []
    if setting.grad_checkpointing and not recipe.model.grad_checkpointing:
        flags.append("--grad-checkpointing")
    if setting.accum_freq != recipe.optimization.accum_freq:
        flags.append(f"--accum-freq {setting.accum_freq}")
    return f"fits with {' '.join(flags)}" if flags else "fits"


def moving_lines(recipe: Recipe, planned: Mapping[str, PlannedStage], terms: Terms) -> list[str]:
    """What holds still, a line each: parameters that a stage does not train, and a moving average that is longer than
    the run.
    """
    lines = []
    for name, stage in planned.items():
        if stage.trained is not None:
            total = stage_parameters(stage, terms)["total"]
            lines.append(f"Stage {name} trains {stage.trained:,} of {total:,} parameters ({stage.trained / total:.2%})")
    decay, steps = recipe.optimization.ema_decay, sum(stage.updates for stage in planned.values())
    if decay is not None and decay**steps > MOST_OF_THE_BEGINNING:
        lines.append(
            f"--ema-decay {decay:g} averages over {1 / (1 - decay):,.0f} steps, and there are {steps:,}: what is "
            f"judged and saved keeps {decay**steps:.0%} of the weights it begins with. Lower it, or leave it out"
        )
    return lines


def _devices_text(devices: int, fsdp: int) -> str:
    if devices == 1:
        return "the device"
    state = f"the state spread over {fsdp:,}" if fsdp > 1 else "all of the state on each (--fsdp spreads it)"
    return f"each of {devices:,} devices, {state}"


def _inputs(planned: PlannedStage) -> str:
    vision = planned.vision
    if vision is None:
        return f"{planned.config.context_length:,} tokens"
    if isinstance(vision, NaFlexVisionConfig):
        return f"{vision.patch_size} px x {{{','.join(map(str, planned.stage.sequence_lengths))}}}"
    return f"{vision.image_size}/{vision.patch_size}"


def _listed(parts: Mapping[str, float], unit: float, name: str) -> str:
    return ", ".join(f"{part} {value / unit:,.3g} {name}".strip() for part, value in parts.items())
