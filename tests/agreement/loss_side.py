"""The contrastive losses' native implementations of the three frameworks, in one process, on NumPy arrays."""

from dataclasses import fields, replace

import jax
import jax.numpy as jnp
import numpy as np
import tensorflow as tf
import torch

from diptych.backends.jax import contrastive as jax_losses
from diptych.backends.jax.contrastive.loss import OneDevice
from diptych.backends.jax.contrastive.loss import loss_and_gradients_by as jax_by
from diptych.backends.jax.contrastive.loss import loss_by as jax_loss_by
from diptych.backends.tensorflow import contrastive as tensorflow_losses
from diptych.backends.torch import contrastive as torch_losses
from diptych.backends.torch.contrastive.loss import computed as computed_by_torch
from tests.oracle.loss_judge import Answer, Problem


def plan_of_jax(problem: Problem, largest: int | None = None) -> OneDevice:
    by = {"sigmoid_loss": jax_losses.sigmoid_loss_by, "softmax_contrastive_loss": jax_losses.softmax_loss_by}
    loss = by[problem.loss]("xla", "cpu")
    if largest is not None:
        blocks = {field.name: getattr(loss, field.name) for field in fields(loss)}
        loss = replace(loss, **{name: replace(block, largest=largest) for name, block in blocks.items()})
    return OneDevice(loss, problem.offset, problem.denominator or len(problem.x))


def by_jax(problem: Problem, largest: int | None = None) -> Answer:
    x, y = (jnp.asarray(array, problem.dtype) for array in (problem.x, problem.y))
    return Answer(*map(np.asarray, jax_by(plan_of_jax(problem, largest), x, y, **problem.scalars)))


def by_torch(problem: Problem, largest: int | None = None) -> Answer:
    x, y = (torch.tensor(array).to(getattr(torch, problem.dtype)) for array in (problem.x, problem.y))
    plan = (problem.loss, "blocked", problem.offset, problem.denominator or len(x))
    scalars = torch.tensor(list(problem.scalars.values()))
    *parts, of_scalars = computed_by_torch(x, y, scalars, *plan, with_gradients=True, largest=largest)
    return Answer(*(part.numpy() for part in (*parts, *of_scalars)))


def by_tensorflow(problem: Problem, largest: int | None = None) -> Answer:
    x, y = (tf.cast(tf.constant(array), problem.dtype) for array in (problem.x, problem.y))
    function = getattr(tensorflow_losses, f"{problem.loss}_and_gradients")
    return Answer(*(part.numpy() for part in function(x, y, **problem.scalars, **problem.part, largest_block=largest)))


IMPLEMENTATIONS = {"jax xla": by_jax, "torch blocked": by_torch, "tensorflow xla": by_tensorflow}


def differentiated_by_jax(problem: Problem) -> Answer:
    plan, names = plan_of_jax(problem), tuple(problem.scalars)
    x, y = (jnp.asarray(array, problem.dtype) for array in (problem.x, problem.y))
    arguments = (x, y, *map(jnp.float32, problem.scalars.values()))

    def loss(x, y, *scalars):
        return jax_loss_by(plan, x, y, **dict(zip(names, scalars, strict=True)))

    value, gradients = jax.value_and_grad(loss, argnums=tuple(range(len(arguments))))(*arguments)
    return Answer(*(np.asarray(part, np.float32) for part in (value, *gradients)))


def differentiated_by_torch(problem: Problem) -> Answer:
    x, y = (torch.tensor(array).to(getattr(torch, problem.dtype)).requires_grad_() for array in (problem.x, problem.y))
    scalars = {name: torch.tensor(value).requires_grad_() for name, value in problem.scalars.items()}
    loss = getattr(torch_losses, problem.loss)(x, y, **scalars, implementation="blocked", **problem.part)
    gradients = torch.autograd.grad(loss, (x, y, *scalars.values()))
    return Answer(*(part.detach().float().numpy() for part in (loss, *gradients)))


def differentiated_by_tensorflow(problem: Problem) -> Answer:
    x, y = (tf.cast(tf.constant(array), problem.dtype) for array in (problem.x, problem.y))
    scalars = {name: tf.constant(value) for name, value in problem.scalars.items()}
    arguments = [x, y, *scalars.values()]
    with tf.GradientTape() as tape:
        tape.watch(arguments)
        loss = getattr(tensorflow_losses, problem.loss)(x, y, **scalars, **problem.part)
    return Answer(*(tf.cast(part, "float32").numpy() for part in (loss, *tape.gradient(loss, arguments))))


DIFFERENTIATED = {
    "jax xla": differentiated_by_jax,
    "torch blocked": differentiated_by_torch,
    "tensorflow xla": differentiated_by_tensorflow,
}
