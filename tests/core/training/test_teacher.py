"""The teacher: a copy that follows slowly, and has the student's own sizes."""

import keras
import numpy as np
import pytest

from diptych.core.training.teacher import EmaTeacher, momentum_at


def dense(seed, width=3):
    layer = keras.layers.Dense(width, kernel_initializer=keras.initializers.RandomNormal(seed=seed), name="head")
    layer.build((None, 2))
    return layer


def test_a_teacher_starts_as_the_student_and_is_not_trained():
    student, taught = dense(0), dense(1)
    teacher = EmaTeacher({"head": student}, {"head": taught}, momentum=0.9)
    for mine, theirs in zip(student.weights, taught.weights, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(mine), keras.ops.convert_to_numpy(theirs))
    assert not taught.trainable_weights
    assert set(teacher.named()) == {weight.path for weight in student.weights}


def test_a_teacher_of_another_width_is_refused():
    with pytest.raises(ValueError, match=r"teacher's head does not fit .*\(2, 3\) meets one of \(2, 4\)"):
        EmaTeacher({"head": dense(0)}, {"head": dense(0, width=4)}, momentum=0.9)
    with pytest.raises(ValueError, match="differ in parts"):
        EmaTeacher({"head": dense(0)}, {}, momentum=0.9)


def test_the_momentum_is_literal_and_scaled_it_has_one_half_life_in_examples():
    assert momentum_at(32_768, 0.966) == momentum_at(128, 0.966) == 0.966
    assert momentum_at(16_384, 0.966, 16_384) == pytest.approx(0.966)
    for batch in (256, 1_024, 4_096, 32_768):
        assert momentum_at(batch, 0.966, 16_384) ** (16_384 / batch) == pytest.approx(0.966)
    # Figures that a paper on distillation with captions arrived at, at its own batch sizes.
    assert momentum_at(4_096, 0.966, 16_384) == pytest.approx(0.9914, abs=1e-4)
