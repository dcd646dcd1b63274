"""What the stages of a run cost, before they start: parameters, floating-point operations and memory, by arithmetic."""

from collections.abc import Mapping
from dataclasses import replace

from diptych import backends
from diptych.core.training.staged_recipe import StagedRecipe
from diptych.engine.training.stage_plan import PlannedStage, local_size
from diptych.models import NaFlexVisionConfig, SigLIPConfig, VisionConfig
from diptych.models.captioner.config import captioner_flops, count_captioner_parameters
from diptych.models.counting import count_flops, count_parameters, count_tower_parameters, estimate_memory

_FLOAT32_BYTES = 4
_SLOTS = {"adamw": 2, "adafactor": 1.01, "lion": 1}


def stage_parameters(planned: PlannedStage) -> dict[str, int]:
    """Trained scalars by part, and "teacher", which is not trained and not in the "total"."""
    towers = count_parameters(planned.config)
    parts = {name: towers[name] for name in ("image", "text", "logits")}
    if planned.captioner:
        parts["decoder"] = count_captioner_parameters(planned.captioner)["total"]
    heads = 0
    if planned.head:
        heads = sum(_head_parameters(planned.head, width) for width in _head_widths(planned.config))
        parts["heads"] = heads + planned.vision.width
    teacher = count_tower_parameters(planned.vision) + heads if planned.head else 0
    return {**parts, "total": sum(parts.values()), "teacher": teacher}


def training_flops(recipe: StagedRecipe, planned: PlannedStage) -> dict[str, float]:
    """Operations for one example that is trained on, by what they are for, and their "total".

    A backward pass counts as two forward passes. Not counted are what rematerialisation computes again and, as everywhere, norms,
    activations and lookups.
    """
    lengths = planned.stage.sequence_lengths or (planned.vision.num_patches,)
    configs = [_with_patches(planned.config, length) for length in lengths]
    counts = [count_flops(config, batch_size=planned.batch_size) for config in configs]
    mean = {name: sum(count[name] for count in counts) / len(counts) for name in counts[0]}
    parts: dict[str, float] = {"contrastive": mean["training"]}
    if planned.captioner:
        written = [captioner_flops(planned.captioner, image_tokens=length)["total"] for length in lengths]
        parts["captioning"] = 3 * sum(written) / len(written)
    if planned.head:
        parts |= _self_supervised(recipe, planned, mean["image"])
    if planned.stage.curation:
        # Learner and reference read every candidate; the reference is taken to be as large as the learner.
        parts["selection"] = 2 * planned.loaded / planned.batch_size * (mean["image"] + mean["text"])
    return {**parts, "total": sum(parts.values())}


def stage_memory(recipe: StagedRecipe, planned: PlannedStage, devices: int = 1) -> dict[str, float]:
    """Bytes a device holds in a step, by what they are for, and their "total".

    Weights, their gradients and slots, and the teacher are taken to be spread over the devices (as FSDP does), activations too,
    because each device has its part of the batch. Activations are those of the towers (`estimate_memory`), those of the
    views by their share of operations, and the decoder's features; logits are computed a chunk at a time.
    """
    parameters = stage_parameters(planned)
    model, optimization = recipe.model, recipe.optimization
    dtype = "mixed_bfloat16" if model.precision == "bfloat16" else "float32"
    most, rows = 0, 1
    for length in planned.stage.sequence_lengths or (planned.vision.num_patches,):
        pieces = planned.naflex.pieces(length) if planned.naflex else 1
        rows = max(1, planned.batch_size // pieces // optimization.accum_freq // devices)
        config = _with_patches(planned.config, length)
        towers = estimate_memory(config, batch_size=rows, rematerialize=model.grad_checkpointing, dtype=dtype)
        most = max(most, towers["activations"])
    flops = training_flops(recipe, planned)
    views = sum(flops.get(name, 0.0) for name in ("distillation", "masked_prediction"))
    activations = most * (1 + views / flops["contrastive"])
    if planned.captioner:
        c = planned.captioner
        activations += rows * 3 * c.context_length * c.depth * (10 * c.width + 2 * c.mlp_dim) * _FLOAT32_BYTES
    weights = _FLOAT32_BYTES * parameters["total"] / devices
    parts = {
        "weights": weights,
        "gradients": weights,
        "optimizer": _SLOTS[optimization.optimizer] * weights,
        "teacher": _FLOAT32_BYTES * parameters["teacher"] / devices,
        "ema": weights if optimization.ema_decay else 0.0,
        "activations": activations,
    }
    return {**parts, "total": sum(parts.values())}


def plan_text(recipe: StagedRecipe, planned: Mapping[str, PlannedStage]) -> str:
    """The stages as a table for people: batches, optimizer steps, parameters, operations and memory. Nothing is allocated for it."""
    devices = recipe.devices
    head = ("stage", "from", "pictures", "batches", "steps", "examples", "parameters", "GFLOP/ex.", "PFLOP", "GiB")
    rows: list[tuple[str, ...]] = [head]
    total = 0.0
    for name, stage in planned.items():
        flops = training_flops(recipe, stage)["total"]
        total += flops * stage.examples
        rows.append(
            (
                name,
                stage.stage.after or "fresh",
                _pictures(stage),
                f"{stage.batches:,}",
                f"{stage.updates:,}",
                f"{stage.examples:,}",
                f"{stage_parameters(stage)['total'] / 1e6:,.1f} M",
                f"{flops / 1e9:,.3g}",
                f"{flops * stage.examples / 1e15:,.4g}",
                f"{stage_memory(recipe, stage, devices)['total'] / 2**30:,.2f}",
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
        f"{backends.name()}: batches of {recipe.optimization.batch_size:,}; {total / 1e15:,.4g} PFLOP in all; memory on each of "
        f"{devices:,} device{'s' if devices > 1 else ''}",
    )
    for name, stage in planned.items():
        parts = {
            key: value for key, value in stage_parameters(stage).items() if key not in ("total", "logits") and value
        }
        memory = {key: value for key, value in stage_memory(recipe, stage, devices).items() if key != "total" and value}
        if stage is first or stage.head or stage.naflex:
            lines.append(
                f"{name}: parameters {_listed(parts, 1e6, 'M')}; memory {_listed(memory, 2**30, 'GiB')}; "
                f"GFLOP an example {_listed({k: v for k, v in training_flops(recipe, stage).items() if k != 'total'}, 1e9, '')}"
            )
    return "\n".join(lines)


def _pictures(planned: PlannedStage) -> str:
    vision = planned.vision
    if isinstance(vision, NaFlexVisionConfig):
        return f"{vision.patch_size} px x {{{','.join(map(str, planned.stage.sequence_lengths))}}}"
    return f"{vision.image_size}/{vision.patch_size}"


def _listed(parts: Mapping[str, float], unit: float, name: str) -> str:
    return ", ".join(f"{part} {value / unit:,.3g} {name}".strip() for part, value in parts.items())


def _with_patches(config: SigLIPConfig, length: int) -> SigLIPConfig:
    """The same towers for NaFlex sequences of a length; square towers as they are."""
    if isinstance(config.vision, NaFlexVisionConfig):
        return replace(config, vision=replace(config.vision, max_num_patches=length))
    return config


def _self_supervised(recipe: StagedRecipe, planned: PlannedStage, image: float) -> dict[str, float]:
    """Views and heads; the teacher's pass over the global view, which both losses read, is counted with the first."""
    distillation, vision = recipe.distillation, planned.vision
    assert isinstance(vision, VisionConfig)
    losses = planned.stage.losses
    small = replace(vision, image_size=local_size(vision, distillation.local_size))
    local = count_flops(replace(planned.config, vision=small), batch_size=planned.batch_size)["image"]
    wide, narrow = (_head_flops(planned.head, width) for width in _head_widths(planned.config))
    hidden = int(distillation.mask_ratio * vision.num_patches)
    parts = {"distillation": image}
    if losses.distillation:
        parts["distillation"] += 3 * distillation.local_views * (local + wide) + wide
    if losses.masked_prediction:
        parts["masked_prediction"] = 3 * (image + hidden * narrow) + hidden * narrow
    return parts


def _head_widths(config: SigLIPConfig) -> tuple[int, int]:
    return config.vision.output_width, config.vision.width


def _head_shapes(head: Mapping[str, int], width: int) -> list[tuple[int, int]]:
    hidden, bottleneck = head["hidden"], head["bottleneck"]
    return [(width, hidden), (hidden, hidden), (hidden, bottleneck)]


def _head_parameters(head: Mapping[str, int], width: int) -> int:
    maps = sum(inputs * outputs + outputs for inputs, outputs in _head_shapes(head, width))
    return maps + head["bottleneck"] * head["outputs"]


def _head_flops(head: Mapping[str, int] | None, width: int) -> int:
    assert head is not None
    maps = sum(inputs * outputs for inputs, outputs in _head_shapes(head, width))
    return 2 * (maps + head["bottleneck"] * head["outputs"])
