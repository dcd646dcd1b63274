"""A run through every kind of stage in a few dozen steps, in a process of its own.

`python -m tests.recipes.small_stages FOLDER [options]`
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from diptych.backends import shares
from diptych.core.training.signals import StopSignals
from diptych.core.training.stages import Curation, Stage

BATCH = 8
CAPTIONING = {"contrastive": 1.0, "captioning": 1.0}
COMPLETE = {**CAPTIONING, "distillation": 0.5, "masked_prediction": 0.125}
LENGTHS = (9, 16, 25)

STAGES = (
    Stage(name="captioning", schedule=(0.0, 0.5), losses=CAPTIONING),
    Stage(name="self_distillation", after="captioning", schedule=(0.5, 0.8), losses=COMPLETE),
    # 34 px in patches of 6 are 5 x 5, as So400m/14's 384 px are 27 x 27: a border belongs to no patch.
    Stage(name="larger", after="self_distillation", schedule=(0.8, 1.0), losses=COMPLETE, patch_size=6, image_size=34),
    Stage(
        name="naflex",
        after="self_distillation",
        schedule=(0.8, 1.0),
        stretch=2.0,
        losses=CAPTIONING,
        sequence_lengths=LENGTHS,
        halve_from=25,
        order=1,
    ),
    Stage(
        name="curated",
        after="self_distillation",
        schedule=None,
        stretch=0.2,
        curation=Curation(reference="larger", filter_ratio=0.5, chunks=2),
        learning_rate=1e-4,
        order=2,
    ),
)
UNCUT = (Stage(name="whole", losses=CAPTIONING),)
CUT = (
    Stage(name="first", schedule=(0.0, 0.35), losses=CAPTIONING),
    Stage(name="second", after="first", schedule=(0.35, 0.7), losses=CAPTIONING),
    Stage(name="last", after="second", schedule=(0.7, 1.0), losses=CAPTIONING),
)
TREES = {"all": STAGES, "uncut": UNCUT, "cut": CUT}


def recipe(folder: Path, stages=STAGES, *, steps: int = 20, seed: int = 0):
    """The tiny recipe at a fraction of its size."""
    from diptych.recipes.siglip2 import tiny

    whole = tiny()
    return replace(
        whole,
        stages=stages,
        data=replace(whole.data, context_length=8),
        model=replace(whole.model, image_size=32),
        optimization=replace(
            whole.optimization, examples=steps * BATCH, batch_size=BATCH, warmup_examples=2 * BATCH, ema_decay=0.9
        ),
        captioning=replace(whole.captioning, target_length=28),
        distillation=replace(
            whole.distillation,
            teacher_momentum=0.8,
            head_hidden=16,
            head_bottleneck=8,
            head_outputs=32,
            local_views=2,
        ),
        run=replace(whole.run, run_dir=folder, seed=seed, report=False, tensorboard=False, checkpoint_every=3),
    )


class StopAfter(StopSignals):
    """Asks to stop once it has been asked so often whether to."""

    def __init__(self, questions: int | None):
        super().__init__()
        self._left = questions

    @property
    def stop_requested(self) -> bool:
        if self._left is None:
            return False
        self._left -= 1
        if self._left < 0:
            self.received = "SIGINT"
        return self._left < 0


def small_towers() -> None:
    """Makes the preset of the tiny recipe one of a few thousand weights, and tensors of a few hundred large."""
    shares.SMALLEST = 64
    from diptych.models import presets

    config = presets.PRESETS["scenes"]
    size = {"width": 16, "depth": 1, "mlp_dim": 32, "num_heads": 2}
    presets.PRESETS["scenes"] = replace(
        config, vision=replace(config.vision, **size), text=replace(config.text, **size, embed_dim=16)
    )


def run(built, *, questions: int | None = None, scenes: int = 16) -> int:
    """Carries the recipe out, or stops on the way."""
    from diptych.engine.datasets import scenes as data_sets
    from diptych.engine.training import run as training

    data_sets.EVALUATION_SCENES = scenes
    training.StopSignals = lambda: StopAfter(questions)
    return training.run(built)


def main() -> int:
    """Runs one of TREES in a folder."""
    from diptych.backends.selection import select_backend

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tree", choices=TREES, default="all")
    parser.add_argument("--questions", type=int)
    parser.add_argument("--coordinator-address")
    parser.add_argument("--num-processes", type=int)
    parser.add_argument("--process-id", type=int)
    parser.add_argument("--data-parallel", type=int, default=1)
    parser.add_argument("--fsdp", type=int, default=1)
    options = parser.parse_args()
    select_backend()
    small_towers()
    whole = recipe(options.folder, TREES[options.tree])
    names = ("coordinator_address", "num_processes", "process_id", "data_parallel", "fsdp")
    together = {name: getattr(options, name) for name in names}
    return run(replace(whole, run=replace(whole.run, **together)), questions=options.questions)


if __name__ == "__main__":
    sys.exit(main())
