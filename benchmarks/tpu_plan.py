"""The memory of SigLIP 2's training steps as planned, beside what the compiler for TPUs says of them, without a TPU.

    PYTHONPATH=.nox/everything/libtpu JAX_PLATFORMS=cpu KERAS_BACKEND=jax python -m benchmarks.tpu_plan

Each preset's heaviest stage, at the paper's batch, is given the first setting with which the plan says that it fits a
chip of the slice, and compiled with that. What takes longer than `--minutes` is written down as not run; what stands in
the results is not compiled again. A B/16 takes a quarter of an hour of one core.
"""

import json
import math
import multiprocessing
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import tyro

from benchmarks.device import RESULTS, write_results
from diptych.core.training.recipe import Recipe
from diptych.recipes.siglip2 import SIZES, siglip2

HOST = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
}
"""What a TPU's host would say of itself."""

BYTES = {"pred": 1, "u8": 1, "s8": 1, "bf16": 2, "f16": 2, "f32": 4, "s32": 4, "u32": 4}
NAME = "tpu_plan"


@dataclass(frozen=True, kw_only=True)
class TpuPlan:
    """What is compiled."""

    sizes: tuple[str, ...] = tuple(SIZES)
    """Presets of recipes.siglip2."""
    slices: tuple[str, ...] = ("v5e:2x4", "v5e:16x16")
    """Of TPUs, as the compiler names them."""
    fsdp: int = 8
    """Over how many chips the state is spread."""
    batch_size: int | None = None
    """By default the paper's."""
    depth: int | None = None
    """Blocks of each tower and of the decoder, for a look at a part; by default the preset's."""
    stage: str | None = None
    """The stage that is compiled; by default the one that takes the most memory."""
    minutes: float = 60
    """After which a case is given up."""
    out: Path = RESULTS
    """Folder of the results."""


def chips(topology: str) -> list:
    """The chips of a slice, such as "v5e:4x4", as the compiler knows them."""
    from jax.experimental import topologies

    for name, value in HOST.items():
        os.environ.setdefault(name, value)
    return list(topologies.get_topology_desc(platform="tpu", topology_name=topology).devices)


def program_of(recipe: Recipe, planned, devices: Sequence) -> Any:
    """The compiled training step of a stage over devices; its weights have no values."""
    import jax

    from diptych.backends.jax import TrainStep
    from diptych.core.placement import Placement
    from diptych.engine.training.batch_shapes import batch_shapes
    from diptych.engine.training.build import build_objective, build_student, build_teacher, stage_optimizer
    from diptych.engine.training.terms import TERMS
    from diptych.models.abstract import shapes_only

    with shapes_only():
        student = build_student(recipe, planned)
        teacher = build_teacher(recipe, planned, student, TERMS)
    placement = Placement(devices=len(devices), fsdp=recipe.run.fsdp)
    objective = build_objective(recipe, planned, teacher, TERMS, placement)
    optimizer = stage_optimizer(recipe, planned, student)
    jax.eval_shape(lambda: (optimizer.build(student.trainable_variables), 0)[1])  # slots without values
    step = TrainStep(
        student,
        objective,
        optimizer,
        clip_norm=recipe.optimization.grad_clip_norm,
        teacher=teacher,
        micro_batches=recipe.optimization.accum_freq,
        devices=devices,
        fsdp=recipe.run.fsdp,
    )
    shapes = batch_shapes(recipe, planned, TERMS).items()
    return step.compiled_for({name: jax.ShapeDtypeStruct(shape, dtype) for name, (shape, dtype) in shapes})


def argument_bytes(program) -> int:
    """Of a compiled program on one device, without what its layout pads them with."""
    (entry,) = re.findall(r"entry_computation_layout=\{\((.*?)\)->", program.as_text(), re.DOTALL)
    found = re.findall(r"(\w+)\[([\d,]*)\]", re.sub(r"\{[^}]*\}", "", entry))
    return sum(BYTES[dtype] * math.prod(map(int, filter(None, shape.split(",")))) for dtype, shape in found)


def compared(recipe: Recipe, planned, devices: Sequence) -> dict[str, Any]:
    """Arguments and scratch of a stage's step as planned and as compiled, in bytes on a device."""
    from diptych.engine.training.memory import stage_memory
    from diptych.engine.training.terms import TERMS

    memory = stage_memory(recipe, planned, TERMS)
    started = time.monotonic()
    program = program_of(recipe, planned, devices)
    compiled = program.memory_analysis()
    return {
        "pictures": planned.batch_size // recipe.optimization.accum_freq // len(devices),
        "grad_checkpointing": recipe.model.grad_checkpointing,
        "accum_freq": recipe.optimization.accum_freq,
        "arguments": argument_bytes(program),
        "arguments_planned": round(memory["total"] - memory["scratch"]),
        "arguments_laid_out": compiled.argument_size_in_bytes,
        "scratch": compiled.temp_size_in_bytes,
        "scratch_planned": round(memory["scratch"]),
        "planned": {part: round(size) for part, size in memory.items() if size},
        "seconds": round(time.monotonic() - started),
    }


def case(size: str, slice_name: str, options: TpuPlan) -> dict[str, Any]:
    """One row of the table."""
    from diptych.engine.training.memory import first_fitting, stage_memory
    from diptych.engine.training.plan import plan_stages
    from diptych.engine.training.plan_text import DEVICES
    from diptych.engine.training.run_plan import plan_run
    from diptych.engine.training.terms import TERMS

    devices = chips(slice_name)
    recipe = siglip2(size)
    run = replace(recipe.run, devices=len(devices), fsdp=options.fsdp, dry_run=True)
    captioning = replace(recipe.captioning, decoder_depth=options.depth)
    optimization = replace(recipe.optimization, batch_size=options.batch_size or recipe.optimization.batch_size)
    recipe = replace(recipe, run=run, captioning=captioning, optimization=optimization)
    plan = plan_run(recipe, TERMS)
    recipe, config = plan.recipe, plan.config
    if options.depth:
        towers = {name: replace(getattr(config, name), depth=options.depth) for name in ("vision", "text")}
        config = replace(config, **towers)
    planned = plan_stages(recipe, config, TERMS)
    own = [name for name, stage in planned.items() if not stage.stage.curation]
    name = options.stage or max(own, key=lambda name: stage_memory(recipe, planned[name], TERMS)["total"])
    stage = planned[name]
    setting = first_fitting(recipe, {name: stage}, TERMS, DEVICES[0].gigabytes * 1e9)
    if setting is None:
        return {"stage": name, "result": "does not fit, says the plan"}
    return {"stage": name, "result": "compiled", **compared(setting.of(recipe), stage, devices)}


def main(options: TpuPlan) -> None:
    """Compiles each case in a process of its own, writes results/tpu-compiler/tpu_plan.json, and prints the table."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    path = options.out / "tpu-compiler" / f"{NAME}.json"
    rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"] if path.exists() else []
    cases = [_asked(size, slice_name, options) for size in options.sizes for slice_name in options.slices]
    if find_spec("libtpu") is None:
        print("Nothing is compiled: libtpu is not on the path; nox -s everything puts it into .nox/everything/libtpu.")
        cases = []
    for asked in cases:
        if any(row["asked"] == asked and row["result"] == "compiled" for row in rows):
            continue
        rows = [row for row in rows if row["asked"] != asked]
        found = _within(options.minutes, asked["size"], asked["slice"], options)
        rows.append({"asked": asked, **(found or {"result": "not run"})})
        write_results(NAME, {"rows": rows}, options.out, accelerator="TPU compiler")
    print(table(rows))


def _asked(size: str, slice_name: str, options: TpuPlan) -> dict[str, Any]:
    """What tells a case from others."""
    given = {name: getattr(options, name) for name in ("fsdp", "batch_size", "depth", "stage")}
    return {"size": size, "slice": slice_name, **{name: value for name, value in given.items() if value}}


def _within(minutes: float, *arguments) -> dict[str, Any] | None:
    """A case that ends in time, and None otherwise."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        try:
            return pool.apply_async(case, arguments).get(60 * minutes)
        except multiprocessing.TimeoutError:
            return None


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as Markdown, in GiB on a chip."""
    head = (
        "preset",
        "stage",
        "chips",
        "pictures on one",
        "setting",
        "arguments",
        "scratch, planned",
        "compiled",
        "off by",
    )
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in rows:
        asked = row["asked"]
        blocks = f", depth {asked['depth']}" if "depth" in asked else ""
        cells = [f"{asked['size']}{blocks}", row.get("stage", ""), asked["slice"]]
        if row["result"] != "compiled":
            lines.append(f"| {' | '.join(cells)} | | {row['result']} | | | | |")
            continue
        flags = ["--grad-checkpointing"] * row["grad_checkpointing"] + [f"--fsdp {asked['fsdp']}"]
        flags += [f"--accum-freq {row['accum_freq']}"] * (row["accum_freq"] > 1)
        exact = (
            "" if row["arguments"] == row["arguments_planned"] else f", planned {row['arguments_planned'] / 2**30:.3f}"
        )
        off = row["scratch_planned"] / row["scratch"] - 1
        cells += [str(row["pictures"]), " ".join(flags), f"{row['arguments'] / 2**30:.3f}{exact}"]
        cells += [f"{row[name] / 2**30:.2f}" for name in ("scratch_planned", "scratch")]
        lines.append(f"| {' | '.join([*cells, f'{off:+.0%}'])} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main(tyro.cli(TpuPlan, description=__doc__))
