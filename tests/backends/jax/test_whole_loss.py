"""The whole loss by the Pallas kernels: right in the interpreters, and lowered for devices that are not here."""

import os
import re
from functools import partial

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="the kernels are jax's")
if jax.__version_info__ < (0, 10):
    pytest.skip(f"the kernels need jax 0.10, and this is {jax.__version__}", allow_module_level=True)

from jax import numpy as jnp  # noqa: E402
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, use_abstract_mesh  # noqa: E402

from diptych.backends.cases import CASES  # noqa: E402
from diptych.backends.jax.contrastive import pallas_gpu, pallas_tpu, pallas_tpu_softmax, softmax_loss_by  # noqa: E402
from diptych.backends.jax.contrastive.distributed import ManyDevices  # noqa: E402
from diptych.backends.jax.contrastive.loss import OneDevice, loss_and_gradients_by, loss_by  # noqa: E402
from diptych.backends.jax.contrastive.sigmoid import SigmoidLoss  # noqa: E402
from diptych.backends.jax.contrastive.softmax import SoftmaxLoss  # noqa: E402
from diptych.backends.jax.contrastive.sweep import Block  # noqa: E402
from diptych.backends.plan import LEFT_TO_TRANSFERS  # noqa: E402
from tests.oracle.loss_judge import Answer, allowed, check, expected, problem_of  # noqa: E402

ROUNDOFF = {"bfloat16": 2.0**-8, "float16": 2.0**-11}
INTERPRETED = {
    "pallas_gpu": Block(partial(pallas_gpu.negatives_block, interpret=True), largest=128, multiple=128),
    "pallas_tpu": Block(
        partial(
            pallas_tpu.negatives_block, config=pallas_tpu.Config(tile_m=64, tile_n=128, tile_k=128), interpret=True
        ),
        largest=128,
        multiple=128,
    ),
}
INTERPRETED_CASES = [
    ("pallas_gpu", "bfloat16", "ragged, balanced"),
    ("pallas_tpu", "bfloat16", "ragged, balanced"),
    ("pallas_tpu", "bfloat16", "shard, trained"),
]
if os.environ.get("DIPTYCH_THOROUGH"):
    INTERPRETED_CASES += [
        ("pallas_gpu", dtype, name)
        for dtype, name in (
            ("bfloat16", "shard, trained"),
            ("float16", "ragged, balanced"),
            ("float16", "shard, trained"),
        )
    ]
SHIPPED = {"pallas_gpu": pallas_gpu.BLOCK, "pallas_tpu": pallas_tpu.BLOCK}
DEVICES = {
    "pallas_gpu": ("cuda", "mosaic_gpu", AbstractDevice("NVIDIA H100 80GB HBM3", 132, "cuda")),
    "pallas_tpu": ("tpu", "tpu_custom_call", AbstractDevice("TPU v5 lite", 1, "tpu")),
}


@pytest.mark.parametrize(("implementation", "dtype", "name"), INTERPRETED_CASES)
def test_value_and_gradients_in_the_interpreter(implementation, dtype, name):
    problem = problem_of(CASES[name], dtype)
    x, y = (jnp.asarray(a, dtype) for a in (problem.x, problem.y))
    plan = OneDevice(SigmoidLoss(INTERPRETED[implementation]), problem.offset, problem.denominator)
    answer = Answer(*map(np.asarray, loss_and_gradients_by(plan, x, y, **problem.scalars)))
    right, tolerance = expected(problem), allowed(problem, ROUNDOFF[dtype])
    check(answer, right, tolerance, who=implementation)
    forward = loss_by(plan, x, y, **problem.scalars, forward_only=True)
    check(answer._replace(loss=np.asarray(forward)), right, tolerance, who=f"{implementation}, forward only")
    with pytest.raises(AssertionError):
        check(answer._replace(logit_scale=np.zeros(())), right, tolerance, who="without a scale gradient")


def test_value_and_gradients_of_the_softmax_in_the_interpreter():
    problem = problem_of(CASES["ragged, trained"], "bfloat16", "softmax_contrastive_loss")
    x, y = (jnp.asarray(a, "bfloat16") for a in (problem.x, problem.y))
    tiles = {"config": pallas_tpu.Config(tile_m=64, tile_n=128, tile_k=128), "interpret": True}
    functions = pallas_tpu_softmax.normalisers_block, pallas_tpu_softmax.weights_block
    blocks = (Block(partial(function, **tiles), largest=128, multiple=128) for function in functions)
    plan = OneDevice(SoftmaxLoss(*blocks), 0, len(x))
    answer = Answer(*map(np.asarray, loss_and_gradients_by(plan, x, y, **problem.scalars)))
    right, tolerance = expected(problem), allowed(problem, ROUNDOFF["bfloat16"])
    check(answer, right, tolerance, who="pallas_tpu")
    with pytest.raises(AssertionError):
        check(answer._replace(logit_scale=np.zeros(())), right, tolerance, who="without a scale gradient")


def lowered(implementation, plan, mesh, batch=33_000, dtype="bfloat16") -> str:
    """The program of value and gradients for a device that need not be here."""
    platform = DEVICES[implementation][0]

    def loss(x, y, *scalars):
        return loss_by(plan, x, y, **dict(zip(plan.loss.scalars, scalars, strict=True)))

    embeddings, scalar = jax.ShapeDtypeStruct((batch, 768), dtype), jax.ShapeDtypeStruct((), "float32")
    arguments = embeddings, embeddings, *(scalar for _ in plan.loss.scalars)
    function = jax.jit(jax.value_and_grad(loss, argnums=tuple(range(len(arguments)))))
    with use_abstract_mesh(mesh):
        trace = function.trace(*arguments)
        return trace.lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("implementation", SHIPPED)
def test_the_whole_program_lowers_for_its_device(implementation):
    _, call, device = DEVICES[implementation]
    mesh = AbstractMesh((), (), abstract_device=device)
    text = lowered(implementation, OneDevice(SigmoidLoss(SHIPPED[implementation]), 0, 33_000), mesh)
    assert call in text
    assert "dot_general" in text
    assert "33000x33000" not in text


@pytest.mark.parametrize("exchange", [None, "ring"])
@pytest.mark.parametrize("implementation", SHIPPED)
def test_the_softmaxs_program_lowers_for_its_device(implementation, exchange):
    platform, call, device = DEVICES[implementation]
    loss = softmax_loss_by(implementation, platform)
    if exchange is None:
        mesh = AbstractMesh((), (), abstract_device=device)
        text = lowered(implementation, OneDevice(loss, 0, 33_000), mesh)
    else:
        mesh = AbstractMesh((4,), ("data",), axis_types=(AxisType.Auto,), abstract_device=device)
        text = lowered(implementation, ManyDevices(loss, mesh, "data", exchange), mesh)
    assert text.count(call) >= 2
    assert "33000x33000" not in text


@pytest.mark.parametrize("exchange", ["ring", "gather"])
@pytest.mark.parametrize("implementation", SHIPPED)
def test_the_whole_program_lowers_inside_shard_map(implementation, exchange):
    _, call, device = DEVICES[implementation]
    mesh = AbstractMesh((4,), ("data",), axis_types=(AxisType.Auto,), abstract_device=device)
    text = lowered(implementation, ManyDevices(SigmoidLoss(SHIPPED[implementation]), mesh, "data", exchange), mesh)
    assert call in text
    assert ("collective_permute" in text) == (exchange == "ring")
    if implementation == "pallas_gpu":  # each CTA has its own sums
        ctas = 132 - (LEFT_TO_TRANSFERS if exchange == "ring" else 0)
        assert set(re.findall(r"tensor<(\d+)x2x4x128xf32>", text)) == {str(ctas)}
    assert ("all_gather" in text) == (exchange == "gather")
