"""A model card holds what a run knows, in the hub's form, and nothing that it does not know."""

import importlib.util
import io

import numpy as np
import pytest
from PIL import Image

from diptych.core.report.finds_picture import GAP, RIGHT, SIDE, finds_captions, finds_png
from diptych.core.report.model_card import Stated, is_unedited, model_card
from diptych.core.report.run.contents import Samples


def recalls(share, gallery=20, **others):
    return {
        "queries": 10,
        "gallery": gallery,
        "recall@1": share,
        "intervals": {"recall@1": [share - 0.05, share + 0.05]},
        **others,
    }


SCORES = {
    "retrieval": {
        "New drawings": {
            "de": recalls(0.3),
            "en": recalls(0.5, image_to_text=recalls(0.45)),
            "zh_Hant": recalls(0.1),
            "mean": recalls(0.3, languages=3),
        }
    },
    "zero_shot": {
        "groups | of\n--- <b>": {
            "accuracy": 0.6,
            "interval": [0.5, 0.7],
            "chance": 0.2,
            "images": 40,
            "class_names": "abc",
        }
    },
    "warnings": ["Recall is *no* better than chance."],
}
AGAIN = {"en": recalls(0.5), "fr": recalls(0.2)}
CARD = {
    "config": {
        "model": {"pretrained": "hf://google/siglip-base@v1", "precision": "float32"},
        "data": {"train_data": "photos"},
        "optimization": {"loss": "sigmoid", "learning_rate": 0.001},
    },
    "stage": {"losses": {"contrastive": 1.0}},
    "model": {"vision": {"image_size": 48, "patch_size": 12}, "text": {"context_length": 12, "vocab_size": 8000}},
    "parameters": 1_800_000,
    "examples_seen": 320,
    "command": "python -m recipes.siglip --train-data photos",
    "device": None,
    "data": {"said": "photos, 90 records", "licence": "See the folder."},
}


def parsed(card):
    """Metadata and text, as the hub's own library reads them."""
    if importlib.util.find_spec("huggingface_hub") is None:
        pytest.skip("huggingface_hub is an optional package")
    from huggingface_hub import ModelCard

    read = ModelCard(card)
    return read.data, read.text


def test_the_hubs_library_reads_the_metadata_with_results_and_intervals():
    stated = Stated(name='pets: "mine" \x07', license="mit", datasets=("me/pets",), address="hf://me/pets")
    judged = {"results": [{"task": "zeroshot_retrieval", "set": "New drawings", "details": {"by_language": AGAIN}}]}
    data, text = parsed(model_card(CARD, SCORES, stated, judged=judged))
    told = (data.license, data.library_name, data.pipeline_tag, data.base_model, data.datasets, data.language)
    expected = ("mit", "diptych", "zero-shot-image-classification", ["google/siglip-base"], ["me/pets"])
    assert told == (*expected, ["de", "en", "fr", "zh"])
    assert len(data.eval_results) == 4, "each once, though English was judged twice"
    assert data.model_name == 'pets: "mine"'
    found = {(one.dataset_name, one.metric_type): (one.metric_value, one.metric_args) for one in data.eval_results}
    assert found["New drawings, English", "recall@1"] == (0.5, {"interval_95": [0.45, 0.55]})
    assert found["New drawings, mean of languages", "recall@1"][0] == 0.3
    assert found["groups | of --- <b>", "accuracy"] == (0.6, {"interval_95": [0.5, 0.7]})
    assert ("New drawings, German", "recall@1") not in found, "only headlines go into the metadata"
    rows = {
        row.split(" | ")[0]: row.split(" | ") for row in text.splitlines() if " to " in row and row.startswith("| ")
    }
    assert rows["| New drawings, German"][1:] == ["recall@1", "30.0%", "25.0% to 35.0%", "5.0%", "10 captions |"]
    assert "| groups \\| of --- \\<b\\>" in rows
    for sentence in (
        "It has 1.8 M parameters.",
        "squares of 48 pixels, in patches of 12",
        "Training began from `hf://google/siglip-base@v1`.",
        "Training saw 320 examples.",
        'from_preset("hf://me/pets")',
        "python -m recipes.siglip --train-data photos",
        "Recall is \\*no\\* better than chance.",
        "The weights are under mit. See the folder.",
    ):
        assert sentence in text


def test_what_a_run_does_not_know_is_not_in_its_card():
    data, text = parsed(model_card({}, {}, Stated(name="unknown")))
    for name in ("license", "language", "base_model", "datasets", "eval_results"):
        assert getattr(data, name) is None
    for invented in ("fresh weights", "parameters", "device", "Results", "examples", "None", "nan"):
        assert invented not in text
    assert "No licence was stated" in text
    assert "No score of it is known." in text


@pytest.mark.parametrize(
    ("losses", "scores", "task", "row"),
    [
        (
            "classification",
            {"classification": {"pets": {"mean_average_precision": 0.5, "images": 4, "class_names": ["a", "b"]}}},
            "image-classification",
            "| pets | mean_average_precision | 50.0% |  |  | 4 pictures, 2 classes |",
        ),
        (
            "language",
            {"language": {"novel": {"bits_per_byte": 1.25, "tokens": 9}}},
            "text-generation",
            "| novel | bits_per_byte | 1.25 |  |  | 9 tokens |",
        ),
        (
            "answering",
            {"answers": {"cola": {"examples": 3, "metrics": {"accuracy": {"value": 0.5, "interval": [0.0, 1.0]}}}}},
            "text-classification",
            "| cola | accuracy | 50.0% | 0% to 100% |  | 3 texts |",
        ),
        (
            "suffix",
            {"answers": {"vqa": [{"metric": "cider", "value": 1.5, "interval": [1.0, 2.0], "questions": 7}]}},
            "image-text-to-text",
            "| vqa | cider | 1.5 | 1 to 2 |  | 7 questions |",
        ),
    ],
)
def test_each_kind_of_model_has_its_task_and_its_scores(losses, scores, task, row):
    data, text = parsed(model_card({"stage": {"losses": {losses: 1.0}}}, scores, Stated(name="x")))
    assert data.pipeline_tag == task
    assert row in text


def test_a_card_that_was_edited_is_told_from_one_as_it_was_written():
    card = model_card(CARD, SCORES, Stated(name="x"))
    assert is_unedited(card)
    assert not is_unedited(card.replace("Limits", "Bounds"))
    assert not is_unedited(card + "More.\n")
    assert not is_unedited("# Mine\n")


def test_the_picture_frames_the_right_ones_and_its_captions_stand_below_it():
    labels, width = np.arange(5), np.eye(5, dtype=np.float32)
    samples = Samples(
        image_embeddings=width,
        text_embeddings=width,
        image_labels=labels,
        text_labels=labels,
        captions=[f"كلب {label}" for label in labels],
        languages=["ar"] * 5,
        thumbnails=np.full((5, 4, 4, 3), 90, np.uint8),
        logit_scale=10.0,
    )
    with Image.open(io.BytesIO(finds_png(samples))) as sheet:
        pixels = np.asarray(sheet)
    rows = len(finds_captions(samples))
    assert pixels.shape == (GAP + rows * (SIDE + GAP), GAP + 5 * (SIDE + GAP), 3)
    for row in range(rows):
        above = pixels[GAP + row * (SIDE + GAP) - 2, :, :]
        framed = [(above[GAP + place * (SIDE + GAP) + SIDE // 2] == RIGHT).all() for place in range(5)]
        assert framed == [True, False, False, False, False], "the caption's own picture is the nearest"
    card = model_card(CARD, {}, Stated(name="x", picture="finds.png", captions=tuple(finds_captions(samples))))
    assert "![What the model finds](finds.png)" in card
    assert f"1. {finds_captions(samples)[0]}\n2. " in card
