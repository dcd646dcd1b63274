"""The few lines that a worker writes in its own framework: gradients, threads, the device."""

import os

import numpy as np


def limit_threads() -> None:
    """One thread for each kind of work, so that sums are taken in one order; jax's are limited by its flags."""
    if os.environ["KERAS_BACKEND"] == "torch":
        import torch

        torch.set_num_threads(1)
        torch.set_num_interop_threads(1)
    elif os.environ["KERAS_BACKEND"] == "tensorflow":
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    if os.environ.get("DIPTYCH_DEVICE") == "gpu":
        _full_float32_products()


def _full_float32_products() -> None:
    """No TF32: a product of float32 matrices keeps 24 bits on a GPU, as on a CPU."""
    backend = os.environ["KERAS_BACKEND"]
    if backend == "jax":
        import jax

        jax.config.update("jax_default_matmul_precision", "highest")
    elif backend == "torch":
        import torch

        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
    else:
        import tensorflow as tf

        tf.config.experimental.enable_tensor_float_32_execution(False)


def device_kind() -> str:
    """ "gpu" where the backend computes on one by default, else "cpu"."""
    backend = os.environ["KERAS_BACKEND"]
    if backend == "jax":
        import jax

        return "gpu" if jax.default_backend() in ("gpu", "cuda", "rocm") else "cpu"
    if backend == "torch":
        import torch

        return "gpu" if torch.cuda.is_available() else "cpu"
    import tensorflow as tf

    return "gpu" if tf.config.list_physical_devices("GPU") else "cpu"


def framework_version() -> str:
    return __import__(os.environ["KERAS_BACKEND"]).__version__


def native_gradients(model, objective_of):
    """A function (batch, shares) -> (embeddings, loss, gradients by trainable weight, whether each is sparse).

    `objective_of(shares)` is the objective; shares are handed through the compiled function as data.
    """
    makers = {"jax": _jax_gradients, "torch": _torch_gradients, "tensorflow": _tensorflow_gradients}
    return makers[os.environ["KERAS_BACKEND"]](model, objective_of)


def _jax_gradients(model, objective_of):
    import jax
    import keras

    variables = model.trainable_variables

    def loss_of(values, batch, shares):
        objective = objective_of(shares)
        with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
            embeddings = objective.embed(model, batch)
            return objective.loss_of(model, embeddings)[0], embeddings

    compiled = jax.jit(jax.value_and_grad(loss_of, has_aux=True))

    def call(batch, shares):
        (loss, embeddings), gradients = compiled([variable.value for variable in variables], batch, shares)
        arrays = [np.asarray(gradient) for gradient in gradients]
        return [np.asarray(x) for x in embeddings], float(loss), arrays, [False] * len(arrays)

    return call


def _torch_gradients(model, objective_of):
    import torch

    weights = [variable.value for variable in model.trainable_variables]

    def call(batch, shares):
        device = weights[0].device
        tensors = {name: torch.as_tensor(array).to(device) for name, array in batch.items()}
        objective = objective_of(torch.as_tensor(shares).to(device))
        embeddings = objective.embed(model, tensors)
        loss, _ = objective.loss_of(model, embeddings)
        gradients = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
        arrays = [gradient.cpu().numpy() for gradient in gradients]
        return [x.detach().cpu().numpy() for x in embeddings], loss.item(), arrays, [g.is_sparse for g in gradients]

    return call


def _tensorflow_gradients(model, objective_of):
    import tensorflow as tf

    weights = [variable.value for variable in model.trainable_variables]
    sparse: list[bool] = []

    @tf.function(autograph=False)
    def compiled(batch, shares):
        objective = objective_of(shares)
        with tf.GradientTape() as tape:
            embeddings = objective.embed(model, batch)
            loss, _ = objective.loss_of(model, embeddings)
        gradients = tape.gradient(loss, weights, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        sparse[:] = [isinstance(gradient, tf.IndexedSlices) for gradient in gradients]
        return embeddings, loss, [tf.convert_to_tensor(gradient) for gradient in gradients]

    def call(batch, shares):
        tensors = {name: tf.convert_to_tensor(array) for name, array in batch.items()}
        embeddings, loss, gradients = compiled(tensors, tf.convert_to_tensor(shares))
        return [x.numpy() for x in embeddings], float(loss), [gradient.numpy() for gradient in gradients], list(sparse)

    return call
