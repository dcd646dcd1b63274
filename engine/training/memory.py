"""The memory of a device in a run's stages, before they start, by arithmetic."""

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from diptych.backends.shares import cut_axis, share
from diptych.core.training.recipe import Recipe
from diptych.engine.training.batch_shapes import batch_bytes
from diptych.engine.training.build import build_student
from diptych.engine.training.costs import by_length, taught_parts, training_flops
from diptych.engine.training.planned_stage import PlannedStage
from diptych.engine.training.terms.stage_term import Terms
from diptych.models import PaliGemmaConfig
from diptych.models.abstract import shapes_only
from diptych.models.counting import count_flops, count_parameters, estimate_memory
from diptych.models.paligemma.config import count_paligemma_parameters
from diptych.models.paligemma.counting import training_memory

_FLOAT32_BYTES = 4
_SLOTS = {"adamw": 2, "adafactor": 1.01, "lion": 1, "sgd": 1, "openai_adam": 2}
"""float32 numbers that an optimizer keeps of each weight, one of them its momentum."""
_COUNTS = ("adamw", "adafactor", "openai_adam")
"""Those that count the updates of each tensor, beside their own."""
_TOWERS = ("image/", "text/", "decoder/", "projector/")
"""Beginnings of the paths of weights whose copies are counted with the activations."""
_TABLE = "token_embedding"
"""In the paths of weights that are looked up."""


def stage_memory(recipe: Recipe, planned: PlannedStage, terms: Terms) -> dict[str, float]:
    """Bytes a device holds in a step, by what they are for, and their "total".

    Each device has its part of the batch, and its share of weights, slots, averages, teacher and reference as `--fsdp`
    deals them out: all of them without. With AdamW these are exact; a reference that is not there yet is taken to be as
    large as the learner. "scratch" is an estimate of what lives within a step (`_scratch`).
    """
    devices, optimization = recipe.run.planned_devices, recipe.optimization
    held = _held(recipe, planned, terms)
    spread = devices if recipe.run.zero else 1
    shapes = [shape for name in planned.stage.losses for shape in terms[name].held_shapes(recipe)]
    centres = _FLOAT32_BYTES * sum(share(shape, recipe.run.fsdp) for shape in shapes)
    slots = _SLOTS[optimization.optimizer] - 0.5 * (optimization.momentum_dtype == "bfloat16")
    slots = 0.0 if optimization.momentum == 0 else slots
    parts = {
        "weights": held["weights"],
        "optimizer": slots * held["moved"] / spread + held["counters"],
        "teacher": held["teacher"] / spread + centres,
        "reference": _reference_bytes(recipe, planned),
        "batch": batch_bytes(recipe, planned, terms) / devices,
        "ema": held["moved"] / spread if optimization.ema_decay else 0.0,
        "scratch": _scratch(recipe, planned, terms, held),
    }
    return {**parts, "total": sum(parts.values())}


def _scratch(recipe: Recipe, planned: PlannedStage, terms: Terms, held: Mapping[str, float]) -> float:
    """Bytes that a step takes beside what a device holds, where they are most: when a loss is computed, when a block is
    computed again in the backward pass, or when all gradients are there and the largest weight is updated.

    In the first two activations live and copies of kernels, with micro-batches also what earlier ones have added up;
    beside them in the first a chunk's logits, and the largest gradient before it is cut.
    """
    gradients, largest = held["gradients"], held["largest"]
    kept, recomputed, passing = _activations(recipe, planned, terms)
    early = gradients if recipe.optimization.accum_freq > 1 else 0.0
    within = kept + held["copies"] + early + max(passing + largest, recomputed + gradients)
    return max(within, gradients + largest)


def activation_bytes(recipe: Recipe, planned: PlannedStage, terms: Terms) -> float:
    """Bytes that a device's part of a batch, or of a micro-batch, keeps for the backward pass: of the towers
    (`estimate_memory`), of the views by their share of operations, and what each term adds.
    """
    return _activations(recipe, planned, terms)[0]


def _activations(recipe: Recipe, planned: PlannedStage, terms: Terms) -> tuple[float, float, float]:
    """Bytes that are kept, those of blocks while they are computed again, and those of the largest chunk of logits."""
    model, losses = recipe.model, planned.stage.losses
    if isinstance(planned.config, PaliGemmaConfig):
        return _paligemma_activations(recipe, planned, planned.config)
    dtype = "mixed_bfloat16" if model.precision == "bfloat16" else "float32"
    estimated = partial(estimate_memory, dtype=dtype, locked=planned.locked)
    found = []
    for length, config in by_length(planned):
        pieces = planned.naflex.pieces(length) if planned.naflex else 1
        among = pieces * recipe.optimization.accum_freq * recipe.run.planned_devices
        rows = max(1, planned.batch_size // among)
        towers = estimated(config, batch_size=rows, rematerialize=model.grad_checkpointing)
        found.append((towers["activations"], towers["recomputed"], rows))
    most, recomputed, _ = max(found)
    copies = estimated(planned.config, batch_size=0)["activations"]  # of kernels, for all views at once
    rows = max(rows for *_, rows in found)
    flops = training_flops(recipe, planned, terms)
    pairs = count_flops(planned.config, batch_size=planned.batch_size)
    views = sum(flops[name] for name in losses if terms[name].sees_views) + flops.get("teacher", 0.0)
    kept = copies + (most - recomputed - copies) * (1 + views / pairs["training"])
    kept += sum(terms[name].activation_bytes(recipe, planned, rows) for name in losses)
    return kept, recomputed, max(terms[name].passing_bytes(recipe, planned, rows) for name in losses)


def _paligemma_activations(
    recipe: Recipe, planned: PlannedStage, config: PaliGemmaConfig
) -> tuple[float, float, float]:
    """As `_activations`, all of it kept; in bfloat16 at most this, with rounded copies of kernels."""
    among = recipe.optimization.accum_freq * recipe.run.planned_devices
    counted = training_memory(
        config,
        text_length=recipe.data.context_length or 1,
        batch_size=max(1, planned.batch_size // among),
        pictures=recipe.prompted.pictures,
        image_trained="image" not in planned.locked,
        rematerialize=recipe.model.grad_checkpointing,
    )
    kernels = count_paligemma_parameters(config)["total"] - config.text.vocab_size * config.text.width
    return counted["activations"] + (0 if recipe.model.precision == "float32" else 2 * kernels), 0.0, 0.0


class Setting(NamedTuple):
    """How a step saves memory: whether blocks are computed again, and micro-batches."""

    grad_checkpointing: bool
    accum_freq: int

    def of(self, recipe: Recipe) -> Recipe:
        """The recipe with it."""
        return replace(
            recipe,
            model=replace(recipe.model, grad_checkpointing=self.grad_checkpointing),
            optimization=replace(recipe.optimization, accum_freq=self.accum_freq),
        )


def first_fitting(recipe: Recipe, planned: Mapping[str, PlannedStage], terms: Terms, capacity: float) -> Setting | None:
    """The setting that costs least of those with which all stages fit a device of so many bytes: the recipe's own, then
    blocks that are computed again, then twice as many micro-batches, and so on; None where none does.
    """
    given = Setting(recipe.model.grad_checkpointing, recipe.optimization.accum_freq)
    settings, fewest = [given, Setting(True, given.accum_freq)], min(map(_rows, planned.values()))
    while fewest % (2 * settings[-1].accum_freq * recipe.run.planned_devices) == 0:
        settings.append(Setting(True, 2 * settings[-1].accum_freq))
    for setting in settings:
        asked = setting.of(recipe)
        if all(stage_memory(asked, stage, terms)["total"] <= capacity for stage in planned.values()):
            return setting
    return None


def _rows(planned: PlannedStage) -> int:
    """Of a stage's smallest batch that makes a step."""
    lengths = planned.naflex
    return planned.batch_size // (max(map(lengths.pieces, lengths.lengths)) if lengths else 1)


def _held(recipe: Recipe, planned: PlannedStage, terms: Terms) -> dict[str, float]:
    """Bytes of each device's weights, of those that move, of their gradients when all are there, of the largest that
    moves, whole, of the teacher's weights, of the copies that a step makes of kernels, and of what counts updates.

    The towers' copies in bfloat16 are among the activations. Tables are looked up before there are any, and their
    copies are gone by then.
    """
    parts, taught, weights = recipe.run.fsdp, taught_parts(planned, terms), _weights_of(recipe, planned)
    held = {path: _FLOAT32_BYTES * share(shape, parts) for path, shape in weights.shapes.items()}
    teacher = () if taught is None else tuple(f"{part}/" for part in ("image", *taught))
    moved = sum(held[path] for path in weights.moving)
    return {
        "weights": sum(held.values()),
        "moved": moved,
        "gradients": moved,
        "largest": _FLOAT32_BYTES * max((math.prod(weights.shapes[path]) for path in weights.moving), default=0),
        "teacher": sum(size for path, size in held.items() if path.startswith(teacher)) if teacher else 0,
        "copies": _copied(recipe, weights.shapes),
        "counters": _FLOAT32_BYTES * (1 + len(weights.moving) * (recipe.optimization.optimizer in _COUNTS)),
    }


class _Weights(NamedTuple):
    """The shapes of a student's weights by path, and the paths of those that move."""

    shapes: Mapping[str, tuple[int, ...]]
    moving: frozenset[str]


_KNOWN: dict[str, _Weights] = {}


def _weights_of(recipe: Recipe, planned: PlannedStage) -> _Weights:
    """Those of a stage, which is built once for all stages like it, without memory for a weight."""
    model = replace(recipe.model, grad_checkpointing=False)
    like = repr((model, recipe.prompted.pictures, planned.config, sorted(planned.parts.items()), planned.stage.lock))
    if like not in _KNOWN:
        with shapes_only():
            student = build_student(recipe, planned)
        shapes = {variable.path: tuple(variable.shape) for variable in student.weights}
        _KNOWN[like] = _Weights(shapes, frozenset(variable.path for variable in student.trainable_variables))
    return _KNOWN[like]


def _copied(recipe: Recipe, shapes: Mapping[str, tuple[int, ...]]) -> float:
    """Bytes of the kernels that a step computes with, where they are no longer those that are held: gathered, or in
    bfloat16, which of the towers is among the activations.
    """
    kernels = {path: math.prod(shape) for path, shape in shapes.items() if len(shape) > 1 and _TABLE not in path}
    if recipe.model.precision == "bfloat16":
        return 2 * sum(
            size for path, size in kernels.items() if not path.startswith(("image/", "text/", "decoder/", "projector/"))
        )
    cut = [path for path in kernels if cut_axis(shapes[path], recipe.run.fsdp) is not None]
    return _FLOAT32_BYTES * sum(kernels[path] for path in cut)


def _reference_bytes(recipe: Recipe, planned: PlannedStage) -> float:
    """Of the model by which batches are chosen, spread as the learner is."""
    if not planned.stage.curation:
        return 0
    return _FLOAT32_BYTES * count_parameters(planned.reference or planned.config)["total"] / recipe.run.fsdp
