"""The likeliest tokens by a decoder's exported graph: NumPy alone, as a caller in any language goes about it."""

from collections.abc import Callable, Mapping

import numpy as np

Outputs = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]
"""A graph: arrays by name -> arrays by name."""


def greedy_tokens(
    decoder: Outputs,
    shapes: Mapping[str, tuple[int | str, ...]],
    prompt_ids: np.ndarray,
    prompt_mask: np.ndarray,
    soft_tokens: np.ndarray | None = None,
    *,
    steps: int,
    called: Callable[[], None] = lambda: None,
) -> tuple[np.ndarray, np.ndarray]:
    """The next tokens int32 `[batch, steps]`, whether a text has ended or not, and the logits that they were chosen by,
    float32 `[batch, steps, vocabulary]`.

    Args:
        decoder: the graph.
        shapes: of its inputs by name.
        prompt_ids: int32 `[batch, length]`.
        prompt_mask: bool `[batch, length]`, False for padding, which stands in front.
        soft_tokens: float32 `[batch, tokens, width]`, of pictures; None for a model of texts.
        called: whenever the graph has been.
    """
    batch = len(prompt_ids)
    cache = {
        name: np.zeros((batch, 0, *map(int, shape[2:])), np.float32)
        for name, shape in shapes.items()
        if name.startswith("past_")
    }
    ids, mask, soft = prompt_ids.astype(np.int32), prompt_mask, soft_tokens
    if soft is not None:
        mask = np.concatenate([np.ones(soft.shape[:2], bool), mask], axis=1)
    prefix = mask.shape[1]
    tokens, logits = [], []
    for _ in range(steps):
        inputs = {"token_ids": ids, "token_mask": mask, **cache}
        if soft is not None:
            suffix = np.broadcast_to(np.arange(mask.shape[1]) >= prefix, mask.shape)
            inputs |= {"suffix_mask": np.ascontiguousarray(suffix), "soft_tokens": soft}
        found = decoder(inputs)
        called()
        logits.append(found["logits"])
        tokens.append(found["logits"].argmax(axis=1).astype(np.int32))
        ids = tokens[-1][:, None]
        mask = np.concatenate([mask, np.ones((batch, 1), bool)], axis=1)
        cache = {name: found[name.replace("past_", "present_")] for name in cache}
        if soft is not None:
            soft = soft[:, :0]
    return np.stack(tokens, axis=1), np.stack(logits, axis=1)
