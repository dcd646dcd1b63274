"""The costs of a run's stages, before they start: parameters, floating-point operations, memory, by arithmetic."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from diptych import backends
from diptych.backends.shares import cut_axis, share
from diptych.core.training.recipe import Optimization, Recipe
from diptych.engine.training.planned_stage import PlannedStage
from diptych.engine.training.terms.stage_term import Terms, TowerFlops
from diptych.models import NaFlexVisionConfig, PaliGemmaConfig
from diptych.models.counting import count_flops, count_parameters, count_tower_parameters, estimate_memory
from diptych.models.paligemma.config import count_paligemma_parameters
from diptych.models.paligemma.counting import count_paligemma_flops, training_memory

MOST_OF_THE_BEGINNING = 0.1
"""Of the weights that a moving average begins with, the share in it that needs saying."""

_FLOAT32_BYTES = 4
_SLOTS = {"adamw": 2, "adafactor": 1.01, "lion": 1, "sgd": 1, "openai_adam": 2}
"""float32 numbers that an optimizer keeps of each weight, one of them its momentum."""


def stage_parameters(planned: PlannedStage, terms: Terms) -> dict[str, int]:
    """Trained scalars by part, and "teacher", which is not trained and not in the "total"."""
    towers = _parameters(planned.config)
    parts = {name: count for name, count in towers.items() if name != "total"}
    parts |= {name: part.parameters(planned.config) for name, part in planned.parts.items()}
    taught = _taught(planned, terms)
    teacher = 0
    if taught is not None and planned.vision is not None:
        teacher = count_tower_parameters(planned.vision) + sum(parts[name] for name in taught)
    return {**parts, "total": sum(parts.values()), "teacher": teacher}


def training_flops(recipe: Recipe, planned: PlannedStage, terms: Terms) -> dict[str, float]:
    """Operations for one example that is trained on, by what they are for, and their "total".

    A backward pass counts as two forward passes. A locked tower has none, and an image tower no forward pass either
    where pictures are embedded before. Not counted are what rematerialisation computes again and, as everywhere, norms,
    activations and lookups.
    """
    counts = [_flops(recipe, planned, config) for _, config in _by_length(planned)]
    mean = {name: sum(count[name] for count in counts) / len(counts) for name in counts[0]}
    pairs = mean["training"] - sum(2 * mean[tower] for tower in planned.locked)
    if planned.embeds_images:
        pairs -= mean["image"]
    towers = TowerFlops(image=mean.get("image", 0.0), pairs=pairs, lengths=planned.lengths)
    parts = {name: terms[name].flops(recipe, planned, towers) for name in terms if name in planned.stage.losses}
    if _taught(planned, terms) is not None:
        parts["teacher"] = mean["image"]  # its pass over the global view, which all terms read
    if planned.stage.curation:
        # Learner and reference read every candidate; one that is not there yet is taken to be as large as the learner.
        reference: Mapping[str, float] = mean
        if planned.reference is not None and not planned.naflex:
            reference = count_flops(planned.reference, batch_size=planned.batch_size)
        read = sum(model[tower] for model in (mean, reference) for tower in ("image", "text"))
        parts["selection"] = planned.loaded / planned.batch_size * read
    return {**parts, "total": sum(parts.values())}


def stage_memory(recipe: Recipe, planned: PlannedStage, terms: Terms) -> dict[str, float]:
    """Bytes a device holds in a step, by what they are for, and their "total".

    Each device has its part of the batch, and its share of weights, slots, averages and teacher as `--fsdp` deals
    them out: all of them without. Activations are those of the towers (`estimate_memory`), those of the views by
    their share of operations, and what each term adds.
    """
    devices = recipe.run.planned_devices
    model, optimization = recipe.model, recipe.optimization
    dtype = "mixed_bfloat16" if model.precision == "bfloat16" else "float32"
    most, rows = 0, 1
    for length, config in _by_length(planned):
        pieces = planned.naflex.pieces(length) if planned.naflex else 1
        rows = max(1, planned.batch_size // pieces // optimization.accum_freq // devices)
        if isinstance(config, PaliGemmaConfig):
            most = max(most, _paligemma_activations(recipe, planned, config, rows))
            continue
        towers = estimate_memory(
            config,
            batch_size=rows,
            rematerialize=model.grad_checkpointing,
            dtype=dtype,
            locked=planned.locked,
        )
        most = max(most, towers["activations"])
    flops, losses = training_flops(recipe, planned, terms), planned.stage.losses
    views = sum(flops[name] for name in losses if terms[name].sees_views) + flops.get("teacher", 0.0)
    activations = float(most)
    if views:
        activations *= 1 + views / count_flops(planned.config, batch_size=planned.batch_size)["training"]
    activations += sum(terms[name].activation_bytes(recipe, planned, rows) for name in losses)
    held = _held(recipe, planned, terms)
    parts = {
        "weights": held["weights"],
        "gradients": held["gradients"],
        "optimizer": _slots(optimization) * held["moved"],
        "teacher": held["teacher"],
        "ema": held["moved"] if optimization.ema_decay else 0.0,
        "gathered": held["gathered"],
        "activations": activations,
    }
    return {**parts, "total": sum(parts.values())}


def _slots(optimization: Optimization) -> float:
    """float32 numbers that the optimizer keeps of each weight."""
    if optimization.momentum == 0:
        return 0.0
    return _SLOTS[optimization.optimizer] - 0.5 * (optimization.momentum_dtype == "bfloat16")


def _held(recipe: Recipe, planned: PlannedStage, terms: Terms) -> dict[str, float]:
    """Bytes of each device's weights, of those that move, of their gradients, of the teacher's weights, and of the
    copies that a step gathers of weights that are spread.

    Gradients are whole, because compilers add them up before they cut them. The towers' copies in bfloat16 are among
    the activations, spread or not.
    """
    if planned.shapes is None:
        parameters = stage_parameters(planned, terms)
        moved = parameters["total"] if planned.trained is None else planned.trained
        numbers = {"weights": parameters["total"], "teacher": parameters["teacher"], "gathered": 0}
        numbers |= {"moved": moved, "gradients": moved}
        return {name: _FLOAT32_BYTES * count for name, count in numbers.items()}
    parts, taught = recipe.run.fsdp, _taught(planned, terms)
    held = {path: _FLOAT32_BYTES * share(shape, parts) for path, shape in planned.shapes.items()}
    teacher = () if taught is None else tuple(f"{part}/" for part in ("image", *taught))
    whole = {path: math.prod(shape) for path, shape in planned.shapes.items() if cut_axis(shape, parts) is not None}
    tables = {path for path in whole if "token_embedding" in path}  # looked up in float32
    gathered = _FLOAT32_BYTES * sum(whole[path] for path in tables)
    kernels = whole.keys() - tables
    if recipe.model.precision == "float32":
        gathered += _FLOAT32_BYTES * sum(whole[path] for path in kernels)
    else:
        gathered += 2 * sum(whole[path] for path in kernels if not path.startswith(("image/", "text/")))
    return {
        "weights": sum(held.values()),
        "moved": sum(held[path] for path in planned.moving),
        "gradients": _FLOAT32_BYTES * sum(math.prod(planned.shapes[path]) for path in planned.moving),
        "teacher": sum(size for path, size in held.items() if path.startswith(teacher)) if teacher else 0,
        "gathered": gathered,
    }


def _taught(planned: PlannedStage, terms: Terms) -> list[str] | None:
    """The parts that a teacher copies beside the image tower; None where no term has a teacher."""
    asked = [terms[name].taught for name in terms if name in planned.stage.losses]
    return None if all(some is None for some in asked) else [part for some in asked for part in some or ()]


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
        if stage is first or stage.naflex or _taught(stage, terms) is not None:
            work = {key: value for key, value in training_flops(recipe, stage, terms).items() if key != "total"}
            lines.append(
                f"{name}: parameters {_listed(parts, 1e6, 'M')}; memory {_listed(memory, 2**30, 'GiB')}; "
                f"GFLOP an example {_listed(work, 1e9, '')}"
            )
    return "\n".join([*lines, *moving_lines(recipe, planned, terms)])


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


def _parameters(config: Any) -> dict[str, int]:
    """Trained scalars of a model by part, and their "total"."""
    return count_paligemma_parameters(config) if isinstance(config, PaliGemmaConfig) else count_parameters(config)


def _flops(recipe: Recipe, planned: PlannedStage, config: Any) -> dict[str, int]:
    """Of a forward pass through each tower, and of "training"."""
    if not isinstance(config, PaliGemmaConfig):
        return count_flops(config, batch_size=planned.batch_size)
    counted = count_paligemma_flops(config, text_length=recipe.data.context_length or 1)
    towers = {
        "image": counted["image"] + counted["projector"],
        "decoder": counted["text"] + counted["logits"],
    }
    return {**towers, "training": counted["training"]}


def _paligemma_activations(recipe: Recipe, planned: PlannedStage, config: PaliGemmaConfig, rows: int) -> int:
    """Bytes that a step keeps beside logits; in bfloat16 at most these, and a rounded copy of what float32 kernels
    multiply.
    """
    precise = recipe.model.precision == "float32"
    counted = training_memory(
        config,
        text_length=recipe.data.context_length or 1,
        batch_size=rows,
        image_trained="image" not in planned.locked,
        rematerialize=recipe.model.grad_checkpointing,
    )
    kernels = count_paligemma_parameters(config)["total"] - config.text.vocab_size * config.text.width
    return counted["activations"] + (0 if precise else 2 * kernels)


def _by_length(planned: PlannedStage) -> list[tuple[int, Any]]:
    """Each number of patches of NaFlex with the model for it; for other models 0 and the model as it is."""
    config, vision = planned.config, planned.vision
    if not isinstance(vision, NaFlexVisionConfig):
        return [(0, config)]
    return [(length, replace(config, vision=replace(vision, max_num_patches=length))) for length in planned.lengths]
