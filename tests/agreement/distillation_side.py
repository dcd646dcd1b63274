"""A worker's values and gradients of self-distillation and masked prediction, one part at a time.

A part is given named arrays, which become variables, and data. Its outputs are weighted by cotangents and added up, and
the sum is differentiated by every variable, in the way that the backend trains: jit, tf.function, eager torch.
"""

import json
from functools import lru_cache

import keras
import numpy as np
from keras import ops

from diptych.core.losses import distillation, masked_prediction
from diptych.models import VisionTransformer
from diptych.models.parts.distillation_head import DistillationHead
from tests.agreement.native import native_gradients


def evaluate(*, part: str, point: dict, data: dict, cotangents: dict, settings: dict) -> dict:
    """-> {"outputs": by name, "gradients": by name of the point, "sparse": names of gradients that are not dense
    tensors}.
    """
    shapes = json.dumps([{name: np.shape(x) for name, x in group.items()} for group in (point, data)])
    variables, run = _built(part, shapes, json.dumps(settings))
    for name, value in point.items():
        variables[name].assign(np.array(value))
    batch = dict(data) | {f"cotangent of {name}": x for name, x in cotangents.items()}
    outputs, _, gradients, sparse = run(batch, np.ones(1, np.float32))
    return {
        "outputs": dict(zip(sorted(cotangents), outputs, strict=True)),
        "gradients": dict(zip(variables, gradients, strict=True)),
        "sparse": [name for name, is_sparse in zip(variables, sparse, strict=True) if is_sparse],
    }


def follow_centre(*, features: list, prototypes: np.ndarray, centre: np.ndarray, momentum: float) -> np.ndarray:
    """The centre after each batch of teacher features, `[steps, K]`."""
    centres = []
    for batch in features:
        centre = distillation.updated_centre(centre, distillation.mean_logits(batch, prototypes), momentum=momentum)
        centres.append(np.array(ops.convert_to_numpy(centre)))
    return np.stack(centres)


class _Part:
    """Stands for a model: variables by name, and a function of data that gives named outputs."""

    def __init__(self, variables, function):
        self.variables, self.function = variables, function

    @property
    def trainable_variables(self):
        return list(self.variables.values())


class _WeightedSum:
    """The objective: outputs in the order of their names (jit sorts dictionaries), and Σ cotangent · output."""

    def embed(self, part, batch):
        cotangents = {name.partition(" of ")[2]: x for name, x in batch.items() if name.startswith("cotangent of ")}
        data = {name: x for name, x in batch.items() if not name.startswith("cotangent of ")}
        outputs = part.function(data)
        assert set(outputs) == set(cotangents)
        self.cotangents = cotangents
        return tuple(outputs[name] for name in sorted(cotangents))

    def loss_of(self, part, outputs):
        weighted = zip(sorted(self.cotangents), outputs, strict=True)
        return sum(ops.sum(self.cotangents[name] * x) for name, x in weighted), {}


@lru_cache(maxsize=32)
def _built(part, shapes, settings):
    point_shapes, _ = json.loads(shapes)
    if part in ("head", "encode"):
        variables, function = {"head": _head, "encode": _encode}[part](point_shapes, json.loads(settings))
    else:
        variables = {name: keras.Variable(np.zeros(shape, "float32")) for name, shape in point_shapes.items()}
        loss, temperatures = LOSSES[part], json.loads(settings)

        def function(_):
            return {"loss": loss(*variables.values(), **temperatures)}

    objective = _WeightedSum()
    return variables, native_gradients(_Part(variables, function), lambda _: objective)


LOSSES = {
    "patches": masked_prediction.masked_prediction_loss,
    "views": distillation.view_distillation,
    "chunked views": distillation.chunked_distillation,
    "chunked patches": masked_prediction.chunked_masked_prediction,
}
"""Of variables in the order of their arguments, so that each loss sees what a careless caller gives it."""


def _head(shapes, settings):
    head = DistillationHead(**settings)
    head.build((None, shapes["x"][-1]))
    variables = {weight.name: weight for weight in head.weights}
    x = keras.Variable(np.zeros(shapes["x"], "float32"))

    def function(_):
        value = ops.convert_to_tensor(x)
        return {"logits": head(value), "features": head.features(value), "prototypes": head.prototypes()}

    return variables | {"x": x}, function


def _encode(shapes, settings):
    model = VisionTransformer(settings["config"], rematerialize=settings["rematerialize"])
    variables = {weight.path.removeprefix("image/"): weight for weight in model.weights}
    token = keras.Variable(np.zeros(shapes["mask_token"], "float32"))

    def function(data):
        return model.encode(data["images"], mask_token=token, masked=data["masked"])

    return variables | {"mask_token": token}, function
