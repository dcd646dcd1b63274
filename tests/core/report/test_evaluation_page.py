"""The table and the page of an evaluation say what the results say, and stay whole whatever the data are called."""

import re

import numpy as np
import pytest

from diptych.core.evaluation.classification import classification
from diptych.core.evaluation.few_shot import few_shot
from diptych.core.evaluation.multilingual import recall_by_language
from diptych.core.report.charts.layout import HEIGHT, NARROW
from diptych.core.report.charts.numbers import percent
from diptych.core.report.evaluation_page import evaluation_page, regularisation_figure
from diptych.core.report.evaluation_table import classification_text, evaluation_text, retrieval_text
from diptych.core.report.run.confusion import MOST_NAMED
from tests.core.evaluation.synthetic import CLASSES, HOSTILE, samples
from tests.core.report.run.test_report import Page, external_references


def retrieval_result(name: str = "squares", ks: tuple[int, ...] = (1, 5, 10)) -> dict:
    embedded = samples()
    by_language = recall_by_language(
        embedded.image_embeddings,
        embedded.text_embeddings,
        embedded.image_labels,
        embedded.text_labels,
        embedded.languages,
        ks,
        image_to_text=True,
    )
    backward = [result["image_to_text"] for code, result in by_language.items() if code != "mean"]
    metrics = {f"text_retrieval_recall@{k}": float(np.mean([each[f"recall@{k}"] for each in backward])) for k in ks}
    return {
        "set": name,
        "task": "zeroshot_retrieval",
        "data": {
            "images": 40,
            "texts": len(embedded.captions),
            "skipped_images": {"image_format": 2},
            "skipped_texts": {},
        },
        "metrics": metrics,
        "intervals": {},
        "details": {"by_language": by_language},
    }


def classification_result(classes: tuple[str, ...] = CLASSES) -> dict:
    rng = np.random.default_rng(0)
    labels = np.arange(120) % len(classes)
    scores = rng.normal(size=(120, len(classes)))
    scores[np.arange(120), labels] += 1.5
    details = classification(scores, labels, classes, logit_bias=-3.0)
    return {
        "set": "colours",
        "task": "zeroshot_classification",
        "data": {"images": 120, "classes": len(classes), "skipped_images": {}},
        "metrics": {"acc1": details["accuracy"], "mean_per_class_recall": details["mean_class_accuracy"]},
        "intervals": {"acc1": details["interval"]},
        "details": details,
    }


def few_shot_result(classes: tuple[str, ...] = CLASSES) -> dict:
    rng = np.random.default_rng(0)
    labels = np.arange(160) % len(classes)
    features = rng.normal(size=(160, 8)) + rng.normal(size=(len(classes), 8))[labels]
    details = few_shot(features[:80], labels[:80], features[80:], labels[80:], classes, shots=5)
    return {
        "set": "colours",
        "task": "linear_probe",
        "data": {"images": 80, "classes": len(classes), "skipped_images": {}},
        "metrics": {"lp_acc1": details["accuracy"], "lp_mean_per_class_recall": details["mean_class_accuracy"]},
        "intervals": {"lp_acc1": details["interval"]},
        "details": details,
    }


def evaluation(*results: dict) -> dict:
    return {
        "format": "diptych-evaluation",
        "version": 1,
        "model": {"name": "runs/<b>tiny</b>", "parameters": 1_234_567, "fingerprint": "0" * 64},
        "backend": "jax",
        "device": None,
        "results": list(results),
    }


@pytest.fixture(scope="module")
def everything():
    return evaluation(retrieval_result(), classification_result(), few_shot_result())


def test_the_page_is_one_whole_document_that_loads_and_runs_nothing(everything):
    text = evaluation_page(f"A page {HOSTILE}", everything, samples())
    page = Page(text)
    assert external_references(page) == []
    assert not [1 for tag, _ in page.elements if tag in ("script", "b")]
    assert "default-src 'none'" in next(a["content"] for tag, a in page.elements if tag == "meta" and "http-equiv" in a)
    shown = " ".join(body for _, body in page.texts)
    for words in ("Retrieval: squares", "Zero-shot: colours", "5-shot: colours", "What it finds", CLASSES[2]):
        assert words in shown
    text.encode("utf-8")


def test_the_page_shows_the_numbers_of_the_results(everything):
    shown = [body.strip() for _, body in Page(evaluation_page("page", everything)).texts]
    retrieved, classified, probed = everything["results"]
    for share in (
        retrieved["details"]["by_language"]["en"]["recall@1"],
        retrieved["details"]["by_language"]["ja"]["image_to_text"]["recall@5"],
        retrieved["metrics"]["text_retrieval_recall@1"],
        classified["metrics"]["acc1"],
        probed["metrics"]["lp_acc1"],
        probed["details"]["big_vision_accuracy"],
    ):
        assert percent(share) in shown
    assert percent(0.98765) not in shown, "a number that is in no result is not on the page"


def test_a_page_of_any_one_task_is_whole(everything):
    for result in everything["results"]:
        Page(evaluation_page("page", evaluation(result)))
    Page(evaluation_page("page", evaluation(retrieval_result(ks=(3,)))))


def test_many_classes_are_a_map_and_a_list_of_confusions_and_not_a_wall_of_cells():
    classes = tuple(f"class {number}" for number in range(MOST_NAMED + 1))
    text = evaluation_page("page", evaluation(classification_result(classes)))
    assert "Most frequent confusions" in text
    assert f"a map of {MOST_NAMED + 1} classes" in text
    assert text.count("<rect") <= 16**2


def test_every_choice_of_regularisation_has_its_place():
    details = few_shot_result()["details"]
    figure = regularisation_figure(details)
    places = [tuple(map(float, pair.split(","))) for pair in re.search(r'points="([^"]+)"', figure)[1].split()]
    assert len(places) == len(details["by_l2"])
    assert all(0 <= x <= NARROW and 0 <= y <= HEIGHT for x, y in places)
    heights = [-y for _, y in places]
    shares = [row["accuracy"] for row in details["by_l2"]]
    assert np.array_equal(np.argsort(heights, kind="stable"), np.argsort(shares, kind="stable"))
    assert figure.count("<circle") == len(details["seeds"])


def test_the_table_of_retrieval_has_every_language_both_ways_and_the_mean():
    result = retrieval_result()
    lines = retrieval_text(result).splitlines()
    assert lines[0] == "squares: 40 images, 240 captions (2 that could not be used)"
    by_language = result["details"]["by_language"]
    rows = {line.split("  ")[0].strip(): line for line in lines[3:]}
    assert set(rows) == {
        *(
            f"{name} ({code})"
            for name, code in (("English", "en"), ("German", "de"), ("Arabic", "ar"), ("Hebrew", "he"))
        ),
        "Japanese (ja)",
        "Hindi (hi)",
        "mean of 6",
        "chance",
    }
    for name, code in (("English (en)", "en"), ("mean of 6", "mean")):
        assert percent(by_language[code]["recall@1"]) in rows[name]
    assert percent(by_language["de"]["image_to_text"]["recall@10"]) in rows["German (de)"]
    assert percent(result["metrics"]["text_retrieval_recall@5"]) in rows["mean of 6"]
    assert lines[3] == rows["mean of 6"]
    order = [by_language[line.split("(")[1][:2]]["recall@1"] for line in lines[4:-1]]
    assert order == sorted(order, reverse=True)
    assert "2.5%" in rows["chance"]


def test_the_table_of_classifications_has_a_row_each(everything):
    _, classified, probed = everything["results"]
    text = classification_text([classified, probed])
    zero, few = text.splitlines()[2:]
    assert "zero-shot" in zero
    assert "5-shot" in few
    assert percent(classified["metrics"]["acc1"]) in zero
    assert percent(probed["metrics"]["lp_acc1"]) in few
    assert evaluation_text(everything["results"]).endswith(text)
    assert max(map(len, text.splitlines())) <= 120
