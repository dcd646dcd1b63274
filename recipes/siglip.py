"""SigLIP: an image tower and a text tower, contrasted by the pairwise sigmoid loss.

Paper:     Zhai et al. 2023, "Sigmoid Loss for Language Image Pre-Training" (arXiv 2303.15343)
Command:   KERAS_BACKEND=jax python -m recipes.siglip
Own data:  KERAS_BACKEND=jax python -m recipes.siglip --train-data photos/ --run-dir runs/photos
Fine-tune: python -m recipes.siglip --pretrained emoji_36_languages --train-data photos/ (docs/fine_tuning.md)

By default it learns emoji, drawn by eleven designers and named in 36 languages, and is judged on a twelfth designer's
drawings. What differs from the paper, because the data are small and the machine is a laptop: tiny towers, emoji that
are augmented (pictures of your own are only resized, as in the paper), a batch of hundreds and a bias that fits it,
English drawn more often than the other languages.
"""

import sys

from diptych.core.training.recipe import Data, Model, Optimization, Recipe, Run
from diptych.engine.command_line import train


def siglip() -> Recipe:
    """The default run."""
    return Recipe(
        data=Data(),
        model=Model(model="emoji"),
        optimization=Optimization(
            examples=420_000,
            batch_size=128,
        ),
        run=Run(),
    )


def main(arguments: list[str] | None = None) -> int:
    """Runs the recipe with the command line's changes; returns the exit status."""
    return train(siglip(), arguments, program="python -m recipes.siglip", description=__doc__)


if __name__ == "__main__":
    sys.exit(main())
