"""The ablation of SigLIP 2's recipe, part by part: tiny towers, the embedded scenes, several seeds.

Command:   KERAS_BACKEND=jax python -m recipes.siglip2_ablation
Shorter:   python -m recipes.siglip2_ablation --examples 2000 --seeds 1 --output runs/ablation-short

Every run is a recipe in stages with a folder of its own, so the command goes on where it was stopped. It ends with a
table and a figure (docs/siglip2_ablation.md), means over seeds with 95% intervals. Runs of one comparison take the same
number of steps of the same batch, from the same seeds and the same data in the same order, unless the table says
otherwise:

- the sigmoid loss alone; with the decoder; with the decoder, and self-distillation and masked prediction in the last
  fifth, as the paper has them, or from the beginning. Of each: retrieval; boxes written by a fresh decoder on the
  frozen tower, and by the trained one; linear probes on frozen patches.
- pictures of extreme aspect, from one trunk: the second half squashed to squares, or as NaFlex, which sees a fourth of
  its batches at the square's number of patches and the others at less or more.
- pictures of which half have another's caption: the last part of training on batches chosen by learnability, or on
  batches as they come, the same number of them. The teacher is the first run's, which saw right captions alone.
- sigmoid or softmax at batches of 16.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from diptych.core.data.sources.open import NOISY_SCENES, WIDE_SCENES
from diptych.core.training.recipe import Recipe
from diptych.core.training.results import read_results
from diptych.core.training.stages import Curation, Stage
from diptych.engine.command_line import parse
from diptych.engine.failures import exit_status
from diptych.recipes.siglip2 import tiny

CAPTIONING = {"contrastive": 1.0, "captioning": 1.0}
SELF_SUPERVISED = {**CAPTIONING, "distillation": 0.5, "masked_prediction": 0.125}
DECODER = Stage(
    name="decoder",
    after="trunk",
    schedule=None,
    stretch=0.5,
    losses=CAPTIONING,
    learning_rate=1e-3,
    weight_decay=1e-4,
    lock=("image/.*", "text/.*", "pair_logits/.*"),
    fresh=("captioner/",),
    order=3,
)
"""A fresh decoder on frozen towers, as the paper measures localization (section 3.4, after LocCa)."""


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """How long and how often."""

    examples: int = 60_000
    """Of each run, before forks."""
    batch_size: int = 32
    """Of each run but those at 16."""
    seeds: int = 3
    """So many runs of each kind, from 0 on."""
    run_dir: Path = Path("runs/siglip2-ablation")
    """Every run has a folder in it."""
    output: Path = Path("docs/siglip2_ablation.md")
    """The table; the figure is written into the folder "pictures" beside it."""

    def __post_init__(self):
        if self.seeds < 1 or self.seeds > 10:
            raise ValueError(f"--seeds lies between 1 and 10, got {self.seeds}.")
        if self.examples < 10 * self.batch_size:
            raise ValueError(
                f"--examples must be at least ten batches, got {self.examples} for batches of {self.batch_size}."
            )


def variants(options: Ablation, seed: int = 0) -> dict[str, Recipe]:
    """The runs of one seed, by name, in the order in which they are carried out."""
    recipe = tiny()
    recipe = replace(
        recipe,
        optimization=replace(recipe.optimization, examples=options.examples, batch_size=options.batch_size),
        run=replace(recipe.run, seed=seed, tensorboard=False, log_every=20),
    )
    folder = options.run_dir / f"seed-{seed}"

    retrieval_alone = replace(recipe.run, report=False)

    def run(*stages: Stage, **changes) -> Recipe:
        return replace(recipe, stages=stages, **changes)

    def small_batches(loss: Literal["sigmoid", "softmax"]) -> Recipe:
        model = recipe.model if loss == "sigmoid" else replace(recipe.model, init_logit_bias=None)
        optimization = replace(
            recipe.optimization, loss=loss, batch_size=16, examples=options.examples // 3, learning_rate=5e-4
        )
        return run(Stage(name="trunk"), model=model, optimization=optimization, run=retrieval_alone)

    uniform = Stage(name="uniform", after="early", schedule=None, stretch=0.4, learning_rate=5e-4, order=2)
    curation = Curation(reference=str(folder / "sigmoid" / "trunk" / "model"), filter_ratio=0.5)
    runs = {
        "sigmoid": run(Stage(name="trunk"), DECODER),
        "captioning": run(Stage(name="trunk", losses=CAPTIONING), DECODER),
        "self_supervised": run(
            Stage(name="captioning", schedule=(0.0, 0.8), losses=CAPTIONING),
            Stage(name="trunk", after="captioning", schedule=(0.8, 1.0), losses=SELF_SUPERVISED),
            DECODER,
        ),
        "self_supervised_throughout": run(Stage(name="trunk", losses=SELF_SUPERVISED), DECODER),
        "aspects": run(
            Stage(name="early", schedule=(0.0, 0.5)),
            Stage(name="square", after="early", schedule=(0.5, 1.0)),
            Stage(
                name="naflex",
                after="early",
                schedule=(0.5, 1.0),
                sequence_lengths=(16, 25, 36, 64),
                halve_from=65,
            ),
            data=replace(recipe.data, train_data=WIDE_SCENES),
            run=retrieval_alone,
        ),
        "curation": run(
            Stage(name="early", schedule=(0.0, 0.5)),
            uniform,
            replace(uniform, name="curated", curation=curation),
            data=replace(recipe.data, train_data=NOISY_SCENES),
            run=retrieval_alone,
        ),
        "sigmoid_16": small_batches("sigmoid"),
        "softmax_16": small_batches("softmax"),
    }
    return {name: replace(whole, run=replace(whole.run, run_dir=folder / name)) for name, whole in runs.items()}


def ablation(options: Ablation) -> int:
    """Carries out what is not done yet, then writes table and figure; returns the exit status."""
    from diptych.core.report.ablation_page import write_page
    from diptych.engine.training.run import run

    for seed in range(options.seeds):
        for name, recipe in variants(options, seed).items():
            print(f"\n{name}, seed {seed}", flush=True)
            if status := run(recipe):
                return status
        write_page(options.output, results_by_seed(options), options)
    print(f"Table: {options.output}")
    return 0


def results_by_seed(options: Ablation) -> dict[int, dict[str, dict[str, dict]]]:
    """{seed: {run: {stage: what it scored}}} of the seeds that have been carried out whole."""
    found: dict[int, dict[str, dict[str, dict]]] = {}
    for seed in range(options.seeds):
        files = [recipe.run.run_dir / "results.json" for recipe in variants(options, seed).values()]
        if all(file.exists() for file in files):
            found[seed] = {file.parent.name: read_results(file) for file in files}
    return found


def main(arguments: list[str] | None = None) -> int:
    """Runs the ablation with the command line's options; returns the exit status."""
    options = parse(Ablation(), arguments, program="python -m recipes.siglip2_ablation", description=__doc__)
    return exit_status(lambda: ablation(options), options)


if __name__ == "__main__":
    sys.exit(main())
