"""GPT-1 fine-tuned for a task on texts: discriminative fine-tuning with the language model's loss beside the task's.

Paper:     Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training", sections 3.2, 3.3, 4.1
Command:   KERAS_BACKEND=jax python -m recipes.gpt1_finetune --pretrained runs/gpt1
Own data:  KERAS_BACKEND=jax python -m recipes.gpt1_finetune --pretrained openai-gpt/ --task rte --train-data glue/RTE

Settings are the paper's: a rate of 6.25e-5 that falls in a straight line after a warm-up of 0.2%, GPT-1's own Adam
with a decay of 0.01 times the rate, gradients clipped to norm 1, batches of 32, three epochs, dropout of 0.1 also on
what the head reads, and half of the language model's loss. It is evaluated after each epoch.

--pretrained is a run of recipes.gpt1, transformers' openai-gpt folder or OpenAI's files; without it --model names a
size whose weights begin fresh, with the vocabulary of the embedded novels. Tasks are those of the paper's data sets as
GLUE, SNLI, SciTail, RACE and ROCStories distribute them; docs/gpt1.md tells of their layouts and files. Six come along,
made of the embedded novels and emoji: small ones, which say what pre-training gains and not how well English is known.

What differs from the paper: the embedding's dropout is on the sum (docs/gpt1.md); the softmax of the language model is
over tokens; of a context with a question, as RACE has it, the context alone is cut.
"""

import sys
from pathlib import Path

from diptych.core.training.recipe import Data, Model, Optimization, Recipe, Run
from diptych.core.training.stages import Stage
from diptych.core.training.term_options import Language
from diptych.engine.command_line import train


def gpt1_finetune() -> Recipe:
    """The paper's fine-tuning."""
    return Recipe(
        data=Data(train_data=""),
        model=Model(model="gpt1_tiny"),
        optimization=Optimization(
            examples=96,
            batch_size=32,
            optimizer="openai_adam",
            beta_2=0.999,
            schedule="openai_linear",
        ),
        language=Language(epochs=3),
        run=Run(run_dir=Path("runs/gpt1_finetune")),
        stages=(Stage(name="training", losses={"answering": 1.0, "language": 0.5}),),
    )


def main(arguments: list[str] | None = None) -> int:
    """Runs the recipe with the command line's changes; returns the exit status."""
    return train(gpt1_finetune(), arguments, program="python -m recipes.gpt1_finetune", description=__doc__)


if __name__ == "__main__":
    sys.exit(main())
