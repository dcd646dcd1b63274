"""Run in a process of its own with TRITON_INTERPRET=1: the whole loss by `triton` on the tests' cases; prints what was
wrong.
"""

import json

import numpy as np
import torch

from diptych.backends.cases import CASES
from diptych.backends.torch.sigmoid_loss import sweep, triton_block
from diptych.backends.torch.sigmoid_loss.loss import join
from tests.oracle.loss_judge import Answer, Problem, allowed, check, expected, problem_of

SMALL = triton_block.Config(block_m=64, block_n=64, block_k=32, num_warps=4, num_stages=1, slices=2)
# The interpreter cuts float32 off to bfloat16 instead of rounding it; its float16 is rounded.
ROUNDOFF = {"bfloat16": 2.0**-7, "float16": 2.0**-11}


def answer_of(problem: Problem, largest: int = 128) -> Answer:
    x, y = (torch.tensor(array).to(getattr(torch, problem.dtype)) for array in (problem.x, problem.y))
    t, b = torch.tensor(problem.logit_scale), torch.tensor(problem.logit_bias)
    swept = sweep.triton(x, y, torch.stack([t, b]), problem.offset, largest=largest)
    forward = sweep.triton(x, y, torch.stack([t, b]), problem.offset, largest=largest, with_gradients=False)
    assert torch.equal(forward.sums, swept.sums)
    assert forward.image is None
    parts = join(swept, x, y, t, b, offset=problem.offset, denominator=problem.denominator or len(x))
    return Answer(*(part.numpy() for part in parts))


def main() -> None:
    triton_block.CONFIGS[90] = SMALL
    wrong, judged = {}, 0
    for name, case in CASES.items():
        for dtype, roundoff in ROUNDOFF.items():
            problem = problem_of(case, dtype)
            judged += 1
            try:
                check(answer_of(problem), expected(problem), allowed(problem, roundoff), who=f"{name}, {dtype}")
            except AssertionError as error:
                wrong[f"{name}, {dtype}"] = str(error)
    problem = problem_of(CASES["ragged, balanced"], "float16")
    without = answer_of(problem)._replace(logit_scale=np.zeros(()))
    try:
        check(without, expected(problem), allowed(problem, ROUNDOFF["float16"]), who="without a scale gradient")
        wrong["without a scale gradient"] = "accepted"
    except AssertionError:
        pass
    print(json.dumps({"wrong": wrong, "judged": judged}))


if __name__ == "__main__":
    main()
