"""From one stage to the next: nothing is lost, nothing is made up."""

import keras
import numpy as np
import pytest

from diptych.core.training.checkpoint import Checkpoint, CheckpointError
from diptych.core.training.handover import hand_over
from diptych.core.training.older_runs import slots_as_now
from diptych.core.training.optimizers import OPTIMIZERS, Adafactor, AdamW


def variable(shape, value, dtype="float32"):
    return keras.Variable(np.full(shape, value, dtype), dtype=dtype, trainable=dtype == "float32")


def value(variable):
    return np.array(keras.ops.convert_to_numpy(variable.value))


SAVED = Checkpoint(
    step=7,
    groups={
        "weights": {
            "image/kernel": np.full((2, 3), 1, np.float32),
            "image/position_embedding/embedding": np.arange(8, dtype=np.float32).reshape(4, 2),
            "head/kernel": np.full((3,), 5, np.float32),
        },
        "optimizer": {
            "iterations": np.array(7, np.int32),
            "image/kernel/momentum": np.full((2, 3), 2, np.float32),
            "image/position_embedding/embedding/momentum": np.full((4, 2), 3, np.float32),
        },
        "teacher": {"image/kernel": np.full((2, 3), 4, np.float32)},
        "objective": {"distillation_centre": np.full((3,), 6, np.float32)},
    },
    state={},
)


def next_stage():
    return {
        "weights": {
            "image/kernel": variable((2, 3), 0),
            "image/position_embedding/embedding": variable((9, 2), 0),
            "mask_token/token": variable((2,), 8),
        },
        "optimizer": {
            "iterations": variable((), 0, "int32"),
            "image/kernel/momentum": variable((2, 3), 9),
            "image/position_embedding/embedding/momentum": variable((9, 2), 9),
            "mask_token/token/momentum": variable((2,), 9),
        },
        "teacher": {"image/kernel": variable((2, 3), 0), "mask_token/token": variable((2,), 0)},
        "objective": {"distillation_centre": variable((3,), 0), "masked_prediction_centre": variable((3,), 0)},
    }


def adapt(path, value, shape):
    return np.full(shape, value.mean(), np.float32) if "position" in path else None


def test_weights_slots_teacher_and_centres_are_carried_over():
    groups = next_stage()
    handover = hand_over(SAVED, groups, adapt=adapt, may_leave=("head/",))
    assert (value(groups["weights"]["image/kernel"]) == 1).all()
    assert (value(groups["weights"]["image/position_embedding/embedding"]) == 3.5).all()
    assert (value(groups["weights"]["mask_token/token"]) == 8).all()
    assert value(groups["optimizer"]["iterations"]) == 7
    assert (value(groups["optimizer"]["image/kernel/momentum"]) == 2).all()
    assert (value(groups["optimizer"]["image/position_embedding/embedding/momentum"]) == 0).all()
    assert (value(groups["optimizer"]["mask_token/token/momentum"]) == 0).all()
    assert (value(groups["teacher"]["image/kernel"]) == 4).all()
    assert (value(groups["teacher"]["mask_token/token"]) == 8).all(), "a new part of the teacher is the student's"
    assert (value(groups["objective"]["distillation_centre"]) == 6).all()
    assert (value(groups["objective"]["masked_prediction_centre"]) == 0).all()
    assert handover.carried == ("image/kernel",)
    assert handover.resized == ("image/position_embedding/embedding",)
    assert handover.fresh == ("mask_token/token",)
    assert handover.left == ("head/kernel",)
    assert "fresh 1 (mask_token)" in str(handover)


def test_a_fresh_optimizer_forgets_its_steps():
    groups = next_stage()
    hand_over(SAVED, groups, adapt=adapt, keep_optimizer=False, may_leave=("head/",))
    assert value(groups["optimizer"]["iterations"]) == 0
    assert (value(groups["optimizer"]["image/kernel/momentum"]) == 0).all()


def test_parts_that_begin_anew_keep_their_initial_values_and_have_fresh_slots():
    groups = next_stage()
    handover = hand_over(SAVED, groups, adapt=adapt, may_leave=("head/",), anew=("image/kernel",))
    assert (value(groups["weights"]["image/kernel"]) == 0).all()
    assert (value(groups["optimizer"]["image/kernel/momentum"]) == 0).all()
    assert "image/kernel" in handover.fresh


def test_a_table_that_is_only_reshaped_keeps_its_slots():
    groups = next_stage()
    table = "image/position_embedding/embedding"
    groups["weights"][table] = variable((2, 2, 2), 0)
    groups["optimizer"][f"{table}/momentum"] = variable((2, 2, 2), 9)
    reshape = lambda path, value, shape: value.reshape(shape)  # noqa: E731
    handover = hand_over(SAVED, groups, adapt=reshape, may_leave=("head/",))
    np.testing.assert_array_equal(value(groups["weights"][table]).ravel(), np.arange(8))
    assert (value(groups["optimizer"][f"{table}/momentum"]) == 3).all()
    assert handover.resized == ()


def optimizer_groups(optimizer, *variables):
    optimizer.build(list(variables))
    return {"weights": {variable.path: variable for variable in variables}, "optimizer": optimizer.named_slots()}


def end_of(groups) -> Checkpoint:
    return Checkpoint(
        step=0, groups={group: {name: value(v) for name, v in named.items()} for group, named in groups.items()},
        state={},
    )  # fmt: skip


def named(name: str, shape, fill=0.0):
    return keras.Variable(np.full(shape, fill, "float32"), name=name)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_weight_that_is_new_or_resized_begins_with_fresh_slots_and_a_fresh_count(name):
    """Its first steps are those of a first step, beside weights that have made a thousand."""
    choices = {"adamw": {"beta_2": 0.999}, "adafactor": {"beta_2_cap": 0.999}, "sgd": {"momentum": 0.5}}.get(name, {})
    optimizer = OPTIMIZERS[name](1.0, **choices)
    old = optimizer_groups(optimizer, named("kept", (2, 2)), named("table", (40, 33)))
    saved = end_of(old)
    for slot, array in saved.groups["optimizer"].items():
        saved.groups["optimizer"][slot] = np.full_like(array, 1000 if slot.endswith(("updates", "iterations")) else 1)
    weights = [named("kept", (2, 2)), named("table", (60, 33)), named("new", (3,))]
    optimizer = OPTIMIZERS[name](1.0, **choices)
    groups = optimizer_groups(optimizer, *weights)
    hand_over(saved, groups, adapt=lambda path, array, shape: np.zeros(shape, "float32"))
    counts = {name: float(value(v)) for name, v in groups["optimizer"].items() if name.endswith("/updates")}
    assert counts == ({} if name in ("lion", "sgd") else {"kept/updates": 1000, "table/updates": 0, "new/updates": 0})
    for slot, variable in groups["optimizer"].items():
        assert value(variable).any() == (not slot.startswith(("table", "new"))), slot
    moved = [np.zeros(weight.shape) for weight in weights]
    for _ in range(20):
        before = [value(weight) for weight in weights]
        optimizer.apply([keras.ops.full(weight.shape, 0.3) for weight in weights], weights)
        moved = [np.maximum(most, np.abs(value(w) - old)) for most, w, old in zip(moved, weights, before, strict=True)]
    assert max(moved[1].max(), moved[2].max()) <= 1.001, "with an old count a step is up to 6.6 times the rate"
    if name not in ("lion", "sgd"):
        assert moved[1].max() > 0.8


def test_slots_of_an_earlier_version_go_on_with_the_optimizers_counter():
    optimizer = AdamW(1.0)
    groups = optimizer_groups(optimizer, named("kept", (2,)), named("new", (3,)))
    stored = {"iterations": np.array(7, np.int32), "kept/momentum": np.ones(2, "float32")}
    stored["kept/velocity"] = np.ones(2, "float32")
    slots = slots_as_now(stored, groups["optimizer"])
    assert slots.keys() - stored.keys() == {"kept/updates"}
    assert slots["kept/updates"] == 7
    now = end_of(groups).groups["optimizer"]
    assert slots_as_now(now, groups["optimizer"]) == now


def test_second_moments_of_whole_attention_kernels_are_refused_in_a_sentence():
    kernel = named("qkv_kernel", (40, 3 * 2 * 36))
    stored = end_of(optimizer_groups(Adafactor(1.0), kernel)).groups["optimizer"]
    del stored["qkv_kernel/updates"]
    kernel.heads_layout = (40, 6, 36), 1
    wanted = optimizer_groups(Adafactor(1.0), kernel)["optimizer"]
    assert wanted["qkv_kernel/row_second_moment"].shape == (6, 36)
    assert wanted["qkv_kernel/column_second_moment"].shape == (40, 6)
    with pytest.raises(CheckpointError, match="kept Adafactor's second moments of qkv_kernel for the whole kernel"):
        slots_as_now(stored, wanted)


def test_trained_weights_are_not_lost_unless_that_is_meant():
    with pytest.raises(CheckpointError, match="no place for 1 trained weights: head/kernel"):
        hand_over(SAVED, next_stage(), adapt=adapt)


def test_a_weight_of_another_width_is_refused():
    groups = next_stage()
    groups["weights"]["image/kernel"] = variable((2, 4), 0)
    with pytest.raises(CheckpointError, match=r"image/kernel has the shape \[2, 3\] .* \[2, 4\]"):
        hand_over(SAVED, groups, adapt=adapt, may_leave=("head/",))


def test_without_a_teacher_before_it_is_a_copy_of_the_student():
    saved = Checkpoint(step=7, groups={name: SAVED.groups[name] for name in ("weights", "optimizer")}, state={})
    groups = next_stage()
    hand_over(saved, groups, adapt=adapt, may_leave=("head/",))
    assert (value(groups["teacher"]["image/kernel"]) == 1).all()
