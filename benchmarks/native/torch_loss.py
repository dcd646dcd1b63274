"""The sigmoid loss on torch for the benchmark: ours, the plain one, and other people's; each is timed through
autograd.
"""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

import torch
import torch.nn.functional as F

from diptych import backends
from diptych.backends.torch import sigmoid_loss as native
from diptych.backends.torch.sigmoid_loss import sweep

DEVICE = native.default_device()
ACCELERATED = DEVICE.type != "cpu"
KNOWS_ITS_MEMORY = ACCELERATED


def device_name() -> str | None:
    return backends.device_name()


def to_device(array, dtype: str):
    return torch.from_numpy(array).to(DEVICE, getattr(torch, dtype))


def contenders(dtype: str, width: int, peers: bool) -> dict[str, Callable]:
    """Name -> function of (x, y, t, b) that returns the loss and its four gradients."""
    losses = {
        name: partial(_ours, name)
        for name, of in backends.IMPLEMENTATIONS.items()
        if "torch" in of and name != "reference" and not native.obstacle(name, device=DEVICE, dtype=dtype)
    }
    losses["naive"] = _naive
    if peers:
        losses["naive, torch.compile"] = torch.compile(_naive)
        losses |= _peers(dtype)
    return {name: partial(_differentiate, loss) for name, loss in losses.items()}


def explicit_gradients(name: str, x, y, t, b):
    """Ours in float32, as they are before they take the embeddings' dtype; None for what has none."""
    if name not in ("triton", "blocked"):
        return None
    return native.sigmoid_loss_and_gradients(x, y, logit_scale=t, logit_bias=b, implementation=name)


def _ours(name, x, y, t, b):
    return backends.sigmoid_loss(x, y, logit_scale=t, logit_bias=b, implementation=name)


def _naive(x, y, t, b):
    labels = 2 * torch.eye(len(x), device=x.device, dtype=x.dtype) - 1
    logits = t.to(x.dtype) * x @ y.T + b.to(x.dtype)
    return -F.logsigmoid(labels * logits).sum() / len(x)


def _peers(dtype: str) -> dict[str, Callable]:
    found: dict[str, Callable] = {}
    if find_spec("open_clip"):
        from open_clip.loss import SigLipLoss

        loss = SigLipLoss()

        def open_clip(x, y, t, b):
            return loss(x, y, t.to(x.dtype), b.to(x.dtype))

        found |= {"open_clip": open_clip, "open_clip, torch.compile": torch.compile(open_clip)}
    if find_spec("siglip_kernel") and ACCELERATED and dtype == "bfloat16":
        from siglip_kernel import fused_siglip_loss

        def siglip_kernel(x, y, t, b):
            return fused_siglip_loss(x, y, t.log(), b, backend="chunked_bf16")

        found["siglip-kernel"] = siglip_kernel
    return found


def _differentiate(loss, *arguments):
    leaves = [argument.detach().requires_grad_() for argument in arguments]
    value = loss(*leaves)
    return value.detach(), *torch.autograd.grad(value, leaves)


def wait(result) -> None:
    if ACCELERATED:
        torch.cuda.synchronize()


def extra_bytes(function, arguments) -> int:
    """The most memory in use beside arguments and results; on an accelerator."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = function(*arguments)
    torch.cuda.synchronize()
    kept = sum(part.nbytes for part in result)
    return torch.cuda.max_memory_allocated() - before - kept


def out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError)


def product(m: int, n: int, k: int, dtype: str, *, accumulate: bool = False) -> Callable:
    """A function that multiplies random `[m, k]` and `[k, n]`; into a float32 sum where they are to accumulate."""
    a, b = (torch.randn(shape, device=DEVICE, dtype=getattr(torch, dtype)) for shape in ((m, k), (n, k)))
    total = torch.zeros(m, n, device=DEVICE)

    return partial(sweep.accumulate, total, a, b.T, first=False) if accumulate else partial(torch.matmul, a, b.T)
