"""Prompts from files to one vector a class."""

import json

import numpy as np
import pytest

from diptych.core.evaluation.prompts import (
    GENERAL_TEMPLATES,
    embed_classes,
    filled_prompts,
    read_class_names,
    read_templates,
)
from diptych.core.evaluation.zero_shot import canonicalize


def test_a_page_or_a_pointer_is_no_list_of_names(tmp_path):
    path = tmp_path / "names.txt"
    for content, what in (("version https://git-lfs.github.com/spec/v1\n", "a git-lfs pointer"), ("<html>", "HTML")):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(ValueError, match=f"names.txt is {what}, expected"):
            read_class_names(path)


def test_templates_are_lines_in_either_notation(tmp_path):
    path = tmp_path / "templates.txt"
    path.write_text("a photo of a {c}.\n\n  {} in the wild  \n", encoding="utf-8")
    assert read_templates(path) == ("a photo of a {}.", "{} in the wild")


def test_templates_and_names_may_be_json_for_one_or_several_data_sets(tmp_path):
    path = tmp_path / "templates.json"
    path.write_text(json.dumps(["{}", "ein Foto von {}"]), encoding="utf-8")
    assert read_templates(path) == ("{}", "ein Foto von {}")
    path.write_text(json.dumps({"cars": ["a {}"], "birds": ["{}, a bird"]}), encoding="utf-8")
    assert read_templates(path, dataset="birds") == ("{}, a bird",)
    with pytest.raises(ValueError, match="cars, birds; there are none of 'fish'"):
        read_templates(path, dataset="fish")
    path.write_text(json.dumps(["große Rohrdommel", "鷺"]), encoding="utf-8")
    assert read_class_names(path) == ("große Rohrdommel", "鷺")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "a photo", "exactly one"),
        ("a.txt", "{} and {}", "exactly one"),
        ("a.txt", "{} and {c}", "exactly one"),
        ("a.txt", "\n\n", "holds no templates"),
        ("a.json", "{", "is not JSON"),
        ("a.json", '"a {}"', "must be a list"),
        ("a.json", "[1]", "must be a list of texts"),
    ],
)
def test_files_that_are_of_no_use_say_why(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_templates(tmp_path / name)


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path):
    (tmp_path / "names.txt").write_bytes(b"\xef\xbb\xbfhen\r\ngoose\r\n")
    assert read_class_names(tmp_path / "names.txt") == ("hen", "goose")


def test_canonicalised_prompts_are_lower_case_without_punctuation():
    names, templates = ["Great_White Shark, white pointer", "Hen"], ["A photo of {}!", "{}"]
    assert filled_prompts(names, templates, canonicalize=True) == [
        "a photo of great white shark",
        "great white shark",
        "a photo of hen",
        "hen",
    ]


def test_prompts_as_they_are_keep_everything_even_braces_of_names():
    assert filled_prompts(["C{}", "O'Neill, J."], ["A {}."], canonicalize=False) == ["A C{}.", "A O'Neill, J.."]


def test_the_general_templates_can_be_filled_and_differ():
    assert all(template.count("{}") == 1 for template in GENERAL_TEMPLATES)
    cleaned = {canonicalize(template, keep="{}") for template in GENERAL_TEMPLATES}
    assert len(cleaned) == len(GENERAL_TEMPLATES)


def letters(texts):
    """An embedding that tells letters: [texts, 26], not normalised."""
    return np.array([[text.lower().count(chr(97 + place)) for place in range(26)] for text in texts], float)


def assert_ensembled(classes, names, templates):
    """Each class is the normalised mean of its normalised prompts."""
    for vector, name in zip(classes, names, strict=True):
        prompts = letters([template.replace("{}", name) for template in templates])
        mean = (prompts / np.linalg.norm(prompts, axis=1, keepdims=True)).mean(axis=0)
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), rtol=1e-6, atol=1e-9)


def test_a_class_is_the_mean_direction_of_its_prompts():
    names, templates = ["zebra", "okapi", "gnu"], ["{}", "a long sentence about the {}", "the {} eats"]
    classes = embed_classes(names, templates, letters, canonicalize=True)
    assert classes.shape == (3, 26)
    assert_ensembled(classes, names, templates)


@pytest.mark.parametrize("wrong", ["another order", "not normalised", "one template only"])
def test_a_wrong_ensemble_is_rejected(wrong):
    names, templates = ["zebra", "okapi", "gnu"], ["{}", "a long sentence about the {}"]
    classes = embed_classes(names, templates, letters, canonicalize=True)
    wrongs = {
        "another order": classes[::-1],
        "not normalised": 2 * classes,
        "one template only": embed_classes(names, templates[:1], letters, canonicalize=True),
    }
    with pytest.raises(AssertionError):
        assert_ensembled(wrongs[wrong], names, templates)
