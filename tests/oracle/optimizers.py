"""AdamW, Adafactor, Lion and SGD as in big_vision's optimizer chain, on `{path: array}`.

The chain (big_vision `optax.py`): clip the gradients by their global norm, turn them into a direction u of the
optimizer's kind, then p -= s (rate u + decay p), where s in [0, 1] is the schedule. So decay does not scale with the
learning rate but does follow the schedule: the paper's rate 1e-3 and decay 1e-4 are PyTorch's and Keras's AdamW with
weight_decay 0.1.
"""

from collections.abc import Callable, Mapping

import ml_dtypes
import numpy as np

ROUNDINGS = 4
"""Of a term of a momentum in each step: of the decay, of the product, of the sum, and of what was stored before."""


def global_norm(gradients: Mapping[str, np.ndarray]) -> float:
    """The 2-norm of all gradients taken as one vector."""
    return float(np.sqrt(sum(np.square(gradient).sum() for gradient in gradients.values())))


def clip_by_global_norm(gradients: Mapping[str, np.ndarray], limit: float) -> dict[str, np.ndarray]:
    """All gradients scaled by the same factor, so that their global norm is at most `limit`."""
    factor = min(1.0, limit / max(global_norm(gradients), 1e-300))
    return {path: factor * gradient for path, gradient in gradients.items()}


def decays_kernels(path: str) -> float:
    """Weight decay's share by path: 1 for kernels; 0 for biases, norms, embeddings, probes, class tokens, scale and
    bias.
    """
    return 1.0 if path.endswith("kernel") else 0.0


class Optimizer:
    """What all share: the state by path and the step p -= s (rate u + decay p).

    Args:
        rate_share, decay_share: path -> factor of the learning rate and of the weight decay.
    """

    continuous = True
    """Whether a small change of the gradients changes the direction little."""

    def __init__(
        self,
        *,
        learning_rate: float,
        weight_decay: float = 0.0,
        rate_share: Callable[[str], float] = lambda path: 1.0,
        decay_share: Callable[[str], float] = decays_kernels,
    ):
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.rate_share, self.decay_share = rate_share, decay_share
        self.steps = 0
        self.state: dict[str, dict[str, np.ndarray]] = {}

    def step(self, weights, gradients, *, schedule: float = 1.0) -> dict[str, np.ndarray]:
        """The weights after one update."""
        self.steps += 1
        updated = {}
        for path, weight in weights.items():
            direction = self.direction(gradients[path], self.state.setdefault(path, {"path": path}))
            rate = self.learning_rate * self.rate_share(path)
            decay = self.weight_decay * self.decay_share(path)
            updated[path] = weight - schedule * (rate * direction + decay * weight)
        return updated

    def direction(self, gradient, state) -> np.ndarray:
        raise NotImplementedError

    def cancellation(self) -> float:
        """Roundings that the last update has more than other updates, because something cancelled."""
        return 0.0

    def uncertainty(self, path: str, error: np.ndarray, roundoff: float) -> np.ndarray:
        """How far the last direction of a weight may be off when its last gradient was off by `error`, entry by entry.

        Called once after each step: the errors of earlier gradients live on in the momentum, so also in a row whose
        last gradient is exactly 0, and so do the roundings of what was added up, though it may have cancelled.

        AdamW and Adafactor divide by the size of past gradients, so an entry whose gradients are mere rounding errors
        moves at the full rate in a direction that nobody can foretell. (The attention's key biases are such: a softmax
        does not see them.) Error over size, twice because the size is off as well; 4 bounds the difference of two
        directions.
        """
        return np.minimum(4.0, 2.0 * self.error_of_momentum(self.state[path], error, roundoff))

    def error_of_momentum(self, state, error, roundoff) -> np.ndarray:
        """The error of the direction's numerator over the direction's size; it moves on as the momentum does."""
        raise NotImplementedError


def _mean(decay: float, earlier, new) -> tuple[np.ndarray, np.ndarray]:
    """decay · earlier + (1 - decay) · new, and the sum of its terms' sizes, which its roundings are shares of."""
    terms = decay * earlier, (1 - decay) * new
    return terms[0] + terms[1], np.abs(terms[0]) + np.abs(terms[1])


def _relative(error, size) -> np.ndarray:
    """error / size, where no error at all is none of nothing."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(error == 0, 0.0, error / size)


class AdamW(Optimizer):
    """u = m̂ / (sqrt(v̂) + ε): Kingma & Ba 2015, algorithm 1, with the bias corrections 1 - βᵏ at update k = 1, 2,
    ...
    """

    def __init__(self, *, beta_1: float = 0.9, beta_2: float = 0.95, epsilon: float = 1e-8, **shared):
        super().__init__(**shared)
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon

    def direction(self, gradient, state):
        state["m"], state["terms"] = _mean(self.beta_1, state.get("m", 0.0), gradient)
        state["v"] = self.beta_2 * state.get("v", 0.0) + (1 - self.beta_2) * gradient**2
        m = state["m"] / (1 - self.beta_1**self.steps)
        v = state["v"] / (1 - self.beta_2**self.steps)
        state["size"] = np.sqrt(v) + self.epsilon
        return m / state["size"]

    def error_of_momentum(self, state, error, roundoff):
        state["error"], _ = _mean(self.beta_1, state.get("error", 0.0), error)
        state["error"] += ROUNDINGS * roundoff * state["terms"]
        return _relative(np.maximum(state["error"] / (1 - self.beta_1**self.steps), error), state["size"])

    def cancellation(self):
        """1 - βᵏ is off by a rounding of 1, so by 1 / (1 - βᵏ) of its own."""
        return 1 / (1 - self.beta_1**self.steps) + 1 / (1 - self.beta_2**self.steps)


class Adafactor(Optimizer):
    """The Adafactor of Zhai et al. 2022, "Scaling Vision Transformers", section 3.4, as in big_vision's optimizer.

    β = min(beta_2_cap, 1 - k^-0.8) at update k, so 0 at the first. A tensor whose second-largest axis has 32 or more
    entries keeps the means r, c of g² + 1e-30 over its two largest axes: u = g / sqrt(r/mean(r) c). Others keep all of
    it. Then m = 0.9 m + 0.1 u, without bias correction, and m is the direction. No update clipping, no parameter
    scaling. A kernel of attention is one such tensor for each head.

    Args:
        heads: path, shape -> (shape with an axis of heads, that axis), None for a weight without heads.
    """

    def __init__(
        self,
        *,
        beta_1: float = 0.9,
        beta_2_cap: float = 0.999,
        min_dim_size_to_factor: int = 32,
        heads: Callable = lambda path, shape: None,
        **shared,
    ):
        super().__init__(**shared)
        self.beta_1, self.beta_2_cap, self.min_dim_size_to_factor = beta_1, beta_2_cap, min_dim_size_to_factor
        self.heads = heads

    def direction(self, gradient, state):
        layout = self.heads(state["path"], gradient.shape)
        if layout is None:
            return self.of_one(gradient, state)
        shape, axis = layout
        of_heads = np.moveaxis(gradient.reshape(shape), axis, 0)
        states = state.setdefault("heads", [{} for _ in of_heads])
        directions = [self.of_one(head, own) for head, own in zip(of_heads, states, strict=True)]
        for kept in ("size", "m", "terms"):
            together = np.stack([np.broadcast_to(own[kept], of_heads.shape[1:]) for own in states], axis=axis)
            state[kept] = together.reshape(gradient.shape)
        return np.stack(directions, axis=axis).reshape(gradient.shape)

    def of_one(self, gradient, state):
        """The direction of a tensor that has no heads."""
        beta = min(self.beta_2_cap, 1.0 - self.steps**-0.8)
        squared = gradient**2 + 1e-30
        axes = self.factored_axes(gradient.shape)
        if axes is None:
            state["v"] = beta * state.get("v", 0.0) + (1 - beta) * squared
            state["size"] = np.sqrt(state["v"])
        else:
            second, largest = axes
            rows, columns = squared.mean(largest, keepdims=True), squared.mean(second, keepdims=True)
            state["r"] = beta * state.get("r", 0.0) + (1 - beta) * rows
            state["c"] = beta * state.get("c", 0.0) + (1 - beta) * columns
            state["size"] = np.sqrt(state["r"] / state["r"].mean(second, keepdims=True)) * np.sqrt(state["c"])
        state["m"], state["terms"] = _mean(self.beta_1, state.get("m", 0.0), gradient / state["size"])
        return state["m"]

    def error_of_momentum(self, state, error, roundoff):
        state["error"], _ = _mean(self.beta_1, state.get("error", 0.0), _relative(error, state["size"]))
        state["error"] += ROUNDINGS * roundoff * state["terms"]
        return state["error"]

    def factored_axes(self, shape) -> tuple[int, int] | None:
        """The second-largest and the largest axis, or None for a tensor that is too small; of equal axes the last
        win.
        """
        if len(shape) < 2:
            return None
        *_, second, largest = np.argsort(shape, kind="stable")
        return (int(second), int(largest)) if shape[second] >= self.min_dim_size_to_factor else None


class Lion(Optimizer):
    """u = sign(β₁ m + (1 - β₁) g), then m = β₂ m + (1 - β₂) g: Chen et al. 2023, algorithm 2."""

    continuous = False

    def __init__(self, *, beta_1: float = 0.9, beta_2: float = 0.99, **shared):
        super().__init__(**shared)
        self.beta_1, self.beta_2 = beta_1, beta_2

    def direction(self, gradient, state):
        m = state.get("m", np.zeros_like(gradient))
        state["m"], state["terms"] = _mean(self.beta_2, m, gradient)
        state["before_sign"], state["sign_terms"] = _mean(self.beta_1, m, gradient)
        return np.sign(state["before_sign"])

    def uncertainty(self, path, error, roundoff):
        """A sign is right or wrong: 2 where what it is taken of is within its error of 0, else 0."""
        state = self.state[path]
        earlier = state.get("error", np.zeros_like(error))
        state["error"] = _mean(self.beta_2, earlier, error)[0] + ROUNDINGS * roundoff * state["terms"]
        before_sign = _mean(self.beta_1, earlier, error)[0] + ROUNDINGS * roundoff * state["sign_terms"]
        return np.where((np.abs(state["before_sign"]) <= before_sign) & (before_sign > 0), 2.0, 0.0)


class SGD(Optimizer):
    """u = m with m = μ m + g: Polyak's momentum without dampening (optax's `trace`).

    In bfloat16 m is rounded when it is kept, and μ is the nearest number of bfloat16; u is not rounded.
    """

    def __init__(self, *, momentum: float = 0.9, momentum_dtype: str = "float32", **shared):
        super().__init__(**shared)
        self.kept = self.rounded if momentum_dtype == "bfloat16" else lambda m: m
        self.momentum = float(self.kept(np.asarray(momentum)))

    @staticmethod
    def rounded(m) -> np.ndarray:
        return np.asarray(m, np.float32).astype(ml_dtypes.bfloat16).astype(np.float64)

    def direction(self, gradient, state):
        terms = self.momentum * state.get("m", np.zeros_like(gradient)), gradient
        state["terms"] = np.abs(terms[0]) + np.abs(terms[1])
        m = terms[0] + terms[1]
        state["m"] = self.kept(m)
        return m

    def uncertainty(self, path, error, roundoff):
        """The gradients' own errors, for nothing divides by their size."""
        state = self.state[path]
        state["error"] = self.momentum * state.get("error", 0.0) + error + ROUNDINGS * roundoff * state["terms"]
        return state["error"]
