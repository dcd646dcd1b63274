"""Every record comes once an epoch, no batch repeats one, any place is found alone; draws follow their weights."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.core.data.records import BadExample, Caption, Record
from diptych.core.data.sampling import Order, draw, example_rng

sizes = st.integers(1, 1000)
batch_sizes = st.integers(1, 300)
seeds = st.integers(0, 2**64 - 1)

FIRST_RECORDS = [1254, 1311, 160, 1661, 283, 1176, 1054, 737]
FAR_RECORDS = [3, 4, 6, 8, 0]
FIRST_NUMBERS = [0.9911695342567973, 0.744856387803992]


def _sequence(order: Order, epochs: int) -> np.ndarray:
    batches = -(-order.size * epochs // order.batch_size)
    return np.concatenate([order.records(batch) for batch in range(batches)])[: order.size * epochs]


def _repeats(records: np.ndarray) -> int:
    return len(records) - len(set(records.tolist()))


def test_every_epoch_of_every_size_up_to_a_thousand_is_a_permutation():
    for size in range(1, 1001):
        for epoch in (0, 1):
            records = Order(size, size, 0).records(epoch)
            assert np.array_equal(np.sort(records), np.arange(size)), (size, epoch)


@settings(max_examples=60, deadline=None)
@given(sizes, st.integers(5, 300), seeds)
def test_every_record_comes_exactly_once_an_epoch_however_batches_cut_it(size, batch_size, seed):
    epochs = _sequence(Order(size, batch_size, seed), 3).reshape(3, size)
    assert np.array_equal(np.sort(epochs, axis=1), np.tile(np.arange(size), (3, 1)))


@settings(max_examples=60, deadline=None)
@given(sizes, batch_sizes, seeds)
def test_no_batch_holds_a_record_twice(size, batch_size, seed):
    batch_size = min(batch_size, max(1, size // 2))
    order = Order(size, batch_size, seed)
    batches = min(4 * size // batch_size + 2, 60)
    assert all(_repeats(order.records(batch)) == 0 for batch in range(batches))


def test_without_the_swaps_batches_across_epochs_would_repeat_records():
    order = Order(100, 40, 0)
    plain = np.concatenate([order._permuted(epoch, np.arange(100)) for epoch in range(40)])
    assert sum(_repeats(plain[start : start + 40]) for start in range(0, 4000, 40)) > 50
    assert sum(_repeats(order.records(batch)) for batch in range(100)) == 0


def test_batch_size_decides_only_the_swaps():
    one = _sequence(Order(1000, 1, 5), 2)
    many = _sequence(Order(1000, 64, 5), 2)
    assert (one != many).mean() < 0.05
    assert np.array_equal(one[:1000], many[:1000])


def test_seed_stage_and_epoch_each_change_the_order():
    first = Order(500, 50, 1).records(0)
    for other in (Order(500, 50, 2).records(0), Order(500, 50, 1, stage=1).records(0), Order(500, 50, 1).records(10)):
        assert (first == other).mean() < 0.1


def test_the_order_is_the_same_for_ever():
    """Checkpoints of older versions resume on these; a change here is a change of every run's data."""
    assert Order(1700, 8, 0).records(0).tolist() == FIRST_RECORDS
    assert Order(10, 5, 2**63, stage=2).records(10**12).tolist() == FAR_RECORDS
    assert example_rng(3, 14, attempt=1, stage=5).random(2).tolist() == FIRST_NUMBERS


def test_places_and_neighbours_are_even():
    """Counts over seeds stay within five standard deviations of what chance gives."""
    size, seed_count = 12, 4000
    orders = np.stack([Order(size, size, seed).records(0) for seed in range(seed_count)])
    places = np.stack([np.bincount(orders[:, place], minlength=size) for place in range(size)])
    expected = seed_count / size
    freedom = (size - 1) ** 2
    assert abs(((places - expected) ** 2 / expected).sum() - freedom) < 5 * np.sqrt(2 * freedom)
    pairs = np.zeros((size, size))
    np.add.at(pairs, (orders[:, :-1], orders[:, 1:]), 1)
    pairs = pairs[~np.eye(size, dtype=bool)]
    assert abs(((pairs - pairs.mean()) ** 2 / pairs.mean()).sum() / len(pairs) - 1) < 0.6


def test_a_billion_records_cost_no_more_than_a_thousand():
    order = Order(1_000_000_000, 256, 0)
    records = np.concatenate([order.records(batch) for batch in (0, 3_906_249, 10**9)])
    assert _repeats(records[:256]) == 0
    assert records.min() >= 0
    assert records.max() < 1_000_000_000
    assert records.std() > 2e8


@settings(max_examples=30, deadline=None)
@given(st.integers(8, 400), seeds, st.integers(0, 30))
def test_replacements_of_one_batch_differ_from_each_other_and_stay_in_range(size, seed, batch):
    batch_size = size // 4
    order = Order(size, batch_size, seed)
    records = [order.replacement(batch, row, attempt) for row in range(batch_size) for attempt in (1, 2)]
    assert all(0 <= record < size for record in records)
    firsts = np.array([order.replacement(batch, row, 1) for row in range(batch_size)])
    assert _repeats(firsts) == 0


@given(st.integers(1, 60), st.integers(1, 70), seeds)
def test_a_row_tries_every_record_once_before_any_again(size, batch_size, seed):
    order = Order(size, batch_size, seed)
    tried = [int(order.records(0)[0]), *(order.replacement(0, 0, attempt) for attempt in range(1, size))]
    assert sorted(tried) == list(range(size))


@pytest.mark.parametrize("wrong", [(0, 1, 0), (5, 0, 0), (5, 1, -1), (5, 1, 2**64)])
def test_impossible_orders_are_refused(wrong):
    with pytest.raises(ValueError, match="seed|size"):
        Order(*wrong)


RECORD = Record(
    "fox",
    ("first.webp", "second.webp"),
    (
        Caption("fox", "en"),
        Caption("red, animal", "en", weight=3.0),
        Caption("Fuchs", "de"),
        Caption("renard", "fr"),
        Caption("狐", "ja"),
    ),
)


def _shares(language_weights, count: int = 4000) -> tuple[Counter, Counter, Counter]:
    drawn = [draw(RECORD, example_rng(0, index), language_weights) for index in range(count)]
    counters = [reference for reference, _ in drawn], [c.language for _, c in drawn], [c.text for _, c in drawn]
    return tuple(Counter({name: number / count for name, number in Counter(values).items()}) for values in counters)


def test_without_language_weights_captions_share_by_their_own_weights():
    images, languages, texts = _shares(None)
    assert images["first.webp"] == pytest.approx(0.5, abs=0.04)
    assert texts["red, animal"] == pytest.approx(3 / 7, abs=0.04)
    assert languages["ja"] == pytest.approx(1 / 7, abs=0.03)


def test_languages_come_by_weight_and_the_rest_shares_evenly():
    _, languages, texts = _shares({"en": 0.4, "de": 0.2, "*": 0.4})
    assert languages == {
        "en": pytest.approx(0.4, abs=0.04),
        "de": pytest.approx(0.2, abs=0.04),
        "fr": pytest.approx(0.2, abs=0.04),
        "ja": pytest.approx(0.2, abs=0.04),
    }
    assert texts["red, animal"] == pytest.approx(0.3, abs=0.04)


def test_languages_without_weight_never_come():
    _, languages, _ = _shares({"de": 1, "xx": 5})
    assert languages == {"de": 1.0}
    with pytest.raises(BadExample, match="caption_language_missing"):
        draw(RECORD, example_rng(0, 0), {"xx": 1})


@pytest.mark.parametrize(
    ("record", "reason"),
    [(Record("k", (), RECORD.captions), "image_missing"), (Record("k", ("a",), ()), "caption_missing")],
)
def test_nothing_to_draw_is_a_bad_example(record, reason):
    with pytest.raises(BadExample) as caught:
        draw(record, example_rng(0, 0))
    assert caught.value.reason == reason


def test_examples_have_independent_random_numbers():
    keys = [
        (seed, index, attempt, stage)
        for seed in (0, 1)
        for index in (0, 1, 2**40)
        for attempt in (0, 1)
        for stage in (0, 1)
    ]
    streams = {
        example_rng(seed, index, attempt=attempt, stage=stage).random(4).tobytes()
        for seed, index, attempt, stage in keys
    }
    assert len(streams) == len(keys)
