"""The factor in [0, 1] on rate and decay, in examples, and the moving average of the weights."""

import math


def warmup_cosine(examples_seen: int, *, total_examples: int, warmup_examples: int = 0) -> float:
    """½ (1 + cos(π progress)) min(1, seen / warm-up), with progress = clip((seen - warm-up) / (total - warm-up), 0, 1).

    Evaluated with the examples seen before the update, so the first update of a run with warm-up has the factor 0.
    """
    progress = (examples_seen - warmup_examples) / max(total_examples - warmup_examples, 1)
    factor = 0.5 * (1.0 + math.cos(math.pi * min(1.0, max(0.0, progress))))
    return factor * min(1.0, examples_seen / warmup_examples) if warmup_examples else factor


def moving_average(average, weights, *, decay: float):
    """e = decay e + (1 - decay) p for each path, with the weights after the update."""
    return {path: decay * average[path] + (1.0 - decay) * weights[path] for path in weights}
