"""The losses on an accelerator, by every implementation that can run there, against the float64 oracle."""

import os
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from keras import ops

from diptych import backends
from diptych.backends.cases import CASES, Case
from tests.agreement.strategies import agreement_settings, loss_cases
from tests.conftest import BACKEND
from tests.oracle.loss_judge import Answer, Problem, allowed, check, expected, problem_of

pytestmark = pytest.mark.skipif(backends.device_name() is None, reason="there is no accelerator")

ROUNDOFF = {"float32": 0.0, "bfloat16": 2.0**-8, "float16": 2.0**-11}
"""Of the probabilities, as the implementations for 16 bits keep them."""


WIDTHS = (64, 200)
"""A whole number of the kernels' steps, and none: each width is another kernel to compile, while a GPU waits."""

EXAMPLES = 10 if BACKEND == "torch" else 4
"""Elsewhere each shape is another program to compile."""


def runnable() -> list[tuple[str, str, str]]:
    """(loss, implementation, dtype) of all native ones that can run on the default device."""
    native = backends.room().contrastive
    device = native.default_device()
    return [
        (loss, name, dtype)
        for loss, names in backends.LOSSES.items()
        for name in names
        if BACKEND in backends.IMPLEMENTATIONS[name] and name not in ("chunked", "reference")
        for dtype in ROUNDOFF
        if native.obstacle(name, device=device, dtype=dtype) is None
    ]


@pytest.fixture(scope="module", autouse=True)
def full_float32_products():
    """No TF32: the tolerance is that of float32."""
    if BACKEND == "jax":
        import jax

        jax.config.update("jax_default_matmul_precision", "highest")
    elif BACKEND == "torch":
        import torch

        torch.backends.cuda.matmul.allow_tf32 = False
        # Memory that nobody wrote is not a number, so that a result which depends on it is found.
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = True


def answer_of(problem, implementation) -> Answer:
    options = {"dtype": problem.dtype, "implementation": implementation}
    function = getattr(backends, f"{problem.loss}_and_gradients")
    answer = function(problem.x, problem.y, **problem.scalars, **problem.part, **options)
    return Answer(*(ops.convert_to_numpy(part) for part in answer))


def posed(case: Case, dtype: str, loss: str) -> Problem:
    """The case; a softmax is over a batch of its own."""
    return problem_of(case if loss == "sigmoid_loss" else replace(case, texts=case.images, offset=0), dtype, loss)


def test_the_fast_one_is_chosen():
    fast = {"torch": "triton", "jax": "pallas_gpu", "tensorflow": "xla"}[BACKEND]
    if ("sigmoid_loss", fast, "bfloat16") not in runnable():
        pytest.skip(f"{fast} cannot run on {backends.device_name()}")
    assert backends.choose_implementation(dtype="bfloat16") == fast


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("loss", "implementation", "dtype"), runnable() if backends.device_name() else [])
def test_value_and_gradients_of_the_named_cases(loss, implementation, dtype, name):
    problem = posed(CASES[name], dtype, loss)
    check(answer_of(problem, implementation), expected(problem), allowed(problem, ROUNDOFF[dtype]), who=implementation)


@pytest.mark.parametrize(("loss", "implementation", "dtype"), runnable() if backends.device_name() else [])
@given(case=loss_cases(largest=400, widths=WIDTHS))
@agreement_settings(EXAMPLES)
def test_value_and_gradients_of_any_case(loss, implementation, dtype, case):
    problem = posed(case, dtype, loss)
    check(answer_of(problem, implementation), expected(problem), allowed(problem, ROUNDOFF[dtype]), who=implementation)


LARGE = Case(images=10_007, texts=10_007, width=768, logit_scale=112.0, logit_bias=-16.5, positive_cosine=0.15)


@pytest.mark.parametrize(("loss", "implementation", "dtype"), runnable() if backends.device_name() else [])
def test_several_super_blocks_and_twice_the_same_bits(loss, implementation, dtype):
    """10,007 is a prime; float64 takes a while, so one answer is judged and the other compared."""
    problem = posed(LARGE, dtype, loss)
    first, second = (answer_of(problem, implementation) for _ in range(2))
    for name in ("loss", "image_embeddings", "text_embeddings", *problem.scalars):
        assert np.array_equal(getattr(first, name), getattr(second, name)), f"{name} differs between two runs"
    right = expected(problem)
    check(first, right, allowed(problem, ROUNDOFF[dtype]), who=implementation)
    for name in ("image_embeddings", "text_embeddings"):
        got, want = getattr(first, name), getattr(right, name)
        assert np.linalg.norm(got - want) <= 2e-3 * np.linalg.norm(want)


@pytest.mark.skipif(BACKEND != "torch", reason="torch's operator contract")
def test_torchs_contract_on_the_device():
    import torch

    if ("sigmoid_loss", "triton", "bfloat16") not in runnable():
        pytest.skip("Triton cannot run here")
    x, y = (torch.from_numpy(a).to("cuda", torch.bfloat16).requires_grad_() for a in CASES["ragged, balanced"].draw())
    t, b = (torch.tensor(v, device="cuda", requires_grad=True) for v in (10.0, -2.0))
    kept = torch.library.opcheck(
        torch.ops.diptych.contrastive_loss_and_gradients.default,
        (x, y, torch.stack([t, b]), "sigmoid_loss", "triton", 0, len(x)),
        rtol=1e-2,
        atol=1e-4,
    )
    assert set(kept.values()) == {"SUCCESS"}

    def loss(x, y):
        return backends.sigmoid_loss(x, y, logit_scale=t, logit_bias=b, implementation="triton")

    for got, want in zip(
        torch.autograd.grad(torch.compile(loss, fullgraph=True)(x, y), (x, y)),
        torch.autograd.grad(loss(x, y), (x, y)),
        strict=True,
    ):
        torch.testing.assert_close(got, want)
