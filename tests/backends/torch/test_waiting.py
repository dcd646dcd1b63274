"""A torch step asks the device for no number: the host goes on while the device computes."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from diptych.core.training.optimizers import OPTIMIZERS
from diptych.core.training.schedules import Cosine
from tests.backends.test_step import batch, build


class NoNumberIsRead(TorchDispatchMode):
    """Raises where a tensor's value becomes a Python number, as in `if tensor`, `float(tensor)` and `tensor.item()`."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten._local_scalar_dense.default:
            raise AssertionError("The step waits for the device.")
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_step_does_not_wait(optimizer):
    schedule = Cosine(1e-3, batch_size=8, total_examples=80, warmup_examples=16)
    _, built, _, step = build(optimizer, rate=schedule, ema=0.9, clip_norm=1.0, micro_batches=2)
    with NoNumberIsRead():
        logs = [step(batch(seed)) for seed in range(2)]
    assert all(bool(log["finite"]) for log in logs)
    assert int(built.iterations.value) == 2


@pytest.mark.parametrize("read", [bool, float, torch.Tensor.item])
def test_a_number_that_is_read_is_noticed(read):
    with NoNumberIsRead(), pytest.raises(AssertionError, match="waits"):
        read(torch.ones(()))
