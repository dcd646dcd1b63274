"""One backend in a process of its own: reads requests from standard input, writes replies to standard output.

A message is eight bytes of length and a pickle. A request is (name, keyword arguments) of a function of `Backend`; a
reply is ("value", result) or ("error", traceback). Weights, gradients and outputs travel as NumPy arrays by variable
path.
"""

import importlib
import json
import os
import pickle
import struct
import sys
import traceback
from collections import OrderedDict
from dataclasses import replace
from functools import partial

import numpy as np

from diptych.core.training.signals import StopSignals
from tests.agreement.native import limit_threads, native_gradients

KEPT_MODELS = 8
LOSSES = ("sigmoid", "softmax")


def read_message(stream):
    """The next message, or None at the end of the stream."""
    header = stream.read(8)
    if len(header) < 8:
        return None
    (length,) = struct.unpack("<Q", header)
    payload = stream.read(length)
    return pickle.loads(payload) if len(payload) == length else None


def write_message(stream, message) -> None:
    payload = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    stream.write(struct.pack("<Q", len(payload)) + payload)
    stream.flush()


class Backend:
    """What a request can ask of the backend that this process runs."""

    def __init__(self):
        self._models: OrderedDict[str, tuple] = OrderedDict()
        self._learner = None

    def describe(self) -> dict:
        """Backend, versions and the kind of device that computes: "cpu" or "gpu"."""
        import keras

        from tests.agreement.native import device_kind, framework_version

        return {
            "backend": keras.backend.backend(),
            "device": device_kind(),
            "versions": {"keras": keras.__version__, keras.backend.backend(): framework_version()},
        }

    def initial_weights(self, *, config: dict, seed: int, dtype: str = "float32") -> dict[str, np.ndarray]:
        """The weights of a model fresh from its initialisers."""
        return _read(_build(config, dtype, seed).weights)

    def evaluate(
        self, *, config: dict, weights: dict, batch: dict, loss: str = "sigmoid", dtype: str = "float32"
    ) -> dict:
        """Embeddings, loss, all gradients, and the paths of gradients that are not dense tensors."""
        model, functions = self._model(config, dtype)
        _assign(model.weights, weights)
        if "gradients" not in functions:
            functions["gradients"] = native_gradients(model, _Mixed)
        shares = np.asarray([loss == name for name in LOSSES], np.float32)
        (image, text), value, gradients, sparse = functions["gradients"](batch, shares)
        paths = [variable.path for variable in model.trainable_variables]
        return {
            "image_embedding": image,
            "text_embedding": text,
            "loss": value,
            "gradients": dict(zip(paths, gradients, strict=True)),
            "sparse": [path for path, is_sparse in zip(paths, sparse, strict=True) if is_sparse],
        }

    def evaluate_checkpoint(self, *, folder: str, batch: dict) -> dict:
        """A checkpoint's outputs, loss and gradients by path, for a batch of what the model takes."""
        from diptych.models import from_preset

        model = from_preset(folder)
        functions = native_gradients(model, lambda _: _OwnLoss())
        outputs, loss, gradients, _ = functions(batch, np.ones(1, np.float32))
        names = ("image_embedding", "text_embedding", "image_tokens", "text_tokens")
        paths = [variable.path for variable in model.trainable_variables]
        return {
            **dict(zip(names, outputs, strict=True)),
            "loss": loss,
            "logit_scale": float(_array(model.logit_scale)),
            "logit_bias": None if model.logit_bias is None else float(_array(model.logit_bias)),
            "gradients": dict(zip(paths, gradients, strict=True)),
        }

    def train(
        self,
        *,
        config: dict,
        weights: dict,
        batches: list[dict],
        optimizer: dict,
        loss: str = "sigmoid",
        dtype: str = "float32",
        clip_norm: float | None = None,
        ema_decay: float | None = None,
        micro_batches: int = 1,
        keep: tuple[int, ...] = (),
    ) -> dict:
        """One step a batch: losses and gradient norms of all, weights after the steps in `keep`, and the moving
        average.
        """
        step, model, built, ema = self._step(config, dtype, optimizer, loss, clip_norm, ema_decay, micro_batches)
        _assign(model.weights, weights)
        for variable in built.named_slots().values():
            variable.assign(np.zeros(variable.shape))
        if ema:
            _assign_each(ema.named(), {path: weights[path] for path in ema.named()})
        kept, logs = {}, []
        for number, batch in enumerate(batches, 1):
            logs.append(_numbers(step(batch)))
            if number in keep:
                step.synchronize()
                kept[number] = _read(model.weights)
        step.synchronize()
        averages = {path: _array(variable) for path, variable in ema.named().items()} if ema else {}
        return {"logs": logs, "weights": kept, "averages": averages}

    def run_recipe(self, *, folder: str, steps: int, stop_after: int, batch_size: int) -> list[float]:
        """The default recipe's run in a folder, taken up where its checkpoint is, until `stop_after`: all losses so
        far.

        The run is planned for `steps`. Later folders are continued with what the first one built; only a run that is
        new to this process can start from nothing.
        """
        from diptych.core.training.metrics import read_metrics
        from diptych.core.training.run_folder import RunFolder

        with RunFolder(folder) as run_folder:
            fresh = self._learner is None
            if fresh:
                self._learner = _build_learner(run_folder, steps=steps, batch_size=batch_size)
            self._learner.folder = run_folder
            if not self._learner.restore() and not fresh:
                raise ValueError(f"{folder} has no checkpoint, and the weights are no longer the initial ones.")
            self._learner.train(_StopAfter(self._learner, stop_after))
            return [row["loss"] for row in read_metrics(run_folder.metrics) if "loss" in row]

    def optimize(
        self, *, optimizer: dict, weights: dict, gradients: list[dict], heads: dict, fused: bool = False
    ) -> dict:
        """The weights after an optimizer alone has taken in a sequence of gradients; names without a slash. `heads`:
        the layouts of attention kernels by name.
        """
        import keras

        variables = [keras.Variable(value, dtype="float32", name=name) for name, value in weights.items()]
        for variable in variables:
            if variable.name in heads:
                variable.heads_layout = heads[variable.name]
        built = _optimizer(**optimizer)
        built.build(variables)
        apply = lambda values: built.apply(values, variables)  # noqa: E731
        if fused:
            import torch

            from diptych.backends.torch.optimizers import FusedAdamW

            apply = partial(FusedAdamW(built, variables), finite=torch.tensor(True))
        for values in gradients:
            apply([keras.ops.convert_to_tensor(values[name]) for name in weights])
        return {name: _array(variable) for name, variable in zip(weights, variables, strict=True)}

    def schedule(self, *, schedule: dict, steps: list[int]) -> list[float]:
        """The learning rate at each step."""
        built = _schedule(**schedule)
        return [float(_array(built(step))) for step in steps]

    def call(self, *, module: str, function: str, arguments: dict):
        """A function of a module beside this one, for parts that are not a whole model."""
        return getattr(importlib.import_module(module), function)(**arguments)

    def shout(self) -> str:
        """Print where a careless library would, by Python and past it; for the test of the pipes."""
        print("printed by a library")
        os.write(1, b"written by C code\n")
        return "heard"

    def crash(self) -> None:
        """End at once, with a last word on standard error."""
        os.write(2, b"the last word of a dying worker\n")
        os._exit(17)

    def _step(self, config, dtype, optimizer, loss, clip_norm, ema_decay, micro_batches):
        from diptych.backends import train_step
        from diptych.core.training.ema import Ema

        model, functions = self._model(config, dtype)
        key = json.dumps([optimizer, loss, clip_norm, ema_decay, micro_batches], sort_keys=True)
        if key not in functions:
            built = _optimizer(**optimizer)
            ema = Ema(model.trainable_variables, decay=ema_decay) if ema_decay else None
            step = train_step(model, _objective(loss), built, clip_norm=clip_norm, ema=ema, micro_batches=micro_batches)
            functions[key] = (step, model, built, ema)
        return functions[key]

    def _model(self, config, dtype):
        key = json.dumps([config, dtype], sort_keys=True)
        if key not in self._models:
            self._models[key] = (_build(config, dtype, seed=0), {})
            while len(self._models) > KEPT_MODELS:
                self._models.popitem(last=False)
        self._models.move_to_end(key)
        return self._models[key]


def _build(config, dtype, seed):
    from diptych.models import SigLIP, SigLIPConfig

    return SigLIP(SigLIPConfig(**config), dtype=dtype, seed=seed)


class _StopAfter(StopSignals):
    """Asks the learner to stop after a step, as a signal would."""

    def __init__(self, learner, step: int):
        super().__init__()
        self._learner, self._step = learner, step

    @property
    def stop_requested(self) -> bool:
        return self._learner.steps_done >= self._step


def _build_learner(run_folder, *, steps, batch_size):
    """The default recipe, shortened, without evaluation."""
    from diptych.engine.training.build import build_learner
    from diptych.engine.training.run_plan import plan_run
    from diptych.engine.training.terms import TERMS
    from diptych.recipes.siglip import siglip

    recipe = siglip()
    optimization = replace(
        recipe.optimization, examples=steps * batch_size, batch_size=batch_size, warmup_examples=5 * batch_size
    )
    run = replace(recipe.run, run_dir=run_folder.path, tensorboard=False)
    data = replace(recipe.data, context_length=64, captions_per_image=1, opening_examples=0)
    plan = plan_run(replace(recipe, data=data, optimization=optimization, run=run), TERMS)
    # Captions of all languages alike, in which the steps do not magnify roundings as they do with more English.
    preprocess = replace(plan.examples["training"], language_weights=None)
    source = plan.data_set.sources(0).train
    return build_learner(plan.recipe, plan.planned["training"], preprocess, source, run_folder, TERMS)


class _OwnLoss:
    """The loss that a model brings along, as an objective that also hands out the un-pooled features."""

    def embed(self, model, batch: dict):
        names = [x.name for x in model.image_encoder.inputs]
        images = {name: batch[name] for name in names} if len(names) > 1 else batch[names[0]]
        image, text = model.image_encoder(images), model.text_encoder(batch["token_ids"])
        return *model.pair_logits(image["pooled"], text["pooled"]), image["tokens"], text["tokens"]

    def loss_of(self, model, outputs):
        return model.compute_loss(y_pred={"image_embedding": outputs[0], "text_embedding": outputs[1]}), {}


def _objective(loss):
    from diptych.core.losses.contrastive import sigmoid_loss
    from diptych.core.training.objectives import Objective
    from diptych.engine.training.terms.contrastive import Contrastive, softmax_loss

    return Objective({"contrastive": Contrastive({"sigmoid": sigmoid_loss, "softmax": softmax_loss}[loss])})


class _Mixed:
    """Σ share · loss of a batch's pairs, and their embeddings: with shares given as data, one compiled function serves
    every loss.
    """

    def __init__(self, shares):
        self._shares, self._objectives = shares, [_objective(name) for name in LOSSES]

    def embed(self, model, batch: dict):
        embedded = self._objectives[0].embed(model, batch)
        return embedded["contrastive/image"], embedded["contrastive/text"]

    def loss_of(self, model, outputs):
        embedded = dict(zip(("contrastive/image", "contrastive/text"), outputs, strict=True))
        values = [objective.total(objective.losses(model, embedded)).value for objective in self._objectives]
        return sum(self._shares[index] * value for index, value in enumerate(values)), {}


def _optimizer(*, name, learning_rate, **arguments):
    from diptych.core.training.optimizers import OPTIMIZERS

    rate = _schedule(**learning_rate) if isinstance(learning_rate, dict) else learning_rate
    return OPTIMIZERS[name](rate, **arguments)


def _schedule(*, name, **arguments):
    from diptych.core.training.schedules import SCHEDULES

    return SCHEDULES[name](**arguments)


def _assign(variables, values: dict) -> None:
    _assign_each({variable.path: variable for variable in variables}, values)


def _assign_each(by_path: dict, values: dict) -> None:
    if set(by_path) != set(values):
        raise ValueError(
            f"Weights and model differ. Only in the model: {sorted(set(by_path) - set(values))}; "
            f"only in the weights: {sorted(set(values) - set(by_path))}."
        )
    for path, variable in by_path.items():
        variable.assign(np.array(values[path]))


def _read(variables) -> dict[str, np.ndarray]:
    return {variable.path: _array(variable) for variable in variables}


def _array(value) -> np.ndarray:
    import keras

    return np.array(keras.ops.convert_to_numpy(value))


def _numbers(logs) -> dict[str, float]:
    return {name: float(_array(value)) for name, value in logs.items()}


def serve() -> None:
    """Answer requests until standard input ends."""
    requests = os.fdopen(os.dup(0), "rb")
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints to standard output, in Python or in C, joins standard error
    limit_threads()
    backend = Backend()
    while (request := read_message(requests)) is not None:
        name, arguments = request
        try:
            reply = ("value", getattr(backend, name)(**arguments))
        except Exception:
            reply = ("error", traceback.format_exc())
        write_message(replies, reply)
        sys.stderr.flush()


if __name__ == "__main__":
    serve()
