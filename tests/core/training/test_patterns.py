"""Choosing weights by their paths."""

import pytest

from diptych.core.training.patterns import freeze, matching, multipliers
from diptych.models import SigLIP, SigLIPConfig, TextConfig, VisionConfig

PATHS = ["image/encoder/block_00/mlp/in_kernel", "image/encoder/norm/scale", "text/projection/kernel"]


def test_a_pattern_matches_whole_paths():
    assert matching([r"image/.*"], PATHS) == [True, True, False]
    assert matching([r".*kernel"], PATHS) == [True, False, True]


def test_a_pattern_that_matches_nothing_is_an_error_that_shows_paths():
    with pytest.raises(ValueError, match=r"'image' matches no weight.*paths look like .*(image|text)/"):
        matching(["image"], PATHS)


@pytest.mark.parametrize(
    "choose", [lambda pattern: matching([pattern], PATHS), lambda pattern: multipliers({pattern: 0.1}, PATHS)]
)
def test_what_is_no_regular_expression_is_an_error_that_says_so(choose):
    with pytest.raises(ValueError, match=r"'image/\(' is no regular expression: missing \)"):
        choose("image/(")


def test_rules_for_rates_are_about_weights_that_are_trained():
    with pytest.raises(ValueError, match="'head/.*' matches no weight that is trained"):
        multipliers({"head/.*": 0.1}, PATHS)


def test_the_first_rule_that_matches_wins():
    assert multipliers({r"image/encoder/norm/.*": 0.0, r"image/.*": 0.1}, PATHS) == [0.1, 0.0, 1.0]


def test_frozen_weights_are_no_longer_trained():
    size = {"width": 8, "depth": 1, "mlp_dim": 16, "num_heads": 2}
    vision = VisionConfig(**size, patch_size=4, image_size=8)
    model = SigLIP(SigLIPConfig(vision=vision, text=TextConfig(**size, vocab_size=9, context_length=4)))
    frozen = freeze(model, ["image/.*"])
    assert frozen
    assert all(path.startswith("image/") for path in frozen)
    trained = {variable.path for variable in model.trainable_variables}
    assert trained == {variable.path for variable in model.weights} - set(frozen)
    with pytest.raises(ValueError, match=r"^The patterns .*, .*, .* and 1 more freeze every weight: nothing is left"):
        freeze(model, [".*", "image/.*", "text/.*", "pair_logits/.*"])
