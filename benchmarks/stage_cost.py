"""Time and memory of a step with each part of SigLIP 2's objective, beside the counted operations.

    KERAS_BACKEND=jax python -m benchmarks.stage_cost
    KERAS_BACKEND=jax python -m benchmarks.stage_cost --preset siglip_ti16_224 --batch-size 16

Stages take turns in one run, on the same pictures and texts: sigmoid alone; with the decoder; with the decoder,
self-distillation and masked prediction. "beyond the count" is the ratio of CPU time over the ratio of counted
operations (`engine.training.costs.training_flops`): above 1, time that the operations do not explain. Memory is what
the compiled step asks for beside its arguments (jax alone tells it).
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.contest import take_turns
from benchmarks.device import RESULTS, device_name, write_results
from diptych.backends.selection import select_backend

STAGES = ("sigmoid", "captioning", "self_supervised")


def main(arguments: list[str] | None = None) -> None:
    """Measure, print a table and write results/<device>/stage_cost-<backend>-<preset>-<batch>.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="siglip_ti16_224", help="towers; the tiny recipe's are called scenes")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--head-outputs", type=int, default=8192)
    parser.add_argument("--repeats", type=int, default=5, help="timed steps of each")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args(arguments)
    if min(options.batch_size - 1, options.repeats, options.head_outputs) < 1:
        parser.error("--batch-size must be at least 2, --repeats and --head-outputs at least 1")
    backend = select_backend()
    from diptych import backends

    accelerator = backends.device_name()
    print(f"{backend} on {device_name(accelerator)}, {options.preset}, batch {options.batch_size}, float32")
    steps, flops, memory = {}, {}, {}
    for name in STAGES:
        steps[name], flops[name], memory[name] = _step(name, options)
    times = take_turns(steps, dict.fromkeys(steps, STAGES[0]), repeats=options.repeats)
    print(f"{'':<18}{'ms':>9}{'time':>8}{'CPU':>8}{'GFLOP':>9}{'counted':>9}{'beyond the count':>18}{'MiB':>9}")
    rows = {}
    for name, row in times.items():
        counted = flops[name] / flops[STAGES[0]]
        taken, spent = (row[unit] / times[STAGES[0]][unit] for unit in ("ms", "cpu_ms"))
        rows[name] = {
            **row,
            "gflop": flops[name] / 1e9,
            "time_ratio": taken,
            "cpu_time_ratio": spent,
            "flops_ratio": counted,
            "mib": memory[name],
        }
        shown = f"{memory[name]:>9.0f}" if memory[name] else f"{'':>9}"
        print(
            f"{name:<18}{row['ms']:>9.0f}{taken:>7.2f}x{spent:>7.2f}x{flops[name] / 1e9:>9.2f}{counted:>8.2f}x"
            f"{spent / counted:>17.2f}x{shown}"
        )
    results = {"backend": backend, "preset": options.preset, "batch_size": options.batch_size, "stages": rows}
    name = f"stage_cost-{backend}-{options.preset}-{options.batch_size}"
    print(write_results(name, results, options.out, accelerator=accelerator))


def _step(name: str, options):
    """A function that takes one step, its counted operations, and its memory in MiB or None."""
    from diptych import backends
    from diptych.core.training.stages import Stage
    from diptych.engine.training.build import build_objective, build_student, build_teacher, stage_optimizer
    from diptych.engine.training.costs import training_flops
    from diptych.engine.training.defaults import with_start
    from diptych.engine.training.plan import plan_stages
    from diptych.engine.training.start import start_of
    from diptych.engine.training.terms import TERMS
    from diptych.recipes.siglip2 import tiny

    losses = {
        "sigmoid": {"contrastive": 1.0},
        "captioning": {"contrastive": 1.0, "captioning": 1.0},
        "self_supervised": {"contrastive": 1.0, "captioning": 1.0, "distillation": 1.0, "masked_prediction": 0.25},
    }[name]
    recipe = tiny()
    recipe = replace(
        recipe,
        stages=(Stage(name=name, losses=losses),),
        model=replace(recipe.model, model=options.preset),
        optimization=replace(recipe.optimization, examples=100 * options.batch_size, batch_size=options.batch_size),
        captioning=replace(recipe.captioning, target_length=None, decoder_depth=None),
        distillation=replace(
            recipe.distillation, head_outputs=options.head_outputs, head_hidden=2048, head_bottleneck=256, local_views=8
        ),
    )
    start = start_of(recipe)
    recipe = with_start(recipe, start, TERMS)
    (planned,) = plan_stages(recipe, start.config, TERMS).values()
    student = build_student(recipe, planned)
    teacher = build_teacher(recipe, planned, student, TERMS)
    objective = build_objective(recipe, planned, teacher, TERMS)
    step = backends.train_step(
        student, objective, stage_optimizer(recipe, planned, student), clip_norm=1.0, teacher=teacher
    )
    batch = _batch(planned, recipe)

    def run():
        import keras

        return float(keras.ops.convert_to_numpy(step(batch)["loss"]))

    run()
    return run, training_flops(recipe, planned, TERMS)["total"] * options.batch_size, _mebibytes(step, batch)


def _mebibytes(step, batch) -> float | None:
    """What the compiled step needs beside its arguments and results."""
    from diptych import backends

    if backends.name() != "jax":
        return None
    from benchmarks.native.jax_step import temporary_bytes

    return temporary_bytes(step, batch) / 2**20


def _batch(planned, recipe) -> dict[str, np.ndarray]:
    """Arrays of the stage's shapes, without pictures in them."""
    from diptych.engine.training.terms.matching import local_size

    rng = np.random.default_rng(0)
    vision, size = planned.vision, planned.batch_size

    def pixels(*shape):
        return rng.integers(0, 256, (size, *shape, 3)).astype(np.uint8)

    batch = {
        "image": pixels(vision.image_size, vision.image_size),
        "text": rng.integers(0, planned.config.text.vocab_size, (size, planned.config.text.context_length)).astype(
            np.int32
        ),
    }
    if "captioner" in planned.parts:
        shape = (size, 3, planned.decoder.context_length)
        batch["target_tokens"] = rng.integers(0, planned.decoder.vocab_size, shape).astype(np.int32)
        batch["target_weights"] = np.ones(shape, np.uint8)
        batch["parallel"] = rng.random(size) < 0.5
    if "global_head" in planned.parts:
        side, count = local_size(recipe, planned), recipe.distillation.local_views
        patches = vision.num_patches
        masked = np.argsort(rng.random((size, patches)), axis=1)[:, : patches // 2]
        batch["global_view"] = pixels(vision.image_size, vision.image_size)
        batch["local_views"] = rng.integers(0, 256, (size, count, side, side, 3)).astype(np.uint8)
        batch["masked_patches"] = np.sort(masked, axis=1).astype(np.int32)
    return batch


if __name__ == "__main__":
    main()
