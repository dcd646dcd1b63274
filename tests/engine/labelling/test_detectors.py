"""Detectors: boxes from a tiny OWLv2 with random weights, and from what differs from a plain ground."""

import json
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.core.data.emoji.scenes import SceneSource
from diptych.core.data.regions import box_iou
from diptych.core.data.sources.region_labelling import Detection, label_regions
from diptych.core.data.tokenizers.clip_bpe import released_vocabulary
from diptych.engine.labelling.detectors import OwlDetector, SegmentDetector, connected_parts, owl_boxes, surest
from tests.core.data.tokenizers.small_vocabularies import clip_merges

COLOURS = {"red thing": (220, 20, 20), "green thing": (20, 200, 20), "blue thing": (20, 20, 220)}


def by_colour(crops, phrases) -> np.ndarray:
    """Each phrase scored by how near its colour is to the middle of the crop."""
    middles = np.array([crop[crop.shape[0] // 2, crop.shape[1] // 2] for crop in crops], float)
    wanted = np.array([COLOURS.get(phrase, (1e4, 0, 0)) for phrase in phrases], float)
    return np.exp(-np.linalg.norm(middles[:, None] - wanted[None], axis=-1) / 100)


# Parts


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 14), st.integers(1, 14), st.floats(0, 1), st.integers(0, 2**32))
def test_parts_are_connected_and_apart(height, width, density, seed):
    mask = np.random.default_rng(seed).random((height, width)) < density
    parts = connected_parts(mask)
    assert np.array_equal(parts > 0, mask)
    assert np.array_equal(np.unique(parts[mask]), np.arange(1, parts.max() + 1))
    for one, other in ((parts[1:], parts[:-1]), (parts[:, 1:], parts[:, :-1])):
        both = (one > 0) & (other > 0)
        assert np.array_equal(one[both], other[both])  # neighbours are of one part
    for number in range(1, parts.max() + 1):  # and a part is one: flooding it from any pixel fills it
        part = parts == number
        flood = np.zeros_like(part)
        flood[tuple(np.argwhere(part)[-1])] = True
        for _ in range(part.sum()):
            padded = np.pad(flood, 1)
            flood = part & (
                padded[1:-1, 1:-1] | padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
            )
        assert np.array_equal(flood, part)


def striped(height: int = 60, width: int = 80) -> np.ndarray:
    ground = np.full((height, width, 3), 240, np.uint8)
    ground[:, ::8] = ground[:, 1::8] = (255, 200, 100)
    return ground


def test_things_on_a_ground_are_found_and_named(tmp_path):
    pixels = striped()
    expected = {}
    for (name, colour), (top, left) in zip(COLOURS.items(), ((5, 5), (25, 40), (40, 10)), strict=True):
        pixels[top : top + 12, left : left + 16] = colour
        expected[name] = (top / 60, left / 80, (top + 12) / 60, (left + 16) / 80)
    detector = SegmentDetector(by_colour, "by colour")
    found = {one.phrase: one for one in detector.detect([pixels], [[*COLOURS, "cat"]])[0]}
    assert {name: one.box for name, one in found.items()} == expected
    assert min(one.score for one in found.values()) > 0.9
    assert detector.detect([striped()], [list(COLOURS)]) == [[]]
    assert detector.detect([pixels], [[]])[0] == []
    sure = [one for one in detector.detect([pixels], [["green thing"]])[0] if one.score > 0.5]
    assert [one.box for one in sure] == [expected["green thing"]]


def test_scenes_are_labelled_by_their_names(tmp_path):
    """With a scorer that knows the answers, what differs from the ground is what was drawn, where things do not
    touch.
    """
    scenes = SceneSource(length=30, concepts=18, objects=(1, 2), languages=("en",))
    detector = SegmentDetector(lambda crops, phrases: np.full((len(crops), len(phrases)), 0.5), "even")
    labelled = label_regions(scenes, detector, tmp_path / "regions.jsonl")
    hit = total = 0
    for index in range(len(scenes)):
        truth = [thing.box for thing in scenes.objects_of(index)]
        found = [region.box for region in labelled.record(index).regions] or [(0.0, 0.0, 0.0, 0.0)]
        best = box_iou(np.array(truth)[:, None], np.array(found)[None]).max(axis=1)
        hit, total = hit + int((best > 0.5).sum()), total + len(truth)
    assert hit / total > 0.6


def test_a_scorer_of_another_shape_is_refused():
    pixels = striped()
    pixels[10:30, 10:30] = (220, 20, 20)
    with pytest.raises(ValueError, match=r"the scorer odd gave scores \[7\], expected \[1, 3\]"):
        SegmentDetector(lambda crops, phrases: np.zeros(7), "odd").detect([pixels], [list(COLOURS)])


def test_segment_fingerprints_follow_the_settings():
    made = [
        SegmentDetector(by_colour, "a"),
        SegmentDetector(by_colour, "b"),
        SegmentDetector(by_colour, "a", tolerance=30),
        SegmentDetector(by_colour, "a", least_area=0.1),
        SegmentDetector(by_colour, "a", gap=2),
    ]
    assert len({detector.fingerprint() for detector in made}) == len(made)


def test_of_nearly_equal_boxes_of_a_phrase_the_surest_stays():
    def one(right, phrase, score):
        return Detection((0.0, 0.0, 1.0, right), phrase, score)

    given_ones = [one(0.9, "dog", 0.5), one(1.0, "dog", 0.8), one(0.9, "cat", 0.4), one(0.2, "dog", 0.3)]
    assert surest(given_ones) == [given_ones[1], given_ones[0 + 2], given_ones[3]]


# OWL


def test_boxes_of_a_padded_square_come_back_to_the_picture():
    centre = np.array([[0.25, 0.25, 0.5, 0.5]])
    assert np.allclose(owl_boxes(centre, 40, 80, padded=True), [[0, 0, 1, 0.5]])
    assert np.allclose(owl_boxes(centre, 80, 40, padded=True), [[0, 0, 0.5, 1]])
    assert np.allclose(owl_boxes(centre, 40, 80, padded=False), [[0, 0, 0.5, 0.5]])
    assert np.allclose(owl_boxes(np.array([[0.9, 0.5, 0.4, 0.2]]), 10, 10, padded=True), [[0.4, 0.7, 0.6, 1.0]])


def test_without_transformers_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match="pip install transformers torch"):
        OwlDetector("anything")


@pytest.fixture(scope="module")
def owl_folder(tmp_path_factory):
    """A tiny OWLv2 with random weights and a CLIP tokenizer, as transformers stores them."""
    transformers = pytest.importorskip("transformers", reason="the optional package transformers is not installed")
    torch = pytest.importorskip("torch", reason="OWLv2 in transformers needs torch, which is not installed")
    pytest.importorskip("scipy", reason="transformers' picture processor of OWLv2 needs scipy, which is not installed")
    folder = tmp_path_factory.mktemp("owl")
    vocabulary = released_vocabulary(clip_merges())
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    merges = "\n".join(["#version: 0.2", *map(" ".join, clip_merges())])
    (folder / "merges.txt").write_text(merges, encoding="utf-8")
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.Owlv2Config(
        text_config=tower
        | {"vocab_size": len(vocabulary), "max_position_embeddings": 16, "eos_token_id": len(vocabulary) - 1},
        vision_config=tower | {"image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    torch.manual_seed(0)
    transformers.Owlv2ForObjectDetection(config).save_pretrained(folder)
    from transformers.models.owlv2.image_processing_pil_owlv2 import Owlv2ImageProcessorPil

    pictures = Owlv2ImageProcessorPil(size={"height": 32, "width": 32})
    transformers.Owlv2Processor(image_processor=pictures, tokenizer=tokenizer).save_pretrained(folder)
    return str(folder)


def test_owl_gives_valid_detections_and_the_same_each_time(owl_folder):
    detector = OwlDetector(owl_folder, least_score=0.0)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 40, 3), dtype=np.uint8)
    phrases = ["dog", "red apple", "a phrase that is far longer than the sixteen tokens of the text tower " * 2]
    found = detector.detect([pixels], [phrases])[0]
    assert 1 <= len(found) <= 16
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    for one in found:
        assert one.phrase in phrases
        assert 0 < one.score < 1
        ymin, xmin, ymax, xmax = one.box
        assert 0 <= ymin < ymax <= 1
        assert 0 <= xmin < xmax <= 1
    assert detector.detect([pixels], [phrases])[0] == found
    assert detector.detect([pixels], [[]])[0] == []
    cut = np.median([one.score for one in found])
    kept = OwlDetector(owl_folder, least_score=float(cut)).detect([pixels], [phrases])[0]
    assert kept == [one for one in found if one.score >= cut]


def test_owl_agrees_with_transformers_post_processing(owl_folder):
    import torch
    import transformers

    detector = OwlDetector(owl_folder, least_score=0.0)
    pixels = np.random.default_rng(1).integers(0, 256, (20, 40, 3), dtype=np.uint8)
    processor = transformers.AutoProcessor.from_pretrained(owl_folder)
    model = transformers.Owlv2ForObjectDetection.from_pretrained(owl_folder).eval()
    inputs = processor(text=[["dog", "cat"]], images=[pixels], return_tensors="pt", padding="max_length", max_length=16)
    with torch.no_grad():
        outputs = model(**inputs)
    (theirs,) = processor.post_process_grounded_object_detection(
        outputs, threshold=0.0, target_sizes=[(20, 40)], text_labels=[["dog", "cat"]]
    )
    scores = dict(zip(theirs["scores"].tolist(), theirs["boxes"].numpy(), strict=True))
    for one in detector.detect([pixels], [["dog", "cat"]])[0]:
        nearest = min(scores, key=lambda score: abs(score - one.score))
        assert abs(nearest - one.score) < 1e-5
        left, top, right, bottom = scores[nearest]
        expected = np.clip([top / 20, left / 40, bottom / 20, right / 40], 0, 1)
        np.testing.assert_allclose(one.box, expected, atol=1e-4)


def test_many_phrases_are_looked_for_in_turns(owl_folder, monkeypatch):
    pixels = np.random.default_rng(2).integers(0, 256, (30, 30, 3), dtype=np.uint8)
    phrases = ["dog", "cat", "sun", "red apple", "tree"]
    detector = OwlDetector(owl_folder, least_score=0.0)
    whole = detector.detect([pixels], [phrases])[0]
    others = [pixels[:20, ::-1], np.array(pixels[::-1, :15])]
    few: list[list[str]] = [["sun"], [], phrases]
    alone = [detector.detect([picture], [names])[0] for picture, names in zip([*others, pixels], few, strict=True)]
    monkeypatch.setattr("diptych.engine.labelling.detectors._PHRASES_AT_ONCE", 2)
    turns = detector.detect([pixels], [phrases])[0]
    assert [one.phrase for one in turns] == [one.phrase for one in whole]
    np.testing.assert_allclose([one.score for one in turns], [one.score for one in whole], rtol=1e-4)
    for found, expected in zip(detector.detect([*others, pixels], few), alone, strict=True):
        assert [one.phrase for one in found] == [one.phrase for one in expected]
        np.testing.assert_allclose([one.score for one in found], [one.score for one in expected], rtol=1e-4)


def test_owl_fingerprint_follows_weights_and_least_score(owl_folder):
    one, other = OwlDetector(owl_folder), OwlDetector(owl_folder)
    assert one.fingerprint() == other.fingerprint() != OwlDetector(owl_folder, least_score=0.2).fingerprint()
    next(iter(other._model.parameters())).add_(1)
    assert one.fingerprint() != other.fingerprint()


def test_other_models_are_refused(tmp_path):
    pytest.importorskip("transformers", reason="the optional package transformers is not installed")
    (tmp_path / "config.json").write_text('{"model_type": "clip"}', encoding="utf-8")
    with pytest.raises(ValueError, match="is a clip, expected a checkpoint of owlvit or owlv2"):
        OwlDetector(str(tmp_path))
