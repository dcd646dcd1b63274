"""The kernels' blocks against float64 NumPy in the interpreters, and their lowering for devices that are not there."""

import os
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest

from diptych.backends.plan import FLOAT16_SCALE

jax = pytest.importorskip("jax", reason="the kernels are jax's")
if jax.__version_info__ < (0, 10):
    pytest.skip(f"the kernels need jax 0.10, and this is {jax.__version__}", allow_module_level=True)

from jax import numpy as jnp  # noqa: E402
from jax.sharding import use_abstract_mesh  # noqa: E402

from diptych.backends.jax.contrastive import pallas_gpu, pallas_gpu_softmax, pallas_tpu, pallas_tpu_softmax  # noqa: E402
from tests.backends.jax.mosaic_report import H100, arguments, report  # noqa: E402

ROUNDOFF = {"float32": 2.0**-24, "bfloat16": 2.0**-8, "float16": 2.0**-11}
THOROUGH = bool(os.environ.get("DIPTYCH_THOROUGH"))
SMALL_TPU = pallas_tpu.Config(tile_m=64, tile_n=128, tile_k=128)


@dataclass(frozen=True)
class Case:
    """m by n pairs of width d, of which the first rows and columns count, and those of j - i = offset do not."""

    m: int
    n: int
    d: int
    rows: int
    columns: int
    offset: int
    dtype: str
    t: float
    b: float

    def draw(self):
        """x and y, L2-normalised and in the case's dtype, anything in the padding."""
        rng = np.random.default_rng(self.m + self.d)
        x, y = (rng.standard_normal((length, self.d)) for length in (self.m, self.n))
        return (jnp.asarray(a / np.linalg.norm(a, axis=1, keepdims=True), self.dtype) for a in (x, y))

    def arguments(self):
        x, y = self.draw()
        limits = jnp.array([self.rows, self.columns, self.offset], jnp.int32)
        return x, y, jnp.array([self.t, self.b], jnp.float32), limits


GPU_CASES = {
    "whole tiles": Case(128, 256, 64, 128, 256, 1000, "bfloat16", 10.0, -10.0),
    "ragged": Case(256, 384, 330, 200, 330, 37, "bfloat16", 120.0, -17.0),
    "float16": Case(256, 128, 64, 256, 100, -5, "float16", 10.0, -10.0),
}
TPU_CASES = {
    "whole tiles": Case(128, 256, 128, 128, 256, -1000, "bfloat16", 10.0, -10.0),
    "ragged": Case(128, 384, 200, 100, 300, 37, "bfloat16", 120.0, -17.0),
    "float32": Case(128, 256, 200, 128, 200, -5, "float32", 10.0, -10.0),
    "float32, trained": Case(64, 256, 200, 60, 256, 0, "float32", 120.0, -17.0),
}


def exact(case: Case):
    """z, the pairs that count, σ(z) and the three sums, in float64 of the rounded embeddings."""
    x, y = (np.asarray(a, np.float64) for a in case.draw())
    s = x @ y.T
    z = case.t * s + case.b
    i, j = np.arange(case.m)[:, None], np.arange(case.n)
    kept = (i < case.rows) & (j < case.columns) & (j - i != case.offset)
    probabilities = np.where(kept, np.exp(-np.logaddexp(0.0, -z)), 0.0)
    softplus = np.where(kept, np.logaddexp(0.0, z), 0.0)
    sums = np.array([softplus.sum(), (probabilities * s).sum(), probabilities.sum()])
    sizes = np.array([sums[0], (probabilities * np.abs(s)).sum(), sums[2]])
    return z, kept, probabilities, sums, sizes


def faults(case: Case, probabilities, sums) -> list[str]:
    """What is wrong with a block's answer; nothing for one whose only errors are roundings.

    z is off by some roundings of itself and of t times a product of unit vectors, and an error of z is a relative one
    of σ(z) and of softplus(z), however small they are. The smallest numbers of float16 bound its relative accuracy.
    """
    z, kept, expected, expected_sums, sizes = exact(case)
    relative = 2.0**-24 * (16.0 + 4.0 * np.abs(z) + 4.0 * case.t)
    wrong = []
    if probabilities is not None:
        scale = FLOAT16_SCALE if case.dtype == "float16" else 1.0
        smallest = 2.0**-25 / scale if case.dtype == "float16" else 0.0
        off = np.abs(np.asarray(probabilities, np.float64) / scale - expected)
        if not np.all(off <= (1.01 * ROUNDOFF[case.dtype] + relative) * expected + smallest):
            wrong.append("probabilities")
        if not np.all(np.asarray(probabilities)[~kept] == 0):
            wrong.append("excluded pairs")
    total = np.asarray(sums, np.float64).sum(axis=0)
    if not np.all(np.abs(total - expected_sums) <= relative.max() * sizes):
        wrong.append("sums")
    return wrong


@pytest.mark.parametrize("name", GPU_CASES if THOROUGH else ["ragged", "float16"])
def test_a_gpu_block_is_right_with_and_without_probabilities(name):
    case = GPU_CASES[name]
    check_both_forms(case, partial(pallas_gpu.negatives_block, interpret=True))


def test_a_gpu_block_is_right_where_the_warpgroups_halve_tiles():
    case = Case(256, 128, 320, 256, 100, 37, "bfloat16", 10.0, -10.0)
    config = pallas_gpu.Config(turns=1, stages=3)
    answer = jax.jit(partial(pallas_gpu.negatives_block, config=config, interpret=True))(*case.arguments())
    assert faults(case, *answer) == []


@pytest.mark.parametrize("name", TPU_CASES)
def test_a_tpu_block_is_right_with_and_without_probabilities(name):
    case = TPU_CASES[name]
    check_both_forms(case, partial(pallas_tpu.negatives_block, config=SMALL_TPU, interpret=True))


@pytest.mark.parametrize("name", ["ragged", "float32, trained"])
def test_a_tpu_block_of_the_softmax_is_right(name):
    check_softmax(TPU_CASES[name], pallas_tpu_softmax, {"config": SMALL_TPU, "interpret": True})


@pytest.mark.parametrize("name", ["ragged", *(["float16"] if THOROUGH else [])])
def test_a_gpu_block_of_the_softmax_is_right(name):
    check_softmax(GPU_CASES[name], pallas_gpu_softmax, {"interpret": True})


def check_softmax(case, kernel, plan):
    """Rows and columns of padding alone have no normaliser; those that count differ by the logits' rounding."""
    x, y, (t, _), limits = case.arguments()
    z, counts = exact(case)[:2]
    z = np.where(counts, z - case.b, -np.inf)
    with np.errstate(divide="ignore"):
        right = [np.logaddexp.reduce(z, axis=axis) for axis in (1, 0)]
    found = jax.jit(partial(kernel.normalisers_block, **plan))(x, y, t, limits)
    for one, other in zip(found, right, strict=True):
        there = np.isfinite(other)
        assert not there.all() or case.rows == case.m or case.columns == case.n
        np.testing.assert_array_equal(np.isfinite(one), there)
        np.testing.assert_allclose(one[there], other[there], atol=2.0**-24 * (16 + 8 * case.t))
    logarithms = [np.where(np.isfinite(other), other, 0.0) for other in right]
    expected = np.exp(z - logarithms[0][:, None]) + np.exp(z - logarithms[1])
    beside = (jnp.asarray(part, jnp.float32) for part in logarithms)
    weights, sums = jax.jit(partial(kernel.weights_block, with_weights=True, **plan))(
        x, y, t, limits, row_logarithms=next(beside), column_logarithms=next(beside)
    )
    assert weights.dtype == case.dtype
    scale, smallest = (FLOAT16_SCALE, 2.0**-25) if case.dtype == "float16" else (1.0, 2.0**-120)
    off, relative = np.abs(np.asarray(weights, np.float64) / scale - expected), 2.0**-24 * (32 + 16 * case.t)
    assert np.all(off <= (1.01 * ROUNDOFF[case.dtype] + relative) * expected + smallest / scale)
    assert expected.max() > 0.5
    s = np.where(counts, z, 0.0) / case.t
    total = np.asarray(sums, np.float64).sum()
    assert abs(total - (expected * s).sum()) <= relative * (expected * np.abs(s)).sum()


def check_both_forms(case, block):
    probabilities, sums = jax.jit(block)(*case.arguments())
    assert probabilities.shape == (case.m, case.n)
    assert probabilities.dtype == case.dtype
    assert sums.dtype == "float32"
    assert faults(case, probabilities, sums) == []
    nothing, forward_sums = jax.jit(partial(block, with_probabilities=False))(*case.arguments())
    assert nothing is None
    assert faults(case, None, forward_sums) == []  # XLA fuses the interpreted programs differently: not the same bits


@pytest.mark.parametrize(
    "case", [GPU_CASES["ragged"], GPU_CASES["float16"], TPU_CASES["float32"]], ids=lambda c: c.dtype
)
def test_the_judge_refuses_wrong_answers(case):
    z, kept, probabilities, sums, _ = exact(case)
    scale = FLOAT16_SCALE if case.dtype == "float16" else 1.0
    stored = np.asarray(jnp.asarray(probabilities * scale, case.dtype))
    assert faults(case, stored, sums[None]) == []
    everything = np.asarray(jnp.asarray(np.exp(-np.logaddexp(0.0, -z)) * scale, case.dtype))
    diagonal = np.arange(case.n) - np.arange(case.m)[:, None] == case.offset
    diagonal &= (np.arange(case.m)[:, None] < case.rows) & (np.arange(case.n) < case.columns)
    assert diagonal.any()
    one_missing = stored.copy()
    one_missing[np.unravel_index(np.argmax(stored), stored.shape)] = 0
    wrong = {
        "zeros": np.zeros_like(stored),
        "NaN": np.full_like(stored, np.nan),
        "the diagonal kept": np.where(diagonal, everything, stored),
        "the padding kept": np.where(kept | diagonal, stored, everything),
        "one missing": one_missing,
        "the sign flipped": -stored,
        "a part in sixty off": (stored * np.asarray(1 + 2.0**-6, stored.dtype)).astype(stored.dtype),
    }
    for name, answer in wrong.items():
        assert "probabilities" in faults(case, answer, sums[None]), name
    uncounted = np.logaddexp(0.0, z)[diagonal].sum()
    for name, answer in {
        "zeros": 0 * sums,
        "NaN": sums * np.nan,
        "the diagonal counted": sums + [uncounted, 0.0, 0.0],
        "one sum negated": sums * [1.0, -1.0, 1.0],
        "one part in a thousand off": sums * [1.0, 1.0, 1.001],
    }.items():
        assert faults(case, None, answer[None]) == ["sums"], name


def lowered(block, platform, dtype, size, **arguments) -> str:
    """The program that a device of the platform would be given for `size` pairs of width 768."""
    embeddings = jax.ShapeDtypeStruct((size, 768), dtype)
    scalars = jax.ShapeDtypeStruct((2,), jnp.float32), jax.ShapeDtypeStruct((3,), jnp.int32)
    with use_abstract_mesh(H100) if platform == "cuda" else nullcontext():
        traced = jax.jit(partial(block, **arguments)).trace(embeddings, embeddings, *scalars)
        return traced.lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("config", pallas_gpu.CANDIDATES, ids=str)
def test_the_gpu_kernel_lowers_without_a_gpu(config, dtype):
    assert "mosaic_gpu" in lowered(pallas_gpu.negatives_block, "cuda", dtype, 768, config=config)


def test_a_warpgroup_seldom_waits_for_itself():
    """Each wait costs a tile's epilogue some 30 clocks: for each 64 by 64 pairs four to store their probabilities, for
    each 64 rows six to add their sums to the warpgroup's; six more in a whole kernel.
    """
    found = report(pallas_gpu.negatives_block, *arguments(768, "bfloat16"))
    assert found.barriers <= 4 * 4 + 2 * 6 + 6
    assert (found.exponentials, found.divisions) == (128, 0)
    halves = partial(pallas_gpu.negatives_block, config=pallas_gpu.Config(columns=32))
    assert report(halves, *arguments(768, "bfloat16")).barriers > found.barriers
    alone = partial(pallas_gpu.negatives_block, with_probabilities=False)
    assert report(alone, *arguments(768, "bfloat16")).barriers < found.barriers


def test_the_softmaxs_epilogues_take_two_exponentials_a_pair():
    """Sums over columns go through shared memory: once for their maximum and once for their sum, for each 64."""
    x, y, _, limits = arguments(768, "bfloat16")
    t, logarithms = jax.ShapeDtypeStruct((), "float32"), jax.ShapeDtypeStruct((768,), "float32")
    normalisers = report(pallas_gpu_softmax.normalisers_block, x, y, t, limits)

    def block(x, y, t, limits, rows, columns):
        return pallas_gpu_softmax.weights_block(x, y, t, limits, True, rows, columns)

    weights = report(block, x, y, t, limits, logarithms, logarithms)
    for found, most in ((normalisers, 45), (weights, 28)):
        assert (found.exponentials, found.divisions) == (256, 0)
        assert found.barriers <= most


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("config", pallas_tpu.CANDIDATES, ids=str)
def test_the_tpu_kernel_lowers_without_a_tpu(config, dtype):
    assert "tpu_custom_call" in lowered(pallas_tpu.negatives_block, "tpu", dtype, 2048, config=config)


def test_the_kernels_lower_without_probabilities():
    assert "mosaic_gpu" in lowered(pallas_gpu.negatives_block, "cuda", "bfloat16", 768, with_probabilities=False)
    assert "tpu_custom_call" in lowered(pallas_tpu.negatives_block, "tpu", "bfloat16", 2048, with_probabilities=False)


def test_what_the_sweep_pads_to_fits_the_tiles():
    for kernel in (pallas_gpu, pallas_tpu):
        for tile in (kernel.DEFAULT.tile_m, kernel.DEFAULT.tile_n):
            assert kernel.BLOCK.multiple % tile == 0
        assert kernel.BLOCK.largest % kernel.BLOCK.multiple == 0


def test_a_gpu_tile_beyond_the_shared_memory_is_refused():
    config = pallas_gpu.Config(stages=8)
    with pytest.raises(ValueError, match="exceeds available shared memory"):
        lowered(pallas_gpu.negatives_block, "cuda", "bfloat16", 768, config=config)


@pytest.mark.parametrize(
    ("kernel", "platform", "config", "dtype", "size", "message"),
    [
        (pallas_gpu, "cuda", {"tile_m": 64, "turns": 1}, "bfloat16", 768, "tile_m a multiple of 128"),
        (pallas_gpu, "cuda", {"tile_n": 96}, "bfloat16", 768, "tile_n and tile_k of 64"),
        (pallas_gpu, "cuda", {"turns": 3}, "bfloat16", 768, "turns of 1 or 2"),
        (pallas_gpu, "cuda", {}, "bfloat16", 700, "multiples of 128 and 128"),
        (pallas_gpu, "cuda", {}, "float32", 768, "both bfloat16 or both float16"),
        (pallas_tpu, "tpu", {"tile_k": 96}, "bfloat16", 2048, "tile_n and tile_k of 128"),
        (pallas_tpu, "tpu", {"tile_m": 8}, "bfloat16", 2048, "tile_m a multiple of 16"),
        (pallas_tpu, "tpu", {}, "bfloat16", 2000, "multiples of 512 and 1024"),
        (pallas_tpu, "tpu", {}, "float16", 2048, "both bfloat16 or both float32"),
    ],
)
def test_tiles_shapes_and_dtypes_that_a_kernel_does_not_have_are_refused(
    kernel, platform, config, dtype, size, message
):
    with pytest.raises(ValueError, match=message):
        lowered(kernel.negatives_block, platform, dtype, size, config=kernel.Config(**config))
