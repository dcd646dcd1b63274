"""The sigmoid loss's Triton kernel in Triton's interpreter, on a CPU, against float64 NumPy.

A process cannot both interpret and compile, so one other process computes the answers to all cases:

    TRITON_INTERPRET=1 python -m tests.backends.torch.test_triton_interpreted answers.npz
"""

import os
import subprocess
import sys
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import pytest

from diptych.backends.plan import FLOAT16_SCALE
from tests.tree import ROOT

torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("triton", reason="Triton is not installed: pip install triton (Linux)")

UNIT_ROUNDOFF = 2.0**-24
OUTPUT_ROUNDOFF = {"float32": 0.0, "float16": 2.0**-11, "bfloat16": 2.0**-7}
"""Relative; the interpreter cuts bfloat16 off where a GPU rounds to the nearest, which is half of this."""

SMALLEST = {"float32": 2.0**-126, "float16": 2.0**-25 / FLOAT16_SCALE, "bfloat16": 2.0**-126}
"""What may be lost at the lower end of a dtype's range; in float16 half a unit of its smallest numbers."""


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """The fields of the kernel's `Config`, small enough for the interpreter."""

    block_m: int = 64
    block_n: int = 64
    block_k: int = 32
    num_warps: int = 4
    num_stages: int = 2
    slices: int = 4
    group_m: int = 8
    copy_engine: bool = True


@dataclass(frozen=True, kw_only=True)
class Case:
    m: int = 100
    n: int = 200
    d: int = 48
    dtype: str = "bfloat16"
    output: str | None = "float32"
    """The dtype of the probabilities; float32 shows errors that 16 bits hide. None for the sums alone."""
    offset: int = 0
    scale: float = 10.0
    bias: float = -10.0
    tiles: Tiles = field(default=Tiles())


HOT = Case(m=37, n=130, d=8, dtype="float16", output="float16", offset=-5, scale=120.0, bias=-17.0)

CASES = {
    "SigLIP's start": Case(),
    "in bfloat16": Case(output="bfloat16", offset=37),
    "in float16": Case(dtype="float16", output="float16", offset=-5),
    "hot": Case(offset=37, scale=120.0, bias=-17.0),
    "hot, in float16": HOT,
    "cold": Case(m=130, n=37, d=8, dtype="float16", scale=1.0, bias=0.0),
    "no excluded pair": Case(offset=10**12),
    "none by one row": Case(m=64, n=128, d=64, offset=-64),
    "one, in the corner": Case(m=64, n=128, d=64, offset=127),
    "the only pair excluded": Case(m=1, n=1, d=8),
    "one pair": Case(m=1, n=1, d=8, offset=-1),
    "tiles 128 by 32": Case(tiles=Tiles(block_m=128, block_n=32, block_k=64, slices=2)),
    "tiles 32 by 128": Case(tiles=Tiles(block_m=32, block_n=128, block_k=16, slices=2, group_m=1)),
    "without the copy engine": Case(tiles=Tiles(copy_engine=False)),
    "without the copy engine, hot, in float16": replace(HOT, tiles=Tiles(copy_engine=False)),
    "rows of tiles in twos": Case(tiles=Tiles(block_m=32, block_n=32, group_m=2)),
}
CASES |= {
    f"{name}, sums alone": replace(CASES[name], output=None)
    for name in ("SigLIP's start", "hot", "without the copy engine, hot, in float16")
}


@dataclass(frozen=True)
class Answer:
    """Embeddings as the kernel got them, the buffer around the probabilities, and Σ softplus, Σ σ s and Σ σ."""

    x: np.ndarray
    y: np.ndarray
    buffer: np.ndarray | None
    sums: np.ndarray


def inputs(case: Case):
    """Unit rows, each second row of y near the row of x whose pair is excluded: that pair's probability is large."""
    rng = np.random.default_rng(7)
    x, y = rng.normal(size=(case.m, case.d)), rng.normal(size=(case.n, case.d))
    for j in range(0, case.n, 2):
        if 0 <= j - case.offset < case.m:
            y[j] = 4.0 * x[j - case.offset] + y[j]
    return tuple(
        torch.tensor(a / np.linalg.norm(a, axis=1, keepdims=True)).to(getattr(torch, case.dtype)) for a in (x, y)
    )


def compute(case: Case) -> Answer:
    """What the kernel answers, in a process with TRITON_INTERPRET=1; its output lies in a buffer full of NaN."""
    from diptych.backends.torch.contrastive.triton_block import Config, negatives_block

    x, y = inputs(case)
    buffer = probabilities = None
    if case.output is not None:
        shape = case.m + 3, -(-case.n // 8) * 8 + 16
        buffer = torch.full(shape, torch.nan, dtype=getattr(torch, case.output))
        probabilities = buffer[: case.m, : case.n]
    scale_and_bias = torch.tensor([case.scale, case.bias])
    sums = negatives_block(x, y, scale_and_bias, case.offset, probabilities, config=Config(**asdict(case.tiles)))
    tiles = -(-case.m // case.tiles.block_m) * -(-case.n // case.tiles.block_n)
    assert sums.shape == (min(2, tiles), 3)
    assert sums.dtype == torch.float32
    return Answer(
        x.float().numpy(),
        y.float().numpy(),
        None if buffer is None else buffer.float().numpy(),
        sums.double().sum(0).numpy(),
    )


def definition(x, y, case: Case):
    """In float64 -> probabilities `[m, n]`, the sums, and Σ σ |s|, the size of the terms of the second."""
    s = x.astype(float) @ y.astype(float).T
    z = case.scale * s + case.bias
    counts = np.ones(s.shape)
    if -case.m < case.offset < case.n:
        counts -= np.eye(*s.shape, k=case.offset)
    probabilities = counts * np.exp(-np.logaddexp(0.0, -z))
    sums = [(counts * np.logaddexp(0.0, z)).sum(), (probabilities * s).sum(), probabilities.sum()]
    return probabilities, np.array(sums), (probabilities * np.abs(s)).sum()


def faults(answer: Answer, case: Case) -> list[str]:
    """What is wrong with an answer. Tolerances: an error in z is one, relative, in σ(z) and log(1 + exp(z)) where they
    are small.

    That in z comes from a sum of d products of at most 1 in all, times the scale, and from the bias; 16 roundings are
    those of exp, of the series and of the sums.
    """
    probabilities, sums, cosine_terms = definition(answer.x, answer.y, case)
    relative = UNIT_ROUNDOFF * (16 + 2 * np.sqrt(case.d) * case.scale + 2 * abs(case.bias))
    found = []
    if not np.all(np.abs(answer.sums - sums) <= relative * np.array([sums[0], cosine_terms, sums[2]])):
        found.append(f"sums {answer.sums}, not {sums}")
    if case.output is None:
        return found if answer.buffer is None else [*found, "probabilities that nobody asked for"]
    unit = FLOAT16_SCALE if case.output == "float16" else 1.0
    written = answer.buffer[: case.m, : case.n] / unit
    tolerance = (relative + OUTPUT_ROUNDOFF[case.output]) * probabilities + SMALLEST[case.output] * (probabilities > 0)
    if not np.all(np.abs(written - probabilities) <= tolerance):
        found.append(f"probabilities off by up to {np.max(np.abs(written - probabilities))}")
    if not (np.isnan(answer.buffer[case.m :]).all() and np.isnan(answer.buffer[:, case.n :]).all()):
        found.append("numbers beyond the block")
    return found


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """name of the case -> the interpreted kernel's answer."""
    path = tmp_path_factory.mktemp("interpreted") / "answers.npz"
    command = [sys.executable, "-m", "tests.backends.torch.test_triton_interpreted", str(path)]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    with np.load(path) as arrays:
        found = {
            name: Answer(*(arrays.get(f"{name}/{part}") for part in Answer.__dataclass_fields__)) for name in CASES
        }
    return found


@pytest.mark.parametrize("name", CASES)
def test_an_answer_is_the_definitions(answers, name):
    assert faults(answers[name], CASES[name]) == []


@pytest.mark.parametrize("name", [name for name in CASES if name.endswith(", sums alone")])
def test_sums_alone_are_the_same_bits(answers, name):
    assert np.array_equal(answers[name].sums, answers[name.removesuffix(", sums alone")].sums)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if replace(case, tiles=Tiles()) == Case()])
def test_tiles_do_not_change_the_probabilities(answers, name):
    """But for the order of additions along d."""
    one, other = answers["SigLIP's start"].buffer, answers[name].buffer
    np.testing.assert_allclose(other, one, rtol=2e-5, atol=0)


def test_nothing_is_left_of_the_only_pair(answers):
    assert np.array_equal(answers["the only pair excluded"].sums, [0, 0, 0])


WRONG = {
    "zeros": lambda a, case: replace(a, buffer=np.where(np.isnan(a.buffer), a.buffer, 0.0), sums=np.zeros(3)),
    "sums of zero": lambda a, case: replace(a, sums=np.zeros(3)),
    "nothing excluded": lambda a, case: with_definition(a, replace(case, offset=10**6)),
    "another pair excluded": lambda a, case: with_definition(a, replace(case, offset=case.offset + 1)),
    "NaN left": lambda a, case: replace(a, buffer=changed(a.buffer, (case.m - 1, case.n - 1), np.nan)),
    "NaN summed": lambda a, case: replace(a, sums=a.sums * np.nan),
    "a row too many": lambda a, case: replace(a, buffer=changed(a.buffer, (case.m, 0), 0.0)),
    "a tile left out": lambda a, case: replace(a, buffer=changed(a.buffer, np.s_[64:100, 128:192], 0.0)),
    "a scale forgotten": lambda a, case: replace(a, buffer=a.buffer * (2.0 if case.output == "float16" else 0.5)),
    "a flipped sign": lambda a, case: replace(a, buffer=-a.buffer, sums=-a.sums),
    "a thousandth of the sums lost": lambda a, case: replace(a, sums=0.999 * a.sums),
}


def with_definition(answer, case):
    """An answer that would be right for another case."""
    probabilities, sums, _ = definition(answer.x, answer.y, case)
    unit = FLOAT16_SCALE if case.output == "float16" else 1.0
    return replace(answer, buffer=changed(answer.buffer, np.s_[: case.m, : case.n], unit * probabilities), sums=sums)


def changed(array, where, value):
    array = array.copy()
    array[where] = value
    return array


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("name", ["SigLIP's start", "in bfloat16", "in float16", "hot"])
def test_a_wrong_answer_is_refused(answers, name, wrong):
    right = answers[name]
    assert faults(right, CASES[name]) == []
    assert faults(WRONG[wrong](right, CASES[name]), CASES[name])


@pytest.mark.parametrize(
    ("x", "y", "probabilities", "words"),
    [
        (torch.zeros(4, 8), torch.zeros(5, 8), None, "both bfloat16 or both float16"),
        (torch.zeros(4, 8).half(), torch.zeros(5, 8).bfloat16(), None, "both bfloat16 or both float16"),
        (torch.zeros(4, 12).half(), torch.zeros(5, 12).half(), None, "multiple of 8"),
        (torch.zeros(4, 8).half(), torch.zeros(5, 16).half(), None, r"\[m, d\] and \[n, d\]"),
        (torch.zeros(4, 8).half(), torch.zeros(5, 8).half(), torch.zeros(5, 4).half(), r"expected \[m, n\]"),
    ],
    ids=["float32", "two dtypes", "12 columns", "two widths", "transposed probabilities"],
)
def test_what_does_not_fit_is_refused(x, y, probabilities, words):
    from diptych.backends.torch.contrastive.triton_block import negatives_block

    with pytest.raises(ValueError, match=words):
        negatives_block(x, y, torch.ones(2), 0, probabilities)


if __name__ == "__main__":
    parts = {
        f"{name}/{part}": array
        for name, case in CASES.items()
        for part, array in vars(compute(case)).items()
        if array is not None
    }
    np.savez(sys.argv[1], **parts)
