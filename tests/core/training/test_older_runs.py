"""Files of older runs, read as they are stored now: nothing that was not chosen anew counts as a change."""

import json

import pytest

from diptych.core.training.card import plain
from diptych.core.training.older_runs import as_now
from diptych.core.training.recipe import Recipe, harmless_fields
from diptych.core.training.run_folder import ConfigMismatch, RunFolder
from diptych.recipes.clip import clip
from diptych.recipes.siglip import siglip
from diptych.recipes.siglip2 import siglip2, tiny


def config(recipe: Recipe) -> dict:
    return json.loads(json.dumps(plain(recipe)))


def as_stored_before(recipe: Recipe, **data) -> dict:
    """The configuration as it was before local views, resizing, bounds and the momentum's batch had fields."""
    stored = config(recipe)
    stored["data"] = {**stored["data"], **data}
    del stored["data"]["resize_method"], stored["model"]["max_logit_scale"]
    del stored["distillation"]["teacher_momentum_batch"]
    for stage in stored["stages"]:
        del stage["local_size"]
    return stored


def check(tmp_path, stored: dict, recipe: Recipe) -> None:
    """What a run of the recipe makes of a folder with the stored configuration."""
    with RunFolder(tmp_path) as folder:
        folder.write_card({"config": stored})
        given = config(recipe)
        folder.check_config(
            given, harmless=harmless_fields(recipe), as_now=lambda found: as_now(found, given, recipe.unused())
        )


@pytest.mark.parametrize("recipe", [siglip(), clip(), tiny(), siglip2("B/16")], ids=lambda recipe: recipe.model.model)
def test_new_fields_are_as_given(tmp_path, recipe):
    check(tmp_path, as_stored_before(recipe), recipe)


def test_a_momentum_that_no_stage_asks_for_is_no_difference(tmp_path):
    stored = as_stored_before(siglip())
    stored["distillation"]["teacher_momentum"] = None
    check(tmp_path, stored, siglip())


def test_a_momentum_that_was_scaled_is_named_with_what_resumes_it(tmp_path):
    recipe = siglip2("B/16")
    stored = as_stored_before(recipe)
    stored["distillation"]["teacher_momentum"] = None
    with pytest.raises(ConfigMismatch, match=r"distillation.teacher_momentum_batch: stored 16384, given null"):
        check(tmp_path, stored, recipe)


def test_augmentation_that_was_the_default_is_named(tmp_path):
    """A run on data of one's own was augmented; `--augment` goes on with it."""
    recipe = siglip()
    stored = as_stored_before(recipe, augment=True)
    given = config(recipe) | {"data": config(recipe)["data"] | {"augment": False}}
    assert as_now(stored, given)["data"]["augment"] is True
    stored["data"]["augment"] = None
    assert as_now(stored, given)["data"]["augment"] is False
