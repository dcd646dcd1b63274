"""Tables of names: both ways without losing a bit, as the libraries compute, with refusals of what misfits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.core.weights.mapping import (
    CONV,
    FLAT_PATCHES,
    FLAT_PATCHES_TRANSPOSED,
    LEADING_AXIS,
    SAME,
    SQUARE_GRID,
    STACKED,
    STACKED_TRANSPOSED,
    TRANSPOSED,
    Layout,
    Rule,
    Table,
    WeightsMismatch,
    heads_in,
    heads_out,
    split,
    stacked_layers,
)
from tests.core.weights.arrays import assert_same
from tests.memory_weights import MemoryWeights

SIZES = st.integers(1, 4)
WIDTH, HEADS, HEAD = 6, 3, 2
SPLIT_FUSED = split(TRANSPOSED, 1, 2)

# layout, the shapes of theirs and of ours; w, o, n, p are drawn
CASES = {
    "same": (SAME, lambda w, o, n, p: [(w, o)], lambda w, o, n, p: [(w, o)]),
    "transposed": (TRANSPOSED, lambda w, o, n, p: [(o, w)], lambda w, o, n, p: [(w, o)]),
    "stacked": (STACKED, lambda w, o, n, p: [(o,)] * n, lambda w, o, n, p: [(n * o,)]),
    "stacked kernels": (STACKED_TRANSPOSED, lambda w, o, n, p: [(o, w)] * n, lambda w, o, n, p: [(w, n * o)]),
    "convolution": (CONV, lambda w, o, n, p: [(o, n, p, w)], lambda w, o, n, p: [(p, w, n, o)]),
    "leading axis": (LEADING_AXIS, lambda w, o, n, p: [(1, w, o)], lambda w, o, n, p: [(w, o)]),
    "leading axis of a scalar": (LEADING_AXIS, lambda w, o, n, p: [(1,)], lambda w, o, n, p: [()]),
    "square grid": (SQUARE_GRID, lambda w, o, n, p: [(n * n, w)], lambda w, o, n, p: [(n, n, w)]),
    "flat patches": (FLAT_PATCHES, lambda w, o, n, p: [(3 * p * p, o)], lambda w, o, n, p: [(p, p, 3, o)]),
    "flat patches in torch": (
        FLAT_PATCHES_TRANSPOSED,
        lambda w, o, n, p: [(o, 3 * p * p)],
        lambda w, o, n, p: [(p, p, 3, o)],
    ),
    "split": (split(TRANSPOSED, 1, 2), lambda w, o, n, p: [(3 * o, w)], lambda w, o, n, p: [(w, o), (w, 2 * o)]),
    "split biases": (split(SAME, 1, 2), lambda w, o, n, p: [(3 * o,)], lambda w, o, n, p: [(o,), (2 * o,)]),
    "heads out": (heads_out(HEADS), lambda w, o, n, p: [(w, HEADS, o)] * n, lambda w, o, n, p: [(w, n * HEADS * o)]),
    "heads of biases": (heads_out(HEADS), lambda w, o, n, p: [(HEADS, o)] * n, lambda w, o, n, p: [(n * HEADS * o,)]),
    "heads in": (heads_in(HEADS), lambda w, o, n, p: [(HEADS, o, w)], lambda w, o, n, p: [(HEADS * o, w)]),
    "stacked layers": (
        stacked_layers(heads_out(HEADS)),
        lambda w, o, n, p: [(p, w, HEADS, o)] * n,
        lambda w, o, n, p: [(w, n * HEADS * o)] * p,
    ),
}


def numbered(shapes) -> list[np.ndarray]:
    """Arrays in which no value occurs twice."""
    sizes = [int(np.prod(shape)) for shape in shapes]
    starts = np.cumsum([0, *sizes])
    return [
        np.arange(start, start + size, dtype=np.float32).reshape(shape)
        for start, size, shape in zip(starts, sizes, shapes, strict=False)
    ]


def assert_two_way(layout: Layout, theirs_shapes, ours_shapes) -> None:
    for first, second, there, back in (
        (theirs_shapes, ours_shapes, layout.to_ours, lambda x: layout.to_theirs(x, len(theirs_shapes))),
        (ours_shapes, theirs_shapes, lambda x: layout.to_theirs(x, len(theirs_shapes)), layout.to_ours),
    ):
        given = numbered(first)
        moved = there(given)
        assert [array.shape for array in moved] == second
        assert_same(dict(enumerate(back(moved))), dict(enumerate(given)))


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=25, deadline=None)
@given(w=SIZES, o=SIZES, n=SIZES, p=SIZES)
def test_every_layout_comes_back_bit_for_bit(name, w, o, n, p):
    layout, theirs, ours = CASES[name]
    assert_two_way(layout, theirs(w, o, n, p), ours(w, o, n, p))


@pytest.mark.parametrize(
    "wrong",
    [
        Layout(TRANSPOSED.to_ours, SAME.to_theirs),
        Layout(lambda arrays: [arrays[0].reshape(3, 3).T], lambda arrays, _: [arrays[0].reshape(3, 3)]),
        Layout(lambda arrays: [arrays[0] * 0], lambda arrays, _: [arrays[0]]),
    ],
)
def test_a_layout_that_is_not_two_way_is_noticed(wrong):
    with pytest.raises(AssertionError):
        assert_two_way(wrong, [(3, 3)], [(3, 3)])


def test_layouts_mean_what_the_libraries_compute():
    rng = np.random.default_rng(0)
    x, patch = rng.normal(size=WIDTH), rng.normal(size=(2, 2, 3))
    query, key, value = rng.normal(size=(3, WIDTH, WIDTH))  # torch: [out, in]
    (fused,) = STACKED_TRANSPOSED.to_ours([query, key, value])
    np.testing.assert_allclose(x @ fused, np.concatenate([query @ x, key @ x, value @ x]))
    query_kernel, key_value_kernel = SPLIT_FUSED.to_ours([np.concatenate([query, key, value])])
    np.testing.assert_allclose(x @ query_kernel, query @ x)
    np.testing.assert_allclose(x @ key_value_kernel, np.concatenate([key @ x, value @ x]))

    conv = rng.normal(size=(WIDTH, 3, 2, 2))  # torch: [out, in, height, width]
    (kernel,) = CONV.to_ours([conv])
    np.testing.assert_allclose(np.einsum("rci,rcio->o", patch, kernel), np.einsum("rci,oirc->o", patch, conv))
    linear = rng.normal(size=(WIDTH, 12))  # NaFlex: a patch is flattened by row, column, channel
    (kernel,) = FLAT_PATCHES_TRANSPOSED.to_ours([linear])
    np.testing.assert_allclose(np.einsum("rci,rcio->o", patch, kernel), linear @ patch.reshape(-1))
    (kernel,) = FLAT_PATCHES.to_ours([linear.T])
    np.testing.assert_allclose(np.einsum("rci,rcio->o", patch, kernel), linear @ patch.reshape(-1))

    by_head = rng.normal(size=(WIDTH, HEADS, HEAD))  # flax and Keras
    (kernel,) = heads_out(HEADS).to_ours([by_head])
    np.testing.assert_allclose((x @ kernel).reshape(HEADS, HEAD), np.einsum("w,whd->hd", x, by_head))
    (kernel,) = heads_in(HEADS).to_ours([by_head.transpose(1, 2, 0)])
    heads = rng.normal(size=(HEADS, HEAD))
    np.testing.assert_allclose(heads.reshape(-1) @ kernel, np.einsum("hd,whd->w", heads, by_head))


TABLE = Table(
    [
        Rule("head/kernel", "head.weight", TRANSPOSED),
        Rule(["pool/query", "pool/key_value"], "pool.in_proj", split(TRANSPOSED, 1, 2)),
        Rule("block/qkv", [f"block.{part}.weight" for part in "qkv"], STACKED_TRANSPOSED),
        Rule("embedding", "embedding.weight"),
    ],
    ignored=("*.position_ids",),
)
OURS = {
    "head/kernel": (4, 2),
    "pool/query": (4, 4),
    "pool/key_value": (4, 8),
    "block/qkv": (4, 12),
    "embedding": (50, 4),
}
THEIRS = {
    "head.weight": (2, 4),
    "pool.in_proj": (12, 4),
    "block.q.weight": (4, 4),
    "block.k.weight": (4, 4),
    "block.v.weight": (4, 4),
    "embedding.weight": (50, 4),
}


def theirs(**changed) -> MemoryWeights:
    """Weights that fit, with some of other shapes, under other names, or left out."""
    shapes = {name: shape for name, shape in (THEIRS | changed).items() if shape is not None}
    return MemoryWeights(dict(zip(shapes, numbered(shapes.values()), strict=True)), source="weights.bin")


def test_a_table_is_read_both_ways():
    files = theirs(**{"text.position_ids": (1, 7)})
    TABLE.check(OURS, files)
    loaded = dict(TABLE.load(files))
    assert {name: array.shape for name, array in loaded.items()} == OURS
    saved = {name: read() for name, read in TABLE.save({name: lambda n=name: loaded[n] for name in loaded})}
    assert_same(saved, {name: files.read(name) for name in THEIRS})


def test_the_largest_weights_are_read_first_and_none_before_its_turn():
    files, asked = theirs(), []
    read = files.read_float32
    files.read_float32 = lambda name: (asked.append(name), read(name))[1]
    loading = TABLE.load(files)
    assert next(loading)[0] == "embedding"
    assert asked == ["embedding.weight"]
    assert [name for name, _ in loading][-1] == "head/kernel"
    given = []
    saving = dict(TABLE.save({name: lambda n=name: given.append(n) or np.zeros(OURS[n]) for name in OURS}))
    assert given == []
    assert saving["block.k.weight"]().shape == (4, 4)
    assert given == ["block/qkv"]


def refusal(files, shapes=OURS) -> str:
    with pytest.raises(WeightsMismatch) as error:
        TABLE.check(shapes, files)
    return str(error.value)


def test_all_that_does_not_fit_is_told_at_once():
    message = refusal(theirs(**{"head.weight": None, "extra.bias": (3,), "embedding.weight": (40, 4)}))
    assert "weights.bin does not hold the weights of this model" in message
    assert "1 missing: head.weight" in message
    assert "1 left over: extra.bias" in message
    assert "1 of another shape: embedding.weight (40, 4) for embedding (50, 4)" in message
    assert "may be called" not in message


@pytest.mark.parametrize(
    ("changed", "misshapen"),
    [
        ({"head.weight": (4, 2)}, "head.weight (4, 2) for head/kernel (4, 2)"),
        ({"head.weight": ()}, "head.weight () for"),
        ({"head.weight": (2, 4, 1)}, "head.weight (2, 4, 1) for"),
        ({"pool.in_proj": (13, 4)}, "pool.in_proj (13, 4) for pool/query (4, 4) and pool/key_value (4, 8)"),
        ({"block.k.weight": (4, 5)}, "block.k.weight (4, 5) and block.v.weight (4, 4) for block/qkv (4, 12)"),
        ({"block.k.weight": (5, 4)}, "for block/qkv"),
    ],
)
def test_shapes_of_both_sides_are_told(changed, misshapen):
    assert misshapen in refusal(theirs(**changed))


def test_names_under_another_prefix_are_recognised():
    prefixed = {f"model.{name}": shape for name, shape in THEIRS.items()}
    files = MemoryWeights({name: np.zeros(shape) for name, shape in prefixed.items()})
    assert "6 of the missing names are there with 'model.' before them" in refusal(files)
    files = theirs(**dict.fromkeys(THEIRS), **{"q.weight": (4, 4), "k.weight": (4, 4), "v.weight": (4, 4)})
    assert "3 of the missing names are there without 'block.'" in refusal(files)
    files = theirs(**{"head.weight": None, "heads.weight": (2, 4)})
    assert "head.weight may be called heads.weight there" in refusal(files)


def test_long_lists_are_cut_and_counted():
    files = theirs(**{f"extra_{n:03d}": (1,) for n in range(300)})
    message = refusal(files)
    assert "300 left over: extra_000" in message
    assert "extra_019 and 280 more" in message
    assert "extra_020" not in message


def test_a_table_that_does_not_name_each_weight_once_is_refused():
    assert "once: unheard_of" in refusal(theirs(), OURS | {"unheard_of": (1,)})
    twice = Table([Rule("a", "x"), Rule("a", "y")])
    with pytest.raises(WeightsMismatch, match="once: a"):
        twice.check({"a": (1,)}, MemoryWeights({"x": np.zeros(1), "y": np.zeros(1)}))


@pytest.mark.parametrize(
    ("layout", "shapes", "ours"),
    [
        (LEADING_AXIS, [(2, 5)], [(5,)]),
        (heads_out(HEADS), [(WIDTH, HEAD, HEADS)], [(WIDTH, WIDTH)]),
        (heads_in(HEADS), [(HEAD, HEADS, WIDTH)], [(WIDTH, WIDTH)]),
        (stacked_layers(STACKED), [(2, 5), (3, 5)], [(10,), (10,)]),
        (SQUARE_GRID, [(12, 5)], [(3, 3, 5)]),
        (FLAT_PATCHES, [(13, 5)], [(2, 2, 3, 5)]),
    ],
)
def test_nothing_is_dropped_or_regrouped_to_make_it_fit(layout, shapes, ours):
    """By cutting off what is too much, or by dividing other axes, each of these could be given the shape that is
    wanted.
    """
    table = Table([Rule([f"ours{n}" for n in range(len(ours))], [f"theirs{n}" for n in range(len(shapes))], layout)])
    files = MemoryWeights({f"theirs{n}": np.zeros(shape) for n, shape in enumerate(shapes)})
    with pytest.raises(WeightsMismatch, match="of another shape"):
        table.check({f"ours{n}": shape for n, shape in enumerate(ours)}, files)


def test_the_same_names_on_both_sides_need_no_table():
    files = MemoryWeights({"a": np.ones(2), "b": np.zeros(3, np.float16)})
    table = Table.same_names(["a", "b"])
    table.check({"a": (2,), "b": (3,)}, files)
    assert {name: array.dtype for name, array in table.load(files)} == {"a": np.float32, "b": np.float32}
