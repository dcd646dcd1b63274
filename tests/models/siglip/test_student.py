"""The student: the towers that are kept are SigLIP's own, and what teaches them is there where it is asked for."""

from dataclasses import replace

import numpy as np
import pytest

from diptych.models import NaFlexVisionConfig, SigLIP
from diptych.models.parts.mask_token import MaskToken
from diptych.models.siglip.student import Student
from tests.engine.training.small_student import CONFIG, OUTPUTS, SIZE, batch, parts, student
from tests.models.examples import numpy_of

NAFLEX = replace(CONFIG, vision=NaFlexVisionConfig(**SIZE, patch_size=4, position_grid=4, max_num_patches=9))
PARTS = ("captioner", "global_head", "patch_head", "mask_token")
ASKED = {
    "nothing": (("contrastive",), ()),
    "captions": (("contrastive", "captioning"), ("captioner",)),
    "self-supervision": (("distillation", "masked_prediction"), ("global_head", "patch_head", "mask_token")),
    "all": (("captioning", "distillation", "masked_prediction"), PARTS),
}


def inputs(seed: int = 0) -> dict[str, np.ndarray]:
    example = batch(seed)
    return {"images": example["image"] / np.float32(127.5) - 1, "token_ids": example["text"]}


def bits(variables) -> dict[str, np.ndarray]:
    return {variable.path: numpy_of(variable.value) for variable in variables}


@pytest.mark.parametrize("asked", ASKED)
def test_the_towers_are_siglips_of_the_same_seed_bit_for_bit(asked):
    made = student(dict.fromkeys(ASKED[asked][0], 1.0), seed=7)
    alone = SigLIP(CONFIG, seed=7)
    expected, found = bits(alone.weights), bits(made.towers.weights)
    assert len(expected) == len(found) > 20
    for (name, value), (own_name, own) in zip(expected.items(), found.items(), strict=True):
        assert own_name.endswith(name)
        np.testing.assert_array_equal(own, value, err_msg=name)
    other = bits(student(seed=8).towers.weights)
    assert any((other[name] != value).any() for name, value in found.items())
    outputs, own_outputs = alone(inputs()), made(inputs())
    assert outputs.keys() == own_outputs.keys()
    for name, value in outputs.items():
        np.testing.assert_array_equal(numpy_of(own_outputs[name]), numpy_of(value), err_msg=name)
    assert float(numpy_of(made.logit_scale)) == float(numpy_of(alone.logit_scale))
    assert float(numpy_of(made.logit_bias)) == float(numpy_of(alone.logit_bias)) == -2.0


@pytest.mark.parametrize("asked", ASKED)
def test_parts_are_there_only_where_asked_for(asked):
    losses, expected = ASKED[asked]
    made = student(dict.fromkeys(losses, 1.0))
    assert tuple(made.parts) == expected
    assert (made.captioner is not None) == ("captioner" in expected)
    counts = [made.parts[name].count_params() for name in expected]
    assert made.count_params() == SigLIP(CONFIG).count_params() + sum(counts)
    assert all(count > 0 for count in counts)


def test_variable_paths_are_unique_and_say_whose_they_are():
    made = student()
    paths = [variable.path for variable in made.variables]
    assert len(set(paths)) == len(paths)
    assert {path.split("/")[0] for path in paths} == {"image", "text", "pair_logits", *PARTS}


def test_parts_have_streams_of_their_own():
    """Captioner and heads start the same whatever else there is, and the heads are not copies of each other."""
    made = student()
    for losses, names in ASKED.values():
        some = student(dict.fromkeys(losses, 1.0))
        for name in names:
            for one, other in zip(some.parts[name].weights, made.parts[name].weights, strict=True):
                np.testing.assert_array_equal(numpy_of(one), numpy_of(other), err_msg=one.path)
    first, second = (
        [numpy_of(weight) for weight in head.weights if numpy_of(weight).any()]
        for head in (made.parts["global_head"], made.parts["patch_head"])
    )
    assert [one.shape for one in first] == [other.shape for other in second]
    assert all((one != other).any() for one, other in zip(first, second, strict=True) if len(np.unique(one)) > 2)


def test_a_teachers_parts_have_the_same_shapes_and_are_others():
    made = student()
    heads = ("global_head", "patch_head")
    mine, theirs = made.followed(heads), made.copies(heads)
    assert mine.keys() == theirs.keys() == {"image", "global_head", "patch_head"}
    for name in mine:
        assert [tuple(weight.shape) for weight in mine[name].weights] == [
            tuple(weight.shape) for weight in theirs[name].weights
        ]
        assert not {id(weight) for weight in mine[name].weights} & {id(weight) for weight in theirs[name].weights}
    assert mine["image"] is made.towers.image_encoder
    count = made.count_params()
    made.copies(heads)
    assert made.count_params() == count  # they are nobody's part


def test_heads_take_what_the_tower_gives():
    made = student()
    features = made.image_features({"images": inputs()["images"]})
    assert features["mask"] is None
    assert tuple(features["tokens"].shape) == (8, 16, SIZE["width"])
    for head, value in (
        (made.parts["global_head"], features["pooled"]),
        (made.parts["patch_head"], features["tokens"]),
    ):
        assert tuple(head(value).shape) == (*value.shape[:-1], OUTPUTS)


def test_a_naflex_student_tells_padding_and_has_no_heads():
    made = Student(NAFLEX, parts=parts({"captioning": 1.0}))
    patches = np.random.default_rng(0).uniform(-1, 1, (2, 9, 48)).astype(np.float32)
    shapes = np.array([[3, 3], [2, 2]], np.int32)
    features = made.image_features({"patches": patches, "spatial_shapes": shapes})
    assert numpy_of(features["mask"]).tolist() == [[True] * 9, [True] * 4 + [False] * 5]
    assert tuple(features["tokens"].shape) == (2, 9, SIZE["width"])
    with pytest.raises(ValueError, match=r"need square pictures .* NaFlexVisionTransformer .* Leave those losses out"):
        Student(NAFLEX, parts=parts({"distillation": 1.0}))


def test_in_bfloat16_weights_stay_float32_and_so_do_heads_and_embeddings():
    made = Student(CONFIG, parts=parts(), dtype="mixed_bfloat16", seed=1)
    assert {variable.dtype for variable in made.variables} == {"float32"}
    for name, value in bits(student().weights).items():
        np.testing.assert_array_equal(bits(made.weights)[name], value, err_msg=name)
    outputs = made(inputs())
    reference = student()(inputs())
    for name in ("image_embedding", "text_embedding"):
        value, exact = numpy_of(outputs[name]), numpy_of(reference[name])
        assert value.dtype == np.float32
        assert 0 < np.abs(value - exact).max() < 0.1
    assert {made.parts[name].compute_dtype for name in ("global_head", "patch_head")} == {"float32"}


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_a_teacher_computes_as_its_student_does(dtype):
    made = Student(CONFIG, parts=parts({"distillation": 1.0}), dtype=dtype)
    tower = made.copies(())["image"]
    images = inputs()["images"]
    for name, value in made.image_features({"images": images}).items():
        if name != "mask":
            np.testing.assert_array_equal(numpy_of(tower(images)[name]), numpy_of(value), err_msg=name)


def test_the_mask_token_is_drawn_and_restored():
    token = MaskToken(width=400, seed="3/mask_token")
    value = numpy_of(token.token)
    assert abs(value.std() - 0.02) < 4 * 0.02 / np.sqrt(2 * 400)
    again = MaskToken.from_config(token.get_config())
    np.testing.assert_array_equal(numpy_of(again.token), value)
