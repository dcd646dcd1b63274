"""The whole loss by `triton` on the tests' cases, in a process with TRITON_INTERPRET=1; prints what is wrong."""

import json
from contextlib import ExitStack
from dataclasses import replace
from unittest import mock

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from diptych.backends.cases import CASES
from diptych.backends.torch.contrastive import (
    sigmoid,
    sigmoid_loss,
    softmax,
    sweep,
    triton_block,
    triton_pairs,
    triton_softmax,
)
from diptych.backends.torch.contrastive.loss import computed, multiplied
from tests.oracle.loss_judge import Answer, Problem, allowed, check, expected, problem_of

SMALL = triton_block.Config(block_m=64, block_n=64, block_k=32, num_warps=4, num_stages=1, slices=2)
# The interpreter cuts float32 off to bfloat16 instead of rounding it; its float16 is rounded.
SOFTMAX = ("square, balanced", "ragged, trained", "ragged, half way", "one, balanced")
ROUNDOFF = {"bfloat16": 2.0**-7, "float16": 2.0**-11}


def parts_of(problem: Problem, *, with_gradients: bool = True) -> tuple:
    x, y = (torch.tensor(array).to(getattr(torch, problem.dtype)) for array in (problem.x, problem.y))
    scalars = torch.tensor(list(problem.scalars.values()))
    plan = (problem.loss, "triton", problem.offset, problem.denominator or len(x))
    *parts, of_scalars = computed(x, y, scalars, *plan, with_gradients=with_gradients, largest=128)
    return *parts, *of_scalars


def answer_of(problem: Problem) -> Answer:
    return Answer(*(part.numpy() for part in parts_of(problem)))


def value_alone_differs() -> list[bool]:
    """Whether anything but the gradients is missing where none are asked for."""
    problem = problem_of(CASES["ragged, balanced"], "bfloat16")
    alone, image, text, *_ = parts_of(problem, with_gradients=False)
    return [not torch.equal(alone, parts_of(problem)[0]), image is not None, text is not None]


def wrong_cases() -> tuple[dict[str, str], int]:
    """What is wrong, by case, and how many were judged; one answer is spoilt, to see that it is found."""
    wrong, judged = {}, 0
    softmax = [(name, case, "softmax_contrastive_loss") for name, case in CASES.items() if name in SOFTMAX]
    for name, case, loss in [*((name, case, "sigmoid_loss") for name, case in CASES.items()), *softmax]:
        for dtype, roundoff in ROUNDOFF.items():
            problem = problem_of(case, dtype, loss)
            judged += 1
            try:
                check(answer_of(problem), expected(problem), allowed(problem, roundoff), who=f"{name}, {dtype}")
            except AssertionError as error:
                wrong[f"{loss}, {name}, {dtype}"] = str(error)
    problem = problem_of(CASES["ragged, balanced"], "float16")
    without = answer_of(problem)._replace(logit_scale=np.zeros(()))
    try:
        check(without, expected(problem), allowed(problem, ROUNDOFF["float16"]), who="without a scale gradient")
        wrong["without a scale gradient"] = "accepted"
    except AssertionError:
        pass
    return wrong, judged


TILES = (
    SMALL,
    replace(SMALL, block_m=128, block_n=32, block_k=64),
    replace(SMALL, block_m=32, block_n=128, block_k=16, slices=4, group_m=1),
    replace(SMALL, copy_engine=False),
)


def softmax_errors() -> list[dict[str, float]]:
    """Of the softmax's blocks with each tile, where padding, columns and offset fit none: against float64, relative."""
    rng = np.random.default_rng(3)
    x, y = (torch.tensor(rng.normal(size=(length, 48))).half() for length in (100, 203))
    x, y = (torch.nn.functional.normalize(a.float(), dim=1).half() for a in (x, y))
    scale, offset = torch.tensor([50.0]), 37
    s = x.double() @ y.double().T
    z = 50.0 * s
    z.diagonal(offset).fill_(-torch.inf)
    rows, columns = z.logsumexp(1), z.logsumexp(0)
    right = (z - rows[:, None]).exp() + (z - columns).exp()
    errors = []
    for tiles in TILES:
        found = triton_softmax.normalisers_block(x, y, scale, offset, tiles)
        weights = torch.full((103, 216), torch.nan, dtype=torch.float32)[:100, :203]
        sums = torch.empty(2, 3)
        given = (rows.float() + np.log(2.0), columns.float() + np.log(2.0))
        triton_softmax.weights_block(x, y, scale, offset, *given, weights, sums, tiles)
        errors.append(
            {
                "normalisers": max(float((a - b).abs().max()) for a, b in zip(found, (rows, columns), strict=True)),
                "weights": float((2 * weights - right).abs().max() / right.max()),
                "left out": float(weights.diagonal(offset).abs().max()),
                "sum": float(abs(2 * sums[:, 1].double().sum() - (right * s).sum()) / (right * s.abs()).sum()),
            }
        )
    return errors


def differentiated(x, y, t, b):
    loss = sigmoid_loss(x, y, logit_scale=t, logit_bias=b, implementation="triton")
    return [loss, *torch.autograd.grad(loss, (x, y, t, b))]


def leaves(width: int):
    case = replace(CASES["ragged, balanced"], width=width)
    embeddings = [torch.from_numpy(array).bfloat16() for array in case.draw()]
    return [tensor.requires_grad_() for tensor in (*embeddings, torch.tensor(10.0), torch.tensor(-2.0))]


def contract(width: int) -> dict[str, str]:
    """What torch says of the operator's promises."""
    x, y, *scalars = leaves(width)
    arguments = (x, y, torch.stack(scalars), "sigmoid_loss", "triton", 0, 131)
    operator = torch.ops.diptych.contrastive_loss_and_gradients.default
    return torch.library.opcheck(operator, arguments, test_utils=("test_schema", "test_faketensor"))


def autocast_changes() -> list[bool]:
    arguments = leaves(20)
    right = differentiated(*arguments)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = differentiated(*arguments)
    return [not torch.equal(a, b) for a, b in zip(got, right, strict=True)]


class Launches(TorchDispatchMode):
    """Counts what a GPU would be launched for: Triton's kernels, the library's products, torch's operations on
    memory.
    """

    QUIET = (
        "empty",
        "new_empty",
        "view",
        "slice",
        "select",
        "transpose",
        "permute",
        "alias",
        "detach",
        "unbind",
        "expand",
    )

    def __init__(self):
        super().__init__()
        self.launched: list[str] = []

    def __torch_dispatch__(self, function, types, positional=(), named=None):
        name = function.name().removeprefix("aten::")
        if not name.startswith(self.QUIET):
            self.launched.append(name)
        return function(*positional, **(named or {}))

    def __enter__(self):
        self.patches = ExitStack()
        for module, name in (
            (triton_block, "negatives_kernel"),
            (triton_pairs, "pairs_kernel"),
            (triton_pairs, "totals_kernel"),
        ):
            self.patches.enter_context(mock.patch.object(module, name, Launcher(getattr(module, name), name, self)))
        accumulate = sweep.accumulate

        def product(*positional, **named):
            self.launched.append("product")
            with no_dispatch():
                accumulate(*positional, **named)

        self.patches.enter_context(mock.patch.object(sweep, "accumulate", product))
        return super().__enter__()

    def __exit__(self, *error):
        self.patches.close()
        return super().__exit__(*error)


class Launcher:
    """A kernel that is noted when it is launched."""

    def __init__(self, kernel, name: str, launches: Launches):
        self.kernel, self.name, self.launches = kernel, name, launches

    def __getitem__(self, grid):
        def launch(*positional, **named):
            self.launches.launched.append(self.name)
            with no_dispatch():
                return self.kernel[grid](*positional, **named)

        return launch


def no_dispatch():
    return torch._C._DisableTorchDispatch()


def launches() -> list[str]:
    """Of value and gradients of a batch that is one block, backward pass included."""
    x, y, *scalars = (leaf.detach() for leaf in leaves(64))
    cotangent = torch.tensor(1.0)
    with Launches() as counted:
        stacked = torch.stack(scalars)
        plan = ("sigmoid_loss", "triton", 0, len(x))
        _, *gradients = computed(x, y, stacked, *plan, with_gradients=True)
        with torch.no_grad():
            multiplied(gradients, cotangent, (x, y, stacked), "sigmoid_loss")
    return counted.launched


def programs_of_a_block() -> dict[str, list[int]]:
    """How many share it on a GPU of 6 multiprocessors: on all of them, and with 4 left to transfers."""
    x, y = (leaf.detach() for leaf in leaves(64)[:2])
    scalars, of_normalisers = torch.tensor([10.0, -2.0]), []

    def noted(*given, **named):
        of_normalisers.append(len(given[5]))

    with mock.patch.object(triton_block, "multiprocessors", return_value=6):
        swept = [sigmoid.triton(scalars, False, None, x, y, 0, left_free=left) for left in (0, 4)]
        with mock.patch.object(triton_softmax, "launch", noted):
            for left in (0, 4):
                softmax.triton_normalisers(scalars[0], None, x, y, 0, left_free=left)
    return {"sigmoid": [len(part.sums) for part in swept], "normalisers": of_normalisers}


def main() -> None:
    triton_block.CONFIGS[90] = SMALL
    torch.use_deterministic_algorithms(True, warn_only=True)  # which fills new memory with NaN
    wrong, judged = wrong_cases()
    report = {
        "wrong": wrong,
        "judged": judged,
        "contract": {width: contract(width) for width in (20, 64)},
        "value_alone_differs": value_alone_differs(),
        "autocast_changes": autocast_changes(),
        "launches": launches(),
        "softmax_errors": softmax_errors(),
        "programs": programs_of_a_block(),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
