"""The implementations of the contrastive losses: which there are, which can run, and the choice among them."""

import logging

from diptych.backends.rooms import name, room

logger = logging.getLogger("diptych")

IMPLEMENTATIONS = {
    "pallas_gpu": ("jax",),
    "pallas_tpu": ("jax",),
    "triton": ("torch",),
    "blocked": ("torch",),
    "xla": ("jax", "tensorflow"),
    "chunked": ("jax", "torch", "tensorflow"),
    "reference": ("jax", "torch", "tensorflow"),
}
"""Name -> the backends that have it. None takes the first that can run."""

WRITTEN_IN_KERAS = ("chunked", "reference")

LOSSES = {
    "sigmoid_loss": tuple(IMPLEMENTATIONS),
    "softmax_contrastive_loss": ("pallas_gpu", "pallas_tpu", "triton", "blocked", "xla", "reference"),
}
"""Loss -> the implementations that it has."""


def choose_implementation(
    implementation: str | None = None, *, loss: str = "sigmoid_loss", dtype: str = "float32", device=None
) -> str:
    """The name of the implementation that runs for embeddings of this dtype; a name given is checked, not replaced.

    Args:
        loss: a name in `LOSSES`.
        device: the framework's device; None for the one it computes on by default.

    Raises:
        ValueError: for a name that is unknown, or cannot run here, with the reason.
    """
    native = room().contrastive
    device = native.default_device() if device is None else device
    here = [known for known in LOSSES[loss] if name() in IMPLEMENTATIONS[known]]
    if implementation is None:
        return next(known for known in here if native.obstacle(known, device=device, dtype=dtype) is None)
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f"Unknown implementation {implementation!r} of {loss}: expected one of {', '.join(LOSSES[loss])}, or None "
            "to choose."
        )
    if name() not in IMPLEMENTATIONS[implementation]:
        obstacle = f"it is for {' and '.join(IMPLEMENTATIONS[implementation])}, and Keras runs on {name()}"
    elif implementation not in here:
        others = [other for other, known in LOSSES.items() if implementation in known]
        obstacle = f"it is for {' and '.join(others)} alone"
    else:
        obstacle = native.obstacle(implementation, device=device, dtype=dtype)
    if obstacle:
        raise ValueError(
            f"implementation={implementation!r} of {loss} cannot run here: {obstacle}. "
            f"On {name()} there are {', '.join(here)}; None chooses."
        )
    return implementation


def choose_for(x, implementation: str | None, loss: str) -> str:
    """The choice for the embeddings at hand, told once."""
    native, dtype = room().contrastive, x.dtype
    dtype = str(getattr(dtype, "name", dtype)).removeprefix("torch.")
    device = native.device_of(x)
    chosen = choose_implementation(implementation, loss=loss, dtype=dtype, device=device)
    if (key := (loss, chosen, str(device), dtype)) not in _reported and not native.is_compiling():
        _reported.add(key)
        logger.info("%s runs as %r on %s, %s embeddings %d wide", loss, chosen, device, dtype, x.shape[1])
    return chosen


_reported: set[tuple[str, str, str, str]] = set()


def choose_native(x, implementation: str | None, loss: str) -> str:
    """The same, of those that have a gradient and an exchange of their own."""
    chosen = choose_for(x, implementation, loss)
    if chosen in WRITTEN_IN_KERAS:
        raise ValueError(
            f"implementation={chosen!r} of {loss} is written in Keras operations and has no gradient or exchange of "
            "its own: expected one that has, or None."
        )
    return chosen
