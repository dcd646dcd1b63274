"""The loss on held-out pairs, and what the warnings of a run ask of a stage."""

from collections.abc import Callable
from typing import Any, TypedDict

import keras
import numpy as np

from diptych.core.training.recipe import Recipe
from diptych.engine.training.planned_stage import PlannedStage


def held_out_loss(
    images: np.ndarray, texts: np.ndarray, owners: np.ndarray, pair_loss: Callable[..., Any], *, batch_size: int
) -> float:
    """The mean loss of held-out pairs, in batches of the size that is trained with.

    Pictures come in an order drawn at random, the same each time, as in training: neighbours in a data set are often
    alike, and harder to tell apart. Those beyond the last whole batch are left, unless all of them make less than one.

    Args:
        images: unit vectors float32 [images, dim].
        texts: unit vectors float32 [texts, dim].
        owners: int64 [texts], the place of each text's picture; of several texts of a picture the first one counts.
        pair_loss: the loss of two arrays of as many rows, which are pairs.
        batch_size: pairs of a batch.
    """
    shown, first = np.unique(owners, return_index=True)
    order = np.random.default_rng(0).permutation(len(shown))
    x, y = images[shown[order]], texts[first[order]]
    size = min(batch_size, len(shown))
    losses = [pair_loss(x[at : at + size], y[at : at + size]) for at in range(0, len(shown) - size + 1, size)]
    return float(np.mean([keras.ops.convert_to_numpy(loss) for loss in losses]))


class StageFacts(TypedDict):
    """What `core.report.verdict.training_warnings` has to know of a stage, as its arguments."""

    fresh: bool
    settled_after: int
    max_logit_scale: float | None


def what_warnings_ask(recipe: Recipe, planned: PlannedStage) -> StageFacts:
    """The facts of a stage that warnings depend on."""
    first = planned.stage.after is None
    return {
        "fresh": first and not recipe.model.from_checkpoint,
        "settled_after": (recipe.data.opening_examples or 0) if first else 0,
        "max_logit_scale": getattr(planned.config, "max_logit_scale", None),
    }
