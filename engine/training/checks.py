"""Checks of a run before its first step: whether options, data and folder allow it."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace

from diptych import backends
from diptych.core.data.examples.preprocess import Preprocess
from diptych.core.data.ledger import ledger_of, visit
from diptych.core.data.loading.loader import Loader
from diptych.core.data.reasons import listed
from diptych.core.data.records import Source
from diptych.core.placement import Placement
from diptych.core.training.card import plain
from diptych.core.training.older_runs import as_now
from diptych.core.training.recipe import Model, Recipe, harmless_fields
from diptych.core.training.results import read_results
from diptych.core.training.run_folder import RunFolder
from diptych.core.training.stages import chosen_stages
from diptych.engine.datasets.data_set import Sources
from diptych.engine.flags import flags_of
from diptych.engine.training.planned_stage import PlannedStage
from diptych.engine.training.start import Start, lacks_vocabulary

_STATE_IS_WHOLE = ("tensorflow",)
"""Backends of which every device holds all weights, slots, averages and teacher."""

LOOKED_AT, HELD_OUT_LOOKED_AT = 64, 16
"""Examples that a dry run makes, and those of each held-out set."""


def missing_flags(recipe: Recipe, start: Start) -> list[str]:
    """The flags without which a recipe, such as a paper's preset, can only be planned, each with what to give."""
    missing = []
    if not recipe.data.train_data:
        missing.append("--train-data (pictures with captions, and boxes as in coco:annotations.json:images/)")
    if lacks_vocabulary(recipe, start):
        missing.append("--tokenizer (Gemma's tokenizer.json for SigLIP 2's vocabulary)")
    if not start.pretrained and any(stage.lock for stage in recipe.stages if stage.after is None):
        missing.append("--pretrained (a checkpoint, whose towers hold still at first)")
    return missing if start.pretrained else [*missing, *missing_checkpoints(recipe.model)]


def missing_checkpoints(model: Model) -> list[str]:
    """The flags that name what is to stay as it is, in a run from fresh weights, each with what to give."""
    missing = [
        f"--pretrained-{tower} (a checkpoint whose {tower} tower stays as it is)"
        for tower, lock, open_blocks in (
            ("image", model.lock_image, model.lock_image_unlocked_blocks),
            ("text", model.lock_text, model.lock_text_unlocked_blocks),
        )
        if lock and not open_blocks
    ]
    if model.lora_rank is not None:
        missing.append("--pretrained (a checkpoint, to whose weights low-rank adapters are added)")
    return missing


def refuse_options(recipe: Recipe, options: Iterable[tuple[type, str, tuple[str, ...]]], why: str) -> None:
    """Raises ValueError for an option that is given and means nothing to the model that a recipe trains.

    Args:
        options: (class, its field of the recipe, names of its fields).
        why: what such an option is for, "is for pictures, and ...".
    """
    for kind, group, names in options:
        usual = {part.name: part.default for part in fields(kind)}
        for name in names:
            if getattr(getattr(recipe, group), name) != usual[name]:
                raise ValueError(f"--{name.replace('_', '-')} {why}: leave it out.")


def check_missing(missing: list[str]) -> None:
    """Raises ValueError for a recipe without data, a vocabulary of its size, or the weights that it begins from."""
    if missing:
        raise ValueError(
            f"This run needs more than was given: give {' and '.join(missing)}, or add --dry-run to see what it would "
            "cost."
        )


def check_spread(recipe: Recipe) -> None:
    """Raises ValueError where batches or the state of a run are to be spread in a way that the backend does not do, and
    in a dry run where the devices cannot be grouped so.
    """
    devices, optimizer = recipe.run.planned_devices, recipe.optimization.optimizer
    if recipe.run.data_parallel > 1 and backends.name() == "torch":
        raise ValueError(
            f"--data-parallel {recipe.run.data_parallel} gives a process several devices, which is done on jax and "
            "tensorflow. On torch a process has one: start as many by torchrun --nproc-per-node."
        )
    if recipe.run.dry_run and devices % recipe.run.fsdp:
        raise ValueError(
            f"--fsdp {recipe.run.fsdp} spreads the state over groups of so many devices, and {devices} cannot be "
            "grouped so: give a divisor, or another number of --devices."
        )
    chosen = [stage.name for stage in chosen_stages(recipe.stages, recipe.only) if stage.curation]
    if recipe.run.data_parallel > 1 and backends.name() == "tensorflow" and chosen:
        raise ValueError(
            f"Stage {chosen[0]} chooses its batches from larger ones, which is not done over several devices of "
            "tensorflow: leave out --data-parallel, or the stage by --only."
        )
    if recipe.run.dry_run and backends.name() == "torch" and recipe.run.fsdp not in (1, devices):
        raise ValueError(
            f"On torch --fsdp spreads weights over all processes, each with a device: it is 1 or {devices:,} here, got "
            f"{recipe.run.fsdp}. Give another number of --devices, or take jax."
        )
    if recipe.run.fsdp > 1 and backends.name() in _STATE_IS_WHOLE:
        raise ValueError(
            f"--fsdp {recipe.run.fsdp} spreads weights, optimizer and averages over devices, which is not done on "
            f"{backends.name()}: leave it out, and every device holds all of them."
        )
    if recipe.run.zero and backends.name() != "torch":
        raise ValueError(
            f"--zero spreads slots, averages and teacher over processes of torch; Keras runs on {backends.name()}. "
            "Leave it out; on jax --fsdp spreads them, and weights as well."
        )
    if recipe.run.zero and recipe.run.fsdp > 1:
        raise ValueError("--fsdp spreads all that --zero does, and weights as well: give one of them.")
    flag = "--zero" if recipe.run.zero else "--fsdp" if recipe.run.fsdp > 1 else None
    if flag and backends.name() == "torch" and optimizer != "adamw":
        raise ValueError(
            f"{flag} spreads the slots of AdamW on torch, and got --optimizer {optimizer}: leave the flag out, or take "
            "--optimizer adamw."
        )


def for_processes(recipe: Recipe, placement: Placement) -> Recipe:
    """The recipe with what several processes decide where it said nothing: the towers see each picture in each step,
    since vectors that one process computes are not handed to the others.

    Raises:
        ValueError: the recipe asks for what several processes do not do.
    """
    if placement.processes == 1:
        return recipe
    if recipe.run.embed_images_once:
        raise ValueError(
            "--embed-images-once is done by one process. Embed with one (--run-dir with --embeddings-dir), or leave it "
            "out to train with the tower."
        )
    return replace(recipe, run=replace(recipe.run, embed_images_once=False))


def check_processes(recipe: Recipe, planned: Mapping[str, PlannedStage], placement: Placement) -> None:
    """Raises ValueError for batches that cannot be dealt out evenly, and for what several processes do not do."""
    if placement.processes == 1:
        return
    if backends.name() == "torch" and placement.fsdp not in (1, placement.processes):
        raise ValueError(
            f"On torch --fsdp spreads weights over all processes: it is 1 or {placement.processes} here, got "
            f"{placement.fsdp}."
        )
    micro_batches = recipe.optimization.accum_freq
    for stage in planned.values():
        lengths = stage.naflex
        pieces = max(map(lengths.pieces, lengths.lengths)) if lengths else 1
        for size in {stage.loaded, stage.batch_size}:
            placement.rows(size, pieces * micro_batches if backends.splits_own_rows() else pieces)
            if size // placement.processes % micro_batches:
                raise ValueError(
                    f"Each of {placement.processes} processes has {size // placement.processes} examples of a "
                    f"batch, which --accum-freq {micro_batches} does not divide."
                )
    if recipe.run.compile and backends.name() == "torch":
        raise ValueError(
            "--compile writes down what one process computes, and not what several tell each other meanwhile: leave "
            "it out, or start one process."
        )


def check_config(folder: RunFolder, recipe: Recipe) -> None:
    """Raises ConfigMismatch where the folder holds a run that would compute something else.

    A run of one stage that has ended may be given more examples, and another rate or schedule for them.
    """
    given = json.loads(json.dumps(plain(recipe)))
    harmless = harmless_fields(recipe)
    if ended_at(folder, recipe):
        harmless |= {f"optimization.{name}" for name in ("examples", "learning_rate", "schedule")}
    folder.check_config(
        given,
        harmless=harmless,
        as_now=lambda stored: as_now(stored, given, recipe.unused()),
        flags=flags_of(recipe),
    )


def ended_at(folder: RunFolder, recipe: Recipe) -> int | None:
    """After how many examples a run ended that the recipe gives more of; None for any other.

    Only a run of one stage can be given more: the stages of others begin and end at shares of all examples.
    """
    stored = folder.stored_config()
    if stored is None or len(recipe.stages) > 1 or not folder.results.exists():
        return None
    scored = next(iter(read_results(folder.results).values()), {})
    examples, size = (stored.get("optimization", {}).get(name, 0) for name in ("examples", "batch_size"))
    planned = scored.get("examples_planned", scored.get("examples_seen", 0))
    whole = planned > examples - size  # what does not fill a batch is left
    return examples if whole and examples < recipe.optimization.examples else None


def as_begun(recipe: Recipe) -> Recipe:
    """The recipe with what its run settled when it began, where the recipe itself says nothing.

    By default the opening examples are a share of all examples. They lie at the beginning, and stay what they were when
    more examples are given.
    """
    stored = RunFolder(recipe.run.run_dir).stored_config()
    if recipe.data.opening_examples is not None or stored is None or len(recipe.stages) > 1:
        return recipe
    return replace(recipe, data=replace(recipe.data, opening_examples=stored.get("data", {}).get("opening_examples")))


def check_boxes(source: Source, *, required: bool, looked_at: int = 256) -> str | None:
    """What is to be said where none of the first records has boxes, which the decoder is to learn to write; None where
    some have.

    Raises:
        ValueError: where boxes are `required` and there are none.
    """
    count = min(len(source), looked_at)
    if any(regions for _, regions in visit(source, lambda record: record.regions, range(count))):
        return None
    if not required:
        return f"None of the first {count} records has boxes: the decoder learns captions alone."
    raise ValueError(
        f"None of the first {count} records has boxes, and the decoder is to learn referring expressions and grounded "
        "captions. Give data with boxes (coco:annotations.json:images/), label yours with python -m recipes.label, or "
        "train on captions alone with --no-require-boxes."
    )


def judged_data(recipe: Recipe, planned: PlannedStage, preprocess: Preprocess, sources: Sources) -> list[str]:
    """How many of a stage's first examples, and of some held-out ones, can be used, a sentence each; what cannot is
    entered in their sources' ledgers.

    Raises:
        ValueError: there are fewer records than a batch takes.
        TooManySkipped: one bad example follows the other.
    """
    found = [
        _looked_at(recipe, planned, preprocess, sources.train, planned.loaded, LOOKED_AT, "the first {met} examples")
    ]
    for name, source in sources.held_out.items():
        size = planned.loaded if planned.naflex else min(len(source), HELD_OUT_LOOKED_AT)
        if 0 < size <= len(source) and source is not sources.train:
            found.append(
                _looked_at(recipe, planned, preprocess, source, size, HELD_OUT_LOOKED_AT, f"{{met}} of {name.lower()}")
            )
    return found


def _looked_at(
    recipe: Recipe, planned: PlannedStage, preprocess: Preprocess, source: Source, size: int, most: int, which: str
) -> str:
    loader = Loader(
        source,
        preprocess,
        batch_size=size,
        seed=recipe.run.seed,
        order=planned.stage.order,
        cache_megabytes=None,
    )
    rows = loader.examples.rows(0, 0, min(size, most))
    ledger_of(source).enter(rows.skipped, rows.left_out)
    reasons = Counter(skipped.reason for skipped in rows.skipped)
    met = len(rows.keys) + len(rows.skipped)
    bad = f"; {len(rows.skipped)} cannot be used: {listed(reasons)}" if reasons else ""
    return f"Of {which.format(met=met)} {len(rows.keys)} can be used{bad}."
