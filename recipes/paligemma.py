"""PaliGemma, fine-tuned: a SigLIP tower and a language model learn to answer prompts about your pictures.

Papers:    Beyer et al. 2024, "PaliGemma: A versatile 3B VLM for transfer"; Steiner et al. 2024, "PaliGemma 2"
Command:   KERAS_BACKEND=jax python -m recipes.paligemma
Own data:  python -m recipes.paligemma --pretrained hf://google/paligemma2-3b-pt-224 --train-data data.jsonl
Plan:      python -m recipes.paligemma attention --dry-run

Presets, given as the first word:

- tiny (the default): the tower of emoji_36_languages and a fresh language model of 0.7 M parameters learn to say what
  scenes show, how many things, and which is left; judged on a designer that is held out. A minute on two cores.
- tasks: the same model at 96 px is trained to name, count, find and read on scenes; judged on a held-out designer,
  and on compositions that are never trained. Some minutes on two cores.
- transfer (the default with --pretrained): what the paper recommends to try first: a rate of 1e-5, batches of 256, no
  dropout, smoothing, decay or freezing.
- forkme: big_vision's configuration of that name, for users' own data: Adam, batches of 32, 15 epochs, decay of 3e-7 of
  the image tower's and the projector's kernels.
- count: big_vision's tutorial, which counts where lines cross: as forkme by Adafactor, texts of 8 tokens, on its task
  "lines", which comes along. The tutorial's accuracy of the 3B with pictures as they are: 95.9%.
- lora: adapters of rank 8 on the language model and the tower, as transformers' example, at a rate of 2e-4.
- attention: the language model's attention alone, by SGD without momentum, as big_vision's notebook for a GPU of 16 GB.

Data are lines of JSON, {"image": "1.jpg", "prefix": "answer en what is it?", "suffix": "a cat"}, or "answers" in place
of "suffix", one of which is drawn each time; VQAv2, OK-VQA, TextVQA, DocVQA, ChartQA, RefCOCO or COCO's captions as
they are downloaded (docs/paligemma.md); or pictures with captions in any form of docs/data.md, which answer --prompt.
Where --val-data names none, a part of the pictures is held out. Differences from big_vision: pictures are not augmented
(the paper finds no gain), and the language model has no dropout. docs/paligemma.md tells it.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from diptych.core.data.sources.open import LINES
from diptych.core.training.recipe import Data, Model, Optimization, Recipe, Run
from diptych.core.training.stages import Stage
from diptych.core.training.term_options import Prompted
from diptych.engine.command_line import train_preset

PLANNED_EXAMPLES = 10_000
"""Of an epoch, for a plan without data; as many as the tutorial's."""
RATE = 1e-5


def tiny() -> Recipe:
    """Small enough for a minute on two cores."""
    return Recipe(
        data=Data(train_data="scenes"),
        model=Model(model="paligemma_emoji", pretrained_image="emoji_36_languages"),
        optimization=Optimization(
            examples=12_800,
            batch_size=64,
            learning_rate=1e-3,
            learning_rate_multipliers={"image/.*": 0.3},
            weight_decay=1e-4,
        ),
        prompted=Prompted(answer_tokens=12, most_asked=480),
        run=Run(run_dir=Path("runs/paligemma"), evaluations=4),
        stages=(Stage(name="training", losses={"suffix": 1.0}),),
    )


def tasks() -> Recipe:
    """Four tasks on scenes, for some minutes."""
    recipe = tiny()
    return replace(
        recipe,
        data=Data(train_data="scene_tasks"),
        model=replace(recipe.model, image_size=96),
        optimization=replace(recipe.optimization, examples=102_400),
        prompted=Prompted(answer_tokens=20, most_asked=320, metric=("exact_or_box",)),
        run=replace(recipe.run, run_dir=Path("runs/paligemma_tasks")),
    )


def transfer() -> Recipe:
    """The paper's first try (section 4.2)."""
    return _of_3b("transfer", epochs=10, batch_size=256, warmup=0.05)


def forkme() -> Recipe:
    """big_vision's configuration to copy; its decay goes by names that none of the language model's weights has."""
    recipe = _of_3b("forkme", epochs=15, batch_size=32, warmup=0.05)
    return replace(
        recipe,
        optimization=replace(
            recipe.optimization, beta_2=0.999, weight_decay=3e-7, weight_decay_multipliers={"decoder/.*": 0.0}
        ),
    )


def count() -> Recipe:
    """big_vision's tutorial of crossing lines."""
    recipe = forkme()
    return replace(
        recipe,
        data=replace(recipe.data, train_data=LINES, context_length=8),
        optimization=replace(recipe.optimization, optimizer="adafactor", momentum_dtype="bfloat16"),
        prompted=replace(recipe.prompted, answer_tokens=8),
        run=replace(recipe.run, run_dir=Path("runs/paligemma_count")),
    )


def lora() -> Recipe:
    """Adapters of all blocks, the projector as it is."""
    recipe = _of_3b("lora", epochs=3, batch_size=16, warmup=0.05)
    return replace(
        recipe,
        model=replace(recipe.model, lora_rank=8, lock=("projector/.*",)),
        optimization=replace(recipe.optimization, learning_rate=2e-4),
    )


def attention() -> Recipe:
    """big_vision's notebook for a GPU of 16 GB, an example at a time: in float32 no weight has a rounded copy."""
    recipe = _of_3b("attention", epochs=1, batch_size=8, warmup=0.1)
    return replace(
        recipe,
        model=replace(recipe.model, precision="float32"),
        optimization=replace(
            recipe.optimization,
            optimizer="sgd",
            momentum=0.0,
            learning_rate=0.03,
            accum_freq=recipe.optimization.batch_size,
        ),
        prompted=replace(recipe.prompted, train="attention"),
    )


def _of_3b(name: str, *, epochs: int, batch_size: int, warmup: float) -> Recipe:
    examples = epochs * PLANNED_EXAMPLES
    return Recipe(
        data=Data(train_data="", context_length=128),
        model=Model(model="paligemma_3b_pt_224", precision="bfloat16", grad_checkpointing=True),
        optimization=Optimization(
            examples=examples,
            batch_size=batch_size,
            learning_rate=RATE,
            weight_decay=0.0,
            warmup_examples=round(warmup * examples),
        ),
        prompted=Prompted(epochs=epochs, answer_tokens=64),
        run=Run(run_dir=Path("runs") / f"paligemma_{name}", evaluations=8),
        stages=(Stage(name="training", losses={"suffix": 1.0}),),
    )


PRESETS: Mapping[str, Callable[[], Recipe]] = {
    "tiny": tiny,
    "tasks": tasks,
    "transfer": transfer,
    "forkme": forkme,
    "count": count,
    "lora": lora,
    "attention": attention,
}


def main(arguments: list[str] | None = None) -> int:
    """Runs a preset with the command line's changes; returns the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    own = any(word.partition("=")[0] == "--pretrained" for word in words)
    if own and words[0].startswith("-"):
        words.insert(0, "transfer")
    return train_preset(PRESETS, words, program="python -m recipes.paligemma", description=__doc__)


if __name__ == "__main__":
    sys.exit(main())
