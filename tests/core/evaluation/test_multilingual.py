"""Laws of retrieval by language."""

import numpy as np
import pytest

from diptych.core.evaluation.multilingual import MEAN, recall_by_language
from diptych.core.report.language_names import LANGUAGE_NAMES, language_name


def drawings_and_names():
    """Twenty images; English names are right, half of the German ones are shifted, French knows five images only."""
    images = np.eye(20, dtype=np.float32)
    german = np.arange(20)
    german[::2] = np.roll(german[::2], 1)
    texts = np.concatenate([images, images[german], images[:5]])
    labels = np.concatenate([np.arange(20), np.arange(20), np.arange(5)])
    return images, texts, labels, ["en"] * 20 + ["de"] * 20 + ["fr"] * 5


def test_each_language_has_its_own_recall_and_the_mean_weighs_them_alike():
    images, texts, labels, languages = drawings_and_names()
    results = recall_by_language(images, texts, np.arange(20), labels, languages, image_to_text=True)
    assert list(results) == ["de", "en", "fr", MEAN]
    assert [results[code]["recall@1"] for code in results] == pytest.approx([0.5, 1.0, 1.0, 2.5 / 3])
    assert [results[code]["queries"] for code in results] == [20, 20, 5, 45]
    low, high = results[MEAN]["intervals"]["recall@1"]
    assert low < 2.5 / 3 < high <= 1
    assert results["fr"]["gallery"] == 20, "every query ranks all images, also those without a caption in its language"
    assert results["fr"]["image_to_text"]["queries"] == 5
    assert results["fr"]["image_to_text"]["gallery"] == 5
    assert results["de"]["image_to_text"]["recall@1"] == 0.5


def test_the_order_of_the_texts_does_not_matter():
    images, texts, labels, languages = drawings_and_names()
    order = np.random.default_rng(0).permutation(len(texts))
    mixed = recall_by_language(
        images, texts[order], np.arange(20), labels[order], np.asarray(languages)[order].tolist()
    )
    plain = recall_by_language(images, texts, np.arange(20), labels, languages)
    for code, result in plain.items():
        assert mixed[code]["recall@1"] == result["recall@1"]
        assert mixed[code]["queries"] == result["queries"]


@pytest.mark.parametrize(
    ("code", "name"), [("de", "German"), ("zh-Hant", "Chinese (Hant)"), ("zh_Hant", "Chinese (Hant)"), ("tlh", "tlh")]
)
def test_language_names(code, name):
    assert language_name(code) == name


def test_the_36_languages_come_first():
    assert len(LANGUAGE_NAMES) > 36
    assert list(LANGUAGE_NAMES)[:36] == sorted(list(LANGUAGE_NAMES)[:36])
