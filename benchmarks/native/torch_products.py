"""Time on torch, and plain products to compare with; torch alone is imported: this works whatever else fails."""

import time
from collections.abc import Callable
from functools import partial

import torch

DEVICE = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
ACCELERATED = DEVICE.type != "cpu"


def wait() -> None:
    if ACCELERATED:
        torch.cuda.synchronize()


def elapsed(call: Callable[[], object], calls: int) -> float:
    """Seconds that so many calls in a row take, by the device's own events, or else by the clock."""
    if not ACCELERATED:
        start = time.perf_counter()
        for _ in range(calls):
            call()
        return time.perf_counter() - start
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    first.record()
    for _ in range(calls):
        call()
    last.record()
    torch.cuda.synchronize()
    return first.elapsed_time(last) / 1e3


def embeddings(
    size: int, width: int, dtype: str, *, positive_cosine: float = 0.15
) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit rows `[size, width]` of images and texts, drawn on the device; a pair has about this cosine."""
    generator = torch.Generator(DEVICE).manual_seed(size + width)
    x, y = (torch.randn(size, width, generator=generator, device=DEVICE) for _ in range(2))
    x = torch.nn.functional.normalize(x)
    y = torch.nn.functional.normalize(y)
    y = torch.nn.functional.normalize(positive_cosine * x + (1 - positive_cosine**2) ** 0.5 * y)
    return x.to(getattr(torch, dtype)), y.to(getattr(torch, dtype))


def product(m: int, n: int, k: int, dtype: str, layout: str = "NT", *, accumulate: bool = False) -> Callable:
    """A function that multiplies random `[m, k]` and `[k, n]`; into a float32 sum where they are to accumulate.

    A letter T of the layout says that this operand is stored transposed.
    """
    kind = getattr(torch, dtype)
    a, b = (
        torch.randn(shape[::-1] if letter == "T" else shape, device=DEVICE, dtype=kind)
        for shape, letter in (((m, k), layout[0]), ((k, n), layout[1]))
    )
    a, b = (array.T if letter == "T" else array for array, letter in zip((a, b), layout, strict=True))
    if not accumulate:
        return partial(torch.matmul, a, b)
    from diptych.backends.torch.contrastive.sweep import accumulate as add

    return partial(add, torch.zeros(m, n, device=DEVICE), a, b, first=False)


def copy(numbers: int) -> Callable:
    """A function that copies so many float32 numbers from one place to another."""
    source = torch.ones(numbers, device=DEVICE)
    return partial(torch.empty_like(source).copy_, source)


def kernels(call: Callable[[], object]) -> list[str]:
    """The names of the GPU's kernels that a call launches."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        call()
        torch.cuda.synchronize()
    return sorted({event.name for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA})
