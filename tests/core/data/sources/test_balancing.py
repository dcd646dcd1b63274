"""Balancing meets its constraints, disturbs nothing more than it must, and goes on exactly where it stopped."""

import json
import pickle

import numpy as np
import pytest

from diptych.core.data.records import BadExample, Caption, Record, Source
from diptych.core.data.sources.balancing import Balance, BalancedSource, Balancer
from diptych.core.data.sources.word_attributes import WordAttributes

EXAMPLES = 8000
SAMPLING = 0.5 * 1.15 / EXAMPLES**0.5
"""Standard deviation of a prevalence among EXAMPLES, with weights whose mean square is 1.3 times their squared mean."""
ROUNDING = SAMPLING
"""Of a second pass over the same examples; one pass has as much chance in it as fresh examples have."""
CHANCE = 3 * SAMPLING


def biased(seed: int, examples: int = EXAMPLES):
    """Group 0 in 30% and group 1 in 55% of examples; label 0 doubled by group 0, label 1 nearly absent from it, label 2
    free.
    """
    rng = np.random.default_rng(seed)
    s = (rng.random((examples, 2)) < (0.3, 0.55)).astype(float)
    chances = np.where(s[:, :1] > 0, (0.6, 0.05, 0.5), (0.3, 0.3, 0.5))
    return s, (rng.random((examples, 3)) < chances).astype(float)


def unbiased(seed: int, examples: int = EXAMPLES):
    rng = np.random.default_rng(seed)
    return (rng.random((examples, 2)) < 0.5).astype(float), (rng.random((examples, 3)) < (0.3, 0.1, 0.5)).astype(float)


def balanced(s, y, config=None, targets=(0.5, 0.5), passes=2) -> Balancer:
    balancer = Balancer(targets, y.shape[1], config)
    for number in range(passes):
        order = np.random.default_rng(number).permutation(len(s))
        balancer.update(s[order], y[order])
    return balancer


def check_balanced(s, y, q, *, target, rate, epsilon, largest, noise=ROUNDING):
    """Raise AssertionError unless the weights q balance, by prevalences within and without each label; no code
    shared.
    """
    assert q.shape == (len(s),)
    assert q.min() >= 0, "a negative weight"
    assert q.max() <= largest + 1e-9, "a weight beyond the largest"
    assert abs(q.mean() - rate) < 0.03, f"the rate is {q.mean():.3f}, not {rate}"
    for group in range(s.shape[1]):
        prevalence = np.average(s[:, group], weights=q)
        assert abs(prevalence - target) <= epsilon + noise, f"group {group} has prevalence {prevalence:.3f}"
        for label in range(y.shape[1]):
            having = y[:, label] == 1
            share, inside = q[having].sum() / q.sum(), np.average(s[having, group], weights=q[having])
            bias = share * (inside - target)
            assert abs(bias) <= epsilon + noise, f"group {group} is {inside:.3f} of label {label}, bias {bias:.3f}"


STANDARD = {"target": 0.5, "rate": 0.9, "epsilon": 0.01, "largest": 1.8}


@pytest.mark.parametrize("seed", range(3))
def test_constraints_hold_after_a_pass_or_two(seed):
    s, y = biased(seed)
    fresh = biased(seed + 100)
    balancer = balanced(s, y, passes=1)
    check_balanced(s, y, balancer.weights(s, y), **STANDARD, noise=CHANCE)
    balancer = balanced(s, y, passes=2)
    check_balanced(s, y, balancer.weights(s, y), **STANDARD)
    check_balanced(*fresh, balancer.weights(*fresh), **STANDARD, noise=CHANCE)


def _wrong_sign(s, y):
    balancer = balanced(s, y)
    size = len(balancer._mean_duals) // 2
    balancer._mean_duals = np.concatenate([balancer._mean_duals[size:], balancer._mean_duals[:size]])
    return balancer.weights(s, y)


WRONG = {
    "data as they are": lambda s, y: np.full(len(s), 0.9),
    "the wrong sign": _wrong_sign,
    "groups alone, without associations": lambda s, y: balanced(s, y[:, :0]).weights(s, y[:, :0]),
    "associations alone": lambda s, y: balanced(s, y, Balance(epsilon_representation=1.0)).weights(s, y),
    "another target": lambda s, y: balanced(s, y, targets=(0.4, 0.4)).weights(s, y),
    "too weak": lambda s, y: balanced(s, y, Balance(strength=0.1)).weights(s, y),
    "half the rate": lambda s, y: 0.5 * balanced(s, y).weights(s, y),
    "weights of other examples": lambda s, y: balanced(s, y).weights(s, y)[::-1],
    "nothing kept of one group": lambda s, y: 0.9 * (s[:, 0] == 0) / np.mean(s[:, 0] == 0),
    "not numbers": lambda s, y: np.full(len(s), np.nan),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_the_checker_refuses(wrong):
    s, y = biased(0)
    with pytest.raises(AssertionError):
        check_balanced(s, y, WRONG[wrong](s, y), **STANDARD)


def test_unbiased_data_are_left_alone():
    s, y = unbiased(0)
    weights = balanced(s, y).weights(s, y)
    assert abs(weights.mean() - 0.9) < 0.01
    assert np.abs(weights - 0.9).mean() < 0.06
    s, y = biased(0)
    assert np.abs(balanced(s, y).weights(s, y) - 0.9).mean() > 0.3, "and biased ones are not"


@pytest.mark.parametrize("rate", [0.3, 0.6, 0.9])
def test_the_mean_weight_is_the_rate_and_the_kept_share_is_rate_over_largest(rate):
    s, y = biased(2)
    balancer = balanced(s, y, Balance(sampling_rate=rate))
    weights = balancer.weights(s, y)
    check_balanced(s, y, weights, **STANDARD | {"rate": rate, "largest": 2 * rate})
    kept = balancer.keep(weights, np.random.default_rng(0))
    assert kept.dtype == bool
    assert kept.mean() == pytest.approx(0.5, abs=0.03)
    one = Balance(sampling_rate=0.4, max_weight=1.0)
    kept = (balancer := balanced(s, y, one)).keep(balancer.weights(s, y), np.random.default_rng(0))
    assert kept.mean() == pytest.approx(0.4, abs=0.03)


def test_greater_strength_binds_more():
    s, y = biased(0)
    excesses = []
    for strength in (0.02, 0.1, 0.5, 5.0):
        balancer = balanced(s, y, Balance(strength=strength))
        excesses.append(balancer.constraint_violations(s, y, balancer.weights(s, y)).excess)
    assert np.all(np.diff(excesses) < 0), excesses
    assert excesses[0] > 0.05
    assert excesses[-1] < ROUNDING


def test_a_wider_epsilon_disturbs_less():
    s, y = biased(0)
    moved = [
        np.abs(balanced(s, y, Balance(epsilon_association=e, epsilon_representation=e)).weights(s, y) - 0.9).mean()
        for e in (0.0, 0.03, 0.1, 1.0)
    ]
    assert np.all(np.diff(moved) < 0), moved
    assert moved[-1] < 0.01


def test_utility_moves_weight_to_what_deserves_it():
    s, y = unbiased(3)
    useful = np.random.default_rng(0).random(len(s)) < 0.5
    utility = np.where(useful, 1.2, 0.8)
    balancer = Balancer((0.5, 0.5), 3)
    balancer.update(s, y, utility)
    weights = balancer.weights(s, y, utility)
    assert weights[useful].mean() - weights[~useful].mean() == pytest.approx(0.9 * 0.4, abs=0.03)
    assert weights.mean() == pytest.approx(0.9, abs=0.02)


def test_violations_are_those_of_the_definition():
    s, y = biased(4, 500)
    q = np.random.default_rng(4).random(500)
    found = Balancer((0.4, 0.6), 3).constraint_violations(s, y, q)
    assert found.rate == pytest.approx(q.mean())
    worst = 0.0
    for group, target in enumerate((0.4, 0.6)):
        expected = sum(w * (x - target) for w, x in zip(q, s[:, group], strict=True)) / sum(q)
        assert found.representation[group] == pytest.approx(expected)
        worst = max(worst, abs(expected))
        for label in range(3):
            pulls = [w * (x - target) * z for w, x, z in zip(q, s[:, group], y[:, label], strict=True)]
            assert found.association[group, label] == pytest.approx(sum(pulls) / sum(q))
            worst = max(worst, abs(sum(pulls) / sum(q)))
    assert found.excess == pytest.approx(worst - 0.01)


def test_one_at_a_time_equals_chunks_and_survives_being_saved():
    s, y = biased(5, 400)
    whole, single, resumed = (Balancer((0.5, 0.5), 3) for _ in range(3))
    expected = whole.update(s, y)
    assert [single.update(s[i], y[i]) for i in range(400)] == expected.tolist()
    first = resumed.update(s[:150], y[:150])
    state = json.loads(json.dumps(resumed.state()))
    resumed.update(unbiased(0)[0], unbiased(0)[1])
    resumed = Balancer((0.5, 0.5), 3)
    resumed.restore(state)
    assert np.concatenate([first, resumed.update(s[150:], y[150:])]).tolist() == expected.tolist()
    assert resumed.state() == whole.state() == single.state()
    assert resumed.weights(s[0], y[0]) == pytest.approx(whole.weights(s, y)[0], rel=1e-12)


def test_the_state_of_another_problem_is_refused():
    state = Balancer((0.5, 0.5), 3).state()
    for other in (Balancer((0.5, 0.4), 3), Balancer((0.5, 0.5), 2), Balancer((0.5, 0.5), 3, Balance(strength=1.0))):
        with pytest.raises(ValueError, match="another balancer"):
            other.restore(state)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Balance(sampling_rate=0.9, max_weight=0.5), "sampling_rate <= max_weight"),
        (lambda: Balance(sampling_rate=0.0), "0 < sampling_rate"),
        (lambda: Balance(strength=0.0), "strength must be positive"),
        (lambda: Balance(epsilon_association=-0.1), "epsilon_association must not be negative"),
        (lambda: Balancer((0.5, 1.0), 1), "between 0 and 1"),
        (lambda: Balancer((), 1), "between 0 and 1"),
        (lambda: Balancer((0.5,), -1), "0 or more"),
        (lambda: Balancer((0.5, 0.5), 1).update([1, 0], [1, 0]),
         r"2 attributes and 1 labels; got shapes \(1, 2\) and \(1, 2\)"),
        (lambda: Balancer((0.5,), 1).update([[1], [0]], [[1]]), "got shapes"),
        (lambda: Balancer((0.5,), 1).constraint_violations([[1]], [[1]], [0.0]), "not all 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_balanced_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


class Sentences:
    """A record a caption, in English; None stands for a record that cannot be read."""

    def __init__(self, texts):
        self.texts = list(texts)

    def __len__(self):
        return len(self.texts)

    def record(self, index):
        if self.texts[index] is None:
            raise BadExample("broken", str(index))
        return Record(key=str(index), images=(index,), captions=(Caption(self.texts[index], "en"),))

    def read(self, reference):
        return str(reference).encode()

    def fingerprint(self):
        return f"sentences {len(self.texts)}"


WORDS = WordAttributes({"women": ["woman", "women"], "men": ["man", "men"]}, {"nurse": ["nurse"], "pilot": ["pilot"]})


@pytest.fixture(scope="module")
def sentences():
    """3 of 10 people are women, most nurses are women and most pilots are men; every fourth sentence is about
    nobody.
    """
    rng = np.random.default_rng(0)
    texts: list[str | None] = []
    for number in range(6000):
        woman = rng.random() < 0.3
        work = rng.choice(["nurse", "pilot", "person"], p=(0.4, 0.1, 0.5) if woman else (0.1, 0.4, 0.5))
        texts.append("a tree" if number % 4 == 0 else f"A {'woman' if woman else 'man'}: {work}")
    texts[5] = None
    return Sentences(texts)


def test_a_balanced_source_holds_balanced_records_of_the_source(sentences):
    source = BalancedSource(sentences, WORDS, seed=1)
    assert isinstance(source, Source)
    assert (source.before.excess, source.unreadable) == (pytest.approx(0.2, abs=0.05), 1)
    kept = [source.record(index) for index in range(len(source))]
    keys = [int(record.key) for record in kept]
    assert keys == sorted(set(keys)), "a record comes at most once, in its order"
    texts = [record.captions[0].text for record in kept]
    women, men = (sum(f"A {who}:" in text for text in texts) for who in ("woman", "man"))
    assert abs(women / (women + men) - 0.5) < 0.04
    for work in ("nurse", "pilot"):
        women, men = (sum(f"A {who}: {work}" == text for text in texts) for who in ("woman", "man"))
        assert abs(women - men) / len(kept) < 0.03, f"{women} women and {men} men among those with {work}"
    assert sum(text == "a tree" for text in texts) / 1500 == pytest.approx(0.5, abs=0.05), (
        "those about nobody at the same rate"
    )
    assert source.after.excess < 0.02
    assert source.read(kept[0].images[0]) == kept[0].key.encode()


def test_which_records_are_kept_depends_on_the_seed_alone(sentences):
    one, same, other = (BalancedSource(sentences, WORDS, seed=seed) for seed in (1, 1, 2))
    keys = [[source.record(index).key for index in range(len(source))] for source in (one, same, other)]
    assert keys[0] == keys[1]
    assert keys[0] != keys[2]
    assert one.fingerprint() == same.fingerprint()
    assert len({one.fingerprint(), other.fingerprint(), sentences.fingerprint()}) == 3
    copy = pickle.loads(pickle.dumps(one))
    assert [copy.record(index).key for index in range(len(copy))] == keys[0]


def test_a_source_without_both_kinds_is_refused():
    with pytest.raises(ValueError, match="nothing to balance"):
        BalancedSource(Sentences(["a tree"] * 5), WORDS)
    with pytest.raises(ValueError, match="in some of the 5 records"):
        BalancedSource(Sentences(["a man"] * 5), WORDS)
