"""Balancing data: which examples to keep so that groups of people come equally often, whatever else a picture shows.

An example has attributes s in {0, 1}^m (the groups that it shows; they may overlap) and labels y in {0, 1}^c (what else
it shows). It gets a weight q, as close to a rate η as these constraints allow, π_k being the wanted prevalence of group
k:

    representation (first order):  |E[q (s_k - π_k)]|     <= ε_R E[q]   for every group
    association (second order):    |E[q (s_k - π_k) y_r]| <= ε_D E[q]   for every group and label
    rate:                           E[q] = η,  0 <= q <= Q

The aim is that of the balancing algorithm M4 in Alabdulmohsin et al. 2024, "CLIP the Bias: How Useful is Balancing Data
in Multimodal Learning?", with which SigLIP 2 filters its data (Tschannen et al. 2025, section 2.1). This is our
reconstruction, not their code. Known to us at second hand are the two kinds of constraint, their hinge penalties of
strength V, a rate of 0.9 with weights up to about twice that, and one stochastic update of the duals for each example
as it streams by. Ours are the distance ½ (q - η)², the constraints relative to E[q] (for η <= 1 they imply those
relative to 1), and the numbers that are not published: both ε, V, and the step with its decay and averaging.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from diptych.core.data.ledger import visit
from diptych.core.data.records import Record, Source
from diptych.core.data.sources.source_view import SourceView

AVERAGED = 4
"""The duals in use are the mean of all so far, example t counting about as t³: the last quarter of a stream decides
most.
"""


@dataclass(frozen=True, kw_only=True)
class Balance:
    """How to balance.

    sampling_rate: η, the mean weight.   max_weight: Q, by default 2 η; an example is kept with probability q / Q.
    epsilon_representation, epsilon_association: ε_R and ε_D, the largest bias allowed.
    strength: V, the largest dual: what a unit of bias may cost, against ½ (q - η)².
    step_size: of the first examples; it falls as 1 / sqrt(1 + t / steady_examples).
    """

    sampling_rate: float = 0.9
    max_weight: float | None = None
    epsilon_representation: float = 0.01
    epsilon_association: float = 0.01
    strength: float = 10.0
    step_size: float = 0.03
    steady_examples: int = 10_000

    def __post_init__(self):
        if not 0 < self.sampling_rate <= self.largest_weight:
            raise ValueError(
                f"Balance needs 0 < sampling_rate <= max_weight, got {self.sampling_rate} and {self.largest_weight}."
            )
        for name in ("strength", "step_size", "steady_examples"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}.")
        for name in ("epsilon_representation", "epsilon_association"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}.")

    @property
    def largest_weight(self) -> float:
        """Q."""
        return 2 * self.sampling_rate if self.max_weight is None else self.max_weight


@dataclass(frozen=True)
class Violations:
    """The biases of weighted data, and by how much the worst one exceeds what is allowed.

    rate: E[q].   representation: float64 [m], E[q (s_k - π_k)] / E[q], the prevalence of group k less the wanted one.
    association: float64 [m, c], E[q (s_k - π_k) y_r] / E[q].   excess: 0 where every constraint holds.
    """

    rate: float
    representation: np.ndarray
    association: np.ndarray
    excess: float


class Balancer:
    """Learns the weights of a stream of examples; reads each once and remembers 2 m (c + 1) + 1 numbers.

    With a_i the biases of an example, ± (s_k - π_k) - ε_R and ± (s_k - π_k) y_r - ε_D, and duals v in [0, V] and μ that
    begin at 0:

        q = clip(η u - v·a - μ, 0, Q),   v <- clip(v + τ q a, 0, V),   μ <- μ + τ (q - η)

    Args:
        targets: π, one prevalence in (0, 1) a group.
        labels: c, may be 0 to balance the groups alone.
        config: the rest.
    """

    def __init__(self, targets: Sequence[float], labels: int, config: Balance | None = None):
        self.config = config or Balance()
        self.targets = np.asarray(targets, np.float64)
        self.labels = labels
        if self.targets.ndim != 1 or not len(self.targets) or not ((self.targets > 0) & (self.targets < 1)).all():
            raise ValueError(f"targets must be one prevalence between 0 and 1 for each group, got {targets!r}.")
        if labels < 0:
            raise ValueError(f"labels must be their number, 0 or more, got {labels}.")
        self.examples = 0
        self._duals = np.zeros(2 * len(self.targets) * (labels + 1))
        self._rate_dual = 0.0
        self._mean_duals = self._duals.copy()
        self._mean_rate_dual = 0.0

    def update(self, s, y, utility=1.0) -> np.ndarray:
        """Learn from examples, one after the other, and return the weight that each had when it came.

        Args:
            s: [m] or [n, m] of 0 and 1.
            y: [c] or [n, c] of 0 and 1.
            utility: u, how much of the rate an example deserves when nothing is to be balanced: a number or [n].

        Returns:
            q, float64 scalar or [n] in [0, Q].
        """
        config, (biases, single) = self.config, self._biases(s, y)
        wanted = config.sampling_rate * np.broadcast_to(np.asarray(utility, np.float64), len(biases))
        weights = np.empty(len(biases))
        for number, (bias, rate) in enumerate(zip(biases, wanted, strict=True)):
            weight = min(max(rate - self._duals @ bias - self._rate_dual, 0.0), config.largest_weight)
            step = config.step_size / np.sqrt(1 + self.examples / config.steady_examples)
            self._duals = np.clip(self._duals + step * weight * bias, 0.0, config.strength)
            self._rate_dual += step * (weight - config.sampling_rate)
            share = AVERAGED / (self.examples + AVERAGED)
            self._mean_duals += share * (self._duals - self._mean_duals)
            self._mean_rate_dual += share * (self._rate_dual - self._mean_rate_dual)
            self.examples += 1
            weights[number] = weight
        return weights[0] if single else weights

    def weights(self, s, y, utility=1.0) -> np.ndarray:
        """q by what has been learnt so far, learning nothing; arguments and result as for `update`."""
        biases, single = self._biases(s, y)
        wanted = self.config.sampling_rate * np.asarray(utility, np.float64)
        weights = np.clip(wanted - biases @ self._mean_duals - self._mean_rate_dual, 0.0, self.config.largest_weight)
        return weights[0] if single else weights

    def keep(self, q, rng: np.random.Generator) -> np.ndarray:
        """Whether to keep each example, bool [n]: with probability q / Q, so that the kept ones are as if weighted by
        q.
        """
        return rng.random(np.shape(q)) < np.asarray(q) / self.config.largest_weight

    def constraint_violations(self, s, y, q) -> Violations:
        """How biased examples are that have the weights q [n]; give ones for data as they are, or booleans for kept
        ones.
        """
        s, y, q = np.atleast_2d(s).astype(np.float64), np.atleast_2d(y).astype(np.float64), np.asarray(q, np.float64)
        if q.shape != (len(s),) or not q.sum() > 0:
            raise ValueError(f"constraint_violations needs one weight an example, not all 0, got shape {q.shape}.")
        pulls = q[:, None] * (s - self.targets) / q.sum()
        representation, association = pulls.sum(axis=0), pulls.T @ y
        excess = max(
            np.max(np.abs(representation)) - self.config.epsilon_representation,
            np.max(np.abs(association), initial=0.0) - self.config.epsilon_association,
            0.0,
        )
        return Violations(float(q.mean()), representation, association, float(excess))

    def state(self) -> dict[str, Any]:
        """Everything learnt, of what JSON holds exactly: a balancer that takes it goes on as this one would."""
        return {
            "examples": self.examples,
            "duals": self._duals.tolist(),
            "rate_dual": float(self._rate_dual),
            "mean_duals": self._mean_duals.tolist(),
            "mean_rate_dual": float(self._mean_rate_dual),
            "problem": self._problem(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up the state of a balancer of the same problem; raises ValueError for that of another."""
        if state["problem"] != self._problem():
            raise ValueError(
                f"The state is of another balancer, {state['problem']}, and this one is {self._problem()}. Balance "
                "anew."
            )
        self.examples = state["examples"]
        self._duals, self._rate_dual = np.array(state["duals"], np.float64), state["rate_dual"]
        self._mean_duals, self._mean_rate_dual = np.array(state["mean_duals"], np.float64), state["mean_rate_dual"]

    def _problem(self) -> dict[str, Any]:
        return {"targets": self.targets.tolist(), "labels": self.labels, **asdict(self.config)}

    def _biases(self, s, y) -> tuple[np.ndarray, bool]:
        """a of each example, [n, 2 m (c + 1)], and whether it was a single example that was given."""
        s, y = np.asarray(s, np.float64), np.asarray(y, np.float64)
        single = s.ndim == 1
        s, y = np.atleast_2d(s), y.reshape(1, -1) if single else y
        if s.shape[1:] != self.targets.shape or y.shape != (len(s), self.labels):
            raise ValueError(
                f"An example has {len(self.targets)} attributes and {self.labels} labels; got shapes {s.shape} and "
                f"{y.shape}."
            )
        labels = np.concatenate([np.ones((len(y), 1)), y], axis=1)
        allowed = np.full(self.labels + 1, self.config.epsilon_association)
        allowed[0] = self.config.epsilon_representation
        pulls = (s - self.targets)[:, :, None] * labels[:, None, :]
        return np.concatenate([pulls - allowed, -pulls - allowed], axis=1).reshape(len(s), -1), single


class BalancedSource(SourceView):
    """The records of a source that balancing keeps, each at most once, in their order; chosen when it is made.

    Records without attributes (those that show nobody) are neither balanced nor counted in a bias; of them the share η
    / Q is kept, as of the others. Records that cannot be read are left out.

    Args:
        source: is read once from end to end.
        attributes: record -> (s [m], y [c]) of 0 and 1, or None where it has no attributes; see `WordAttributes`.
        targets: the wanted prevalences among records with attributes; by default every group as often as they are on
            average.
        config: see `Balance`.
        seed: of the order in which records are learnt from and of which ones are kept.
        passes: over the records, to learn their weights.

    Attributes:
        before, after: `Violations` of the records with attributes, all of them and the kept ones.
        balancer: what was learnt.   unreadable: number of records left out.

    Raises:
        ValueError: no record has attributes, or a group is in none of them or in all.
    """

    def __init__(
        self,
        source: Source,
        attributes: Callable[[Record], tuple[np.ndarray, np.ndarray] | None],
        *,
        targets: Sequence[float] | None = None,
        config: Balance | None = None,
        seed: int = 0,
        passes: int = 2,
    ):
        super().__init__(source)
        readable, concerned, s, y = self._read(attributes)
        found = s.mean(axis=0)
        if not ((found > 0) & (found < 1)).all():
            raise ValueError(
                f"Every group must be in some of the {len(s)} records with attributes and not in all, got prevalences "
                f"{found.round(4).tolist()}. Leave such groups out, or give them other words."
            )
        wanted = [found.mean()] * len(found) if targets is None else targets
        self.balancer = Balancer(wanted, y.shape[1], config)
        rng = np.random.Generator(np.random.Philox(seed))
        for _ in range(passes):
            order = rng.permutation(len(s))
            self.balancer.update(s[order], y[order])
        weights = np.full(len(readable), self.balancer.config.sampling_rate)
        weights[concerned] = self.balancer.weights(s, y)
        kept = self.balancer.keep(weights, rng)
        self.before = self.balancer.constraint_violations(s, y, np.ones(len(s)))
        self.after = self.balancer.constraint_violations(s, y, kept[concerned])
        self._indices = readable[kept]

    def __len__(self) -> int:
        return len(self._indices)

    def origin(self, index: int) -> int:
        """The record's place in the source."""
        return int(self._indices[index])

    def record(self, index: int) -> Record:
        """As the source's own `record`."""
        return self.source.record(self.origin(index))

    def fingerprint(self) -> str:
        """Of the source and the kept records."""
        digest = hashlib.sha256(f"balanced {self.source.fingerprint()} ".encode())
        digest.update(self._indices.astype("<i8").tobytes())
        return digest.hexdigest()

    def _read(self, attributes) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Indices of the readable records, which of those have attributes, and their s and y."""
        readable: list[int] = []
        concerned: list[int] = []
        found: list[tuple[np.ndarray, np.ndarray]] = []
        for index, answer in visit(self.source, attributes):
            if answer is not None:
                concerned.append(len(readable))
                found.append(answer)
            readable.append(index)
        self.unreadable = len(self.source) - len(readable)
        if not found:
            raise ValueError(
                f"None of the {len(readable)} readable records has attributes: there is nothing to balance. Check the "
                "words."
            )
        s, y = (np.array(part, np.float64) for part in zip(*found, strict=True))
        return np.array(readable, np.int64), np.array(concerned, np.int64), s, y
