"""The contract of a batch holds every field to its declaration, and pieces of a batch put together are the batch."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.core.data.batch import Batch, join_rows, stack_examples
from diptych.core.data.examples.captioning import TARGET_FIELDS
from diptych.core.data.examples.naflex import PATCH_FIELDS
from diptych.core.data.examples.preprocess import IMAGE, SELECTION_NOISE, TEXT
from diptych.core.data.examples.views import VIEW_FIELDS
from diptych.core.data.ledger import Skipped

FIELDS = {
    "image": IMAGE,
    "text": TEXT,
    **PATCH_FIELDS,
    **TARGET_FIELDS,
    **VIEW_FIELDS,
    "selection_noise": SELECTION_NOISE,
}

LENGTHS = {
    "height": 4,
    "width": 5,
    "context_length": 6,
    "captions": 2,
    "length": 7,
    "patch_values": 12,
    "target_length": 8,
    "global_side": 4,
    "local_side": 3,
    "views": 2,
    "masked": 2,
    "chunks": 3,
}


def arrays(size: int) -> dict[str, np.ndarray]:
    """All fields of the contract, of the smallest kind, with 1 everywhere."""
    return {
        name: np.ones([{"batch": size, **LENGTHS}.get(axis, axis) for axis in declared.shapes[0]], declared.dtype)
        for name, declared in FIELDS.items()
    }


def batch(size: int = 3, **changes) -> Batch:
    """A batch of all fields, some of them changed; None takes one away."""
    fields = {name: array for name, array in (arrays(size) | changes.pop("fields", {})).items() if array is not None}
    rest = {"index": np.arange(size), "keys": tuple(map(str, range(size))), "languages": ("en",) * size}
    return Batch(fields=fields, **rest | changes)


def test_a_batch_of_all_fields_is_right_and_all_of_them_go_to_the_device():
    assert set(batch().validate(FIELDS).arrays()) == set(FIELDS)
    two = np.ones((3, 2, 6), np.int32)
    assert batch(fields={"text": two}).validate(FIELDS).arrays()["text"] is two


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_is_declared_with_its_batch_axis_and_held_to_its_type(name):
    declared = FIELDS[name]
    assert {shape[0] for shape in declared.shapes} == {"batch"}
    good = arrays(3)[name]
    other = np.float64 if declared.dtype != np.float64 else np.int8
    wrong = {
        "type": good.astype(other),
        "rank": good[..., None, None],
        "batch": np.concatenate([good, good]),
    }
    for array in wrong.values():
        with pytest.raises(ValueError, match=f"Batch.{name} is "):
            batch(fields={name: array}).validate(FIELDS)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("text", -1),
        ("spatial_shapes", 0),
        ("target_weights", 2),
        ("target_tokens", -5),
        ("masked_patches", -1),
        ("selection_noise", np.nan),
    ],
)
def test_values_out_of_range_name_the_field(name, value):
    array = arrays(3)[name]
    array.flat[-1] = value
    with pytest.raises(ValueError, match=f"Batch.{name} is .*its values are from"):
        batch(fields={name: array}).validate(FIELDS)


def test_named_axes_agree_across_and_within_fields():
    with pytest.raises(ValueError, match=r"Batch.target_weights .*target_length is 9 here and 8 in target_tokens"):
        batch(fields={"target_weights": np.ones((3, 3, 9), np.uint8)}).validate(FIELDS)
    with pytest.raises(ValueError, match=r"Batch.local_views .*local_side is 2 here and 3 in local_views"):
        batch(fields={"local_views": np.ones((3, 2, 3, 2, 3), np.uint8)}).validate(FIELDS)
    with pytest.raises(ValueError, match=r"Batch.image .*axis 3 is 4 here"):
        batch(fields={"image": np.ones((3, 4, 5, 4), np.uint8)}).validate(FIELDS)


@pytest.mark.parametrize("name", ["image", "spatial_shapes", "parallel"])
def test_what_was_declared_must_be_there(name):
    with pytest.raises(ValueError, match=f"Batch.{name} is missing"):
        batch(fields={name: None}).validate(FIELDS)


@pytest.mark.parametrize(
    ("name", "value"), [("index", np.zeros(3, np.int32)), ("keys", ("a",)), ("languages", ()), ("fields", {"depth": 0})]
)
def test_the_rest_of_the_contract_names_the_field_too(name, value):
    with pytest.raises(ValueError, match=f"Batch.{'depth' if name == 'fields' else name} "):
        batch(**{name: value}).validate(FIELDS)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4))
def test_pieces_are_whole_batches_and_join_to_the_batch(size, count):
    rng = np.random.default_rng(0)
    fields = {name: rng.integers(0, 2, array.shape).astype(array.dtype) for name, array in arrays(size * count).items()}
    fields["spatial_shapes"] += 1
    whole = batch(size * count, fields=fields, skipped=(Skipped("bad", "image_empty"),))
    pieces = [piece.validate(FIELDS) for piece in whole.pieces(count)]
    assert {len(piece) for piece in pieces} == {size}
    for name, joined in join_rows([piece.arrays() for piece in pieces]).items():
        assert np.array_equal(joined, whole.fields[name])
    assert np.array_equal(np.concatenate([piece.index for piece in pieces]), whole.index)
    for name in ("keys", "languages", "skipped"):
        assert sum((getattr(piece, name) for piece in pieces), ()) == getattr(whole, name)


@pytest.mark.parametrize("count", [0, 2, 4])
def test_unequal_pieces_are_refused(count):
    with pytest.raises(ValueError, match=f"a batch of 3 cannot be cut into {count} equal pieces"):
        batch().pieces(count)


def test_stacked_examples_are_rows():
    stacked = stack_examples(({"text": np.full(6, row, np.int32)} for row in range(3)), 3)
    assert stacked["text"].tolist() == [[row] * 6 for row in range(3)]


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ({"text": np.zeros(5, np.int32)}, r"text of an example is int32\[5\], and int32\[6\] of the first"),
        ({"text": np.zeros(6)}, "float64"),
        ({}, "lacks text"),
        (
            {"text": np.zeros(6, np.int32), "label": np.int32(1)},
            "label of an example is int32.*, and none of the first",
        ),
        (None, "shorter"),
    ],
)
def test_examples_that_differ_are_not_stacked(second, words):
    examples = [{"text": np.zeros(6, np.int32)}, *([] if second is None else [second])]
    with pytest.raises(ValueError, match=words):
        stack_examples(examples, 2)
