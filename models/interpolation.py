"""Straight lines between the weights of two models of one shape (WiSE-FT: Wortsman et al. 2022, section 3)."""

from collections.abc import Mapping

import keras
import numpy as np

from diptych.models.siglip.adapting import fit_weight
from diptych.models.two_towers import PretrainedPair


class WeightLine:
    """The weights (1 - α) · before + α · after, for a model that takes any of them.

    Where the later model takes pictures or texts of another size, the earlier one's positions and patch kernel are
    resized, as they were when training began.

    Args:
        model: the later model, as it is at α = 1; `go_to` moves it.
        before: the earlier weights, by path.

    Raises:
        ValueError: for models that have not the same weights.
    """

    def __init__(self, model: PretrainedPair, before: Mapping[str, np.ndarray]):
        self.model = model
        self._after = weights_of(model)
        if others := sorted(self._after.keys() ^ before.keys()):
            raise ValueError(
                f"There is no line between models of two kinds: {len(others)} weights are in one of them alone, such "
                f"as {others[0]}. Give the checkpoint that training began from."
            )
        self._before = {path: _fitted(path, before[path], value.shape) for path, value in self._after.items()}

    def go_to(self, alpha: float) -> None:
        """Gives the model the weights of a point; 0 and 1 are the two models to the last bit."""
        for weight in self.model.weights:
            before, after = (side[weight.path].astype(np.float64) for side in (self._before, self._after))
            weight.assign(((1 - alpha) * before + alpha * after).astype(self._after[weight.path].dtype))


def weights_of(model: keras.Model) -> dict[str, np.ndarray]:
    """Copies of a model's weights, by path."""
    return {weight.path: np.array(keras.ops.convert_to_numpy(weight.value)) for weight in model.weights}


def _fitted(path: str, value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    fitted = value if value.shape == shape else fit_weight(path, value, shape)
    if fitted is None or fitted.shape != shape:
        raise ValueError(
            f"{path} has the shape {list(value.shape)} before and {list(shape)} after, and only positions and patch "
            "kernels can be resized: there is no line between vocabularies or widths that differ."
        )
    return fitted
