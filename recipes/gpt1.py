"""GPT-1, pre-trained: a decoder of text learns to predict each next token.

Paper:     Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training"
Command:   KERAS_BACKEND=jax python -m recipes.gpt1
Own texts: python -m recipes.gpt1 small --train-data books/ --way transformers --run-dir runs/books
Plan:      python -m recipes.gpt1 paper --dry-run

Presets, given as the first word:

- tiny (the default): 238,848 parameters on Jane Austen's novels, which come along, judged on one that is held out.
  Expected, seed 0 on jax: 1.760 bits a byte, in 43 s of one core; the best n-gram needs 1.835, xz 2.261.
- small: 3.7 M parameters with the novels' vocabulary, windows of 128 tokens, for text of a few megabytes.
- paper: GPT-1 as it was pre-trained (section 4.1): 116,534,784 parameters, 64 windows of 512 tokens a step, 100 epochs,
  OpenAI's Adam with a decay of 0.01 on kernels and tables, the rate up to 2.5e-4 in 2,000 steps and down to 0 by a
  cosine, gradients clipped to norm 1, dropout of 0.1. It needs --train-data and the vocabulary, by --tokenizer; texts
  are cut into words as OpenAI did, with ftfy and spaCy. The paper's BooksCorpus is not distributed any more; without
  data a plan counts 100 epochs of 1,600,000 windows, about as many as its 800 million words make. The paper reports a
  perplexity of 18.4 a token; nobody has trained this to its end with this code.

Texts are a folder of .txt files or .jsonl with a field text, also packed by gzip or xz, or Parquet; a document each, of
which --val-fraction is held out by key (docs/gpt1.md). Windows follow each other through all documents, and each epoch
takes them in an order of its own. What is judged are bits for each byte of the held-out text as the vocabulary spells
it, beside counting and compressing. --pretrained goes on from a GPT of any layout that is read.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from diptych.core.training.recipe import Data, Model, Optimization, Recipe, Run
from diptych.core.training.stages import Stage
from diptych.core.training.term_options import Language
from diptych.engine.command_line import train_preset

PLANNED_WINDOWS = 1_600_000
"""Of the paper's texts, for a plan without data."""


def tiny() -> Recipe:
    """Small enough for a minute on two cores."""
    return Recipe(
        data=Data(train_data="austen", context_length=64),
        model=Model(model="gpt1_tiny"),
        optimization=Optimization(
            examples=25_600,
            batch_size=8,
            learning_rate=3e-3,
            weight_decay=1e-4,
        ),
        language=Language(dropout=0.0),
        run=Run(run_dir=Path("runs/gpt1")),
        stages=(Stage(name="training", losses={"language": 1.0}),),
    )


def small() -> Recipe:
    """For some megabytes of text."""
    recipe = tiny()
    return replace(
        recipe,
        data=replace(recipe.data, context_length=128),
        model=Model(model="gpt1_small"),
        optimization=replace(recipe.optimization, examples=64_000, learning_rate=1e-3),
        language=Language(),
        run=replace(recipe.run, run_dir=Path("runs/gpt1_small")),
    )


def paper() -> Recipe:
    """GPT-1 as it was pre-trained."""
    recipe, batch, rate, epochs = tiny(), 64, 2.5e-4, 100
    return replace(
        recipe,
        data=replace(recipe.data, train_data="", context_length=512),
        model=Model(model="gpt1"),
        optimization=Optimization(
            examples=epochs * PLANNED_WINDOWS,
            batch_size=batch,
            optimizer="openai_adam",
            learning_rate=rate,
            weight_decay=0.01 * rate,
            beta_2=0.999,
            schedule="openai_cosine",
            warmup_examples=2_000 * batch,
        ),
        language=Language(epochs=epochs),
        run=replace(recipe.run, run_dir=Path("runs/gpt1_paper")),
    )


PRESETS: Mapping[str, Callable[[], Recipe]] = {"tiny": tiny, "small": small, "paper": paper}


def main(arguments: list[str] | None = None) -> int:
    """Runs a preset with the command line's changes; returns the exit status."""
    return train_preset(PRESETS, arguments, program="python -m recipes.gpt1", description=__doc__)


if __name__ == "__main__":
    sys.exit(main())
