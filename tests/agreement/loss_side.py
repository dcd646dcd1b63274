"""The sigmoid loss's native implementations of the three frameworks, in one process, on NumPy arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import tensorflow as tf
import torch

from diptych.backends.jax import sigmoid_loss as jax_loss
from diptych.backends.jax.sigmoid_loss.loss import OneDevice
from diptych.backends.jax.sigmoid_loss.loss import loss_and_gradients_by as jax_by
from diptych.backends.jax.sigmoid_loss.loss import loss_by as jax_loss_by
from diptych.backends.jax.sigmoid_loss.sweep import Block, xla_block
from diptych.backends.tensorflow import sigmoid_loss as tensorflow_loss
from diptych.backends.torch import sigmoid_loss as torch_loss
from diptych.backends.torch.sigmoid_loss.loss import computed as computed_by_torch
from tests.oracle.loss_judge import Answer, Problem


def by_jax(problem: Problem, largest: int | None = None) -> Answer:
    block = jax_loss.block_of("xla", "cpu") if largest is None else Block(xla_block, largest, 8, "float32")
    plan = OneDevice(block, problem.offset, problem.denominator or len(problem.x))
    x, y = (jnp.asarray(array, problem.dtype) for array in (problem.x, problem.y))
    return Answer(*(np.asarray(part) for part in jax_by(plan, x, y, problem.logit_scale, problem.logit_bias)))


def by_torch(problem: Problem, largest: int | None = None) -> Answer:
    x, y = (torch.tensor(array).to(getattr(torch, problem.dtype)) for array in (problem.x, problem.y))
    t, b = torch.tensor(problem.logit_scale), torch.tensor(problem.logit_bias)
    plan = ("blocked", problem.offset, problem.denominator or len(x))
    parts = computed_by_torch(x, y, t, b, *plan, with_gradients=True, largest=largest)
    return Answer(*(part.numpy() for part in parts))


def by_tensorflow(problem: Problem, largest: int | None = None) -> Answer:
    x, y = (tf.cast(tf.constant(array), problem.dtype) for array in (problem.x, problem.y))
    parts = tensorflow_loss.sigmoid_loss_and_gradients(
        x,
        y,
        logit_scale=problem.logit_scale,
        logit_bias=problem.logit_bias,
        offset=problem.offset,
        denominator=problem.denominator,
        largest_block=largest,
    )
    return Answer(*(part.numpy() for part in parts))


IMPLEMENTATIONS = {"jax xla": by_jax, "torch blocked": by_torch, "tensorflow xla": by_tensorflow}


def differentiated_by_jax(problem: Problem) -> Answer:
    plan = OneDevice(jax_loss.block_of("xla", "cpu"), problem.offset, problem.denominator or len(problem.x))
    x, y = (jnp.asarray(array, problem.dtype) for array in (problem.x, problem.y))
    arguments = (x, y, jnp.float32(problem.logit_scale), jnp.float32(problem.logit_bias))
    loss, gradients = jax.value_and_grad(lambda *a: jax_loss_by(plan, *a), argnums=(0, 1, 2, 3))(*arguments)
    return Answer(*(np.asarray(part, np.float32) for part in (loss, *gradients)))


def differentiated_by_torch(problem: Problem) -> Answer:
    x, y = (torch.tensor(array).to(getattr(torch, problem.dtype)) for array in (problem.x, problem.y))
    arguments = [
        a.requires_grad_() for a in (x, y, torch.tensor(problem.logit_scale), torch.tensor(problem.logit_bias))
    ]
    loss = torch_loss.sigmoid_loss(
        *arguments[:2],
        logit_scale=arguments[2],
        logit_bias=arguments[3],
        implementation="blocked",
        offset=problem.offset,
        denominator=problem.denominator,
    )
    return Answer(*(part.detach().float().numpy() for part in (loss, *torch.autograd.grad(loss, arguments))))


def differentiated_by_tensorflow(problem: Problem) -> Answer:
    x, y = (tf.cast(tf.constant(array), problem.dtype) for array in (problem.x, problem.y))
    arguments = [x, y, tf.constant(problem.logit_scale), tf.constant(problem.logit_bias)]
    with tf.GradientTape() as tape:
        tape.watch(arguments)
        loss = tensorflow_loss.sigmoid_loss(
            *arguments[:2],
            logit_scale=arguments[2],
            logit_bias=arguments[3],
            offset=problem.offset,
            denominator=problem.denominator,
        )
    return Answer(*(tf.cast(part, "float32").numpy() for part in (loss, *tape.gradient(loss, arguments))))


DIFFERENTIATED = {
    "jax xla": differentiated_by_jax,
    "torch blocked": differentiated_by_torch,
    "tensorflow xla": differentiated_by_tensorflow,
}
