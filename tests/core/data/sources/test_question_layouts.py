"""Questions as data sets are downloaded: what is asked, answered and judged, and what is missing, said by its name."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from diptych.core.data.outlines import Outline
from diptych.core.data.sources.coco import CocoRegionSource
from diptych.core.data.sources.question_layouts import as_questions, found_in, open_questions
from diptych.core.data.sources.questions import Questions
from diptych.core.evaluation.answer_metrics import METRICS
from diptych.core.files.errors import WeightFileError
from diptych.core.files.plain_pickle import plain_pickle
from tests.core.data.pictures import encoded, pixels

PICTURE = encoded(pixels(0))
VQA_QUESTIONS = "v2_OpenEnded_mscoco_val2014_questions.json"
VQA_ANSWERS = "v2_mscoco_val2014_annotations.json"


def put(path: Path, content) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def vqa(folder: Path, *, raw: bool = False, people: int = 10) -> Path:
    asked = [(42, 420001, "What is it?"), (42, 420002, "How many?"), (73, 730001, "Where?")]
    questions = [{"image_id": image, "question_id": number, "question": text} for image, number, text in asked]
    put(folder / VQA_QUESTIONS, {"data_subtype": "val2014", "questions": questions})
    answers = [{"answer": f"a{one % 2}"} | ({"raw_answer": "A"} if raw else {}) for one in range(people)]
    annotations = [{"question_id": number, "answers": answers} for number in (420001, 730001)]
    put(folder / VQA_ANSWERS, {"annotations": annotations})
    put(folder / "val2014" / "COCO_val2014_000000000042.jpg", PICTURE)
    return folder / VQA_QUESTIONS


def text_vqa(folder: Path) -> Path:
    entry = {"question": "what brand?", "image_id": "0a1b", "answers": ["nokia"] * 10, "set_name": "val"}
    put(folder / "train_images" / "0a1b.jpg", PICTURE)
    return put(folder / "TextVQA_0.5.1_val.json", {"dataset_name": "textvqa", "data": [entry]})


def doc_vqa(folder: Path) -> Path:
    entry = {"questionId": 1, "question": "Which date?", "image": "documents/x_1.png", "answers": ["May 1", "1 May"]}
    put(folder / "spdocvqa_images" / "x_1.png", PICTURE)
    return put(folder / "spdocvqa_qas" / "val_v1.0_withQT.json", {"dataset_split": "val", "data": [entry]})


def chart_qa(folder: Path) -> Path:
    put(folder / "png" / "7.png", PICTURE)
    return put(folder / "val_human.json", [{"imgname": "7.png", "query": "What share?", "label": "12.5"}])


def refcoco(folder: Path, *, name: str = "refs(unc).p", outline=None) -> Path:
    images = [{"id": 9, "file_name": "COCO_train2014_000000000009.jpg", "width": 20, "height": 10}]
    annotation = {"id": 77, "image_id": 9, "bbox": [2, 1, 8, 4]} | ({"segmentation": outline} if outline else {})
    references = [
        {"ref_id": number, "ann_id": 77, "image_id": 9, "split": split, "sentences": [{"sent": "the man"}]}
        for number, split in enumerate(("train", "val"))
    ]
    put(folder / "instances.json", {"images": images, "annotations": [annotation]})
    put(folder / "train2014" / images[0]["file_name"], PICTURE)
    return put(folder / name, pickle.dumps(references, protocol=2) if name.endswith(".p") else references)


@pytest.mark.parametrize(
    ("make", "prompt", "answers", "metric", "lower_case"),
    [
        (vqa, "answer en What is it?", ("a0", "a1") * 5, "vqa", False),
        (lambda folder: vqa(folder, raw=True), "answer en What is it?", ("a0", "a1") * 5, "okvqa", False),
        (text_vqa, "answer en what brand?", ("nokia",) * 10, "vqa", False),
        (doc_vqa, "Which date?", ("May 1", "1 May"), "anls", True),
        (chart_qa, "What share?", ("12.5",), "relaxed", True),
        (refcoco, "detect the man", ("<loc0102><loc0102><loc0512><loc0512> the man",), "boxes", False),
    ],
)
def test_a_data_set_asks_as_a_model_is_transferred_and_is_judged_as_in_tables(
    tmp_path, make, prompt, answers, metric, lower_case
):
    path = make(tmp_path)
    split = "#val" if metric == "boxes" else ""
    for spec in (f"{path}{split}", f"{path.parent}{split}"):
        source = open_questions(spec)
        first = source.questions[0]
        assert (first.prompt, first.answers) == (prompt, answers)
        assert (source.judged.metrics, source.judged.lower_case) == ((metric,), lower_case)
        assert metric in METRICS
        record = source.record(0)
        assert source.read(record.images[0]) == PICTURE
        assert [caption.text for caption in record.captions] == list(answers)
    assert pickle.loads(pickle.dumps(source)).record(0) == record  # for worker processes


def test_a_question_without_an_answer_is_left_out_and_counted(tmp_path):
    source = open_questions(str(vqa(tmp_path)))
    assert [question.prompt for question in source.questions] == ["answer en What is it?", "answer en Where?"]
    assert source.ledger.left_out["question_unanswered"].names == [f"{VQA_QUESTIONS}: question 2"]


def test_pictures_and_answers_elsewhere_are_named(tmp_path):
    vqa(tmp_path)
    (tmp_path / "val2014").rename(tmp_path / "pictures")
    with pytest.raises(FileNotFoundError, match=r"COCO_val2014_000000000042.jpg, .* name their folder: questions:"):
        open_questions(str(tmp_path / VQA_QUESTIONS))
    put(tmp_path / "answers" / "a.json", json.loads((tmp_path / VQA_ANSWERS).read_bytes()))
    (tmp_path / VQA_ANSWERS).unlink()
    with pytest.raises(FileNotFoundError, match=f"{VQA_ANSWERS} is not beside it"):
        open_questions(str(tmp_path / VQA_QUESTIONS))
    spec = f"questions:{tmp_path / VQA_QUESTIONS},{tmp_path / 'answers/a.json'}:{tmp_path / 'pictures'}"
    assert open_questions(spec).questions[0].images == (tmp_path / "pictures" / "COCO_val2014_000000000042.jpg",)


@pytest.mark.parametrize(
    ("prepare", "spec", "words"),
    [
        (refcoco, "", r"holds the splits train \(1\), val \(1\): choose one, such as .*#train"),
        (refcoco, "#testA", "no phrase of testA, only of train, val"),
        (lambda folder: (text_vqa(folder), chart_qa(folder)), "", r"TextVQA.*\(TextVQA\), .*\(ChartQA\): choose one"),
        (vqa, f"/{VQA_ANSWERS}", "holds annotations, and no questions"),
        (lambda folder: put(folder / "a.json", b'{"questions": ['), "/a.json", "is not JSON"),
    ],
)
def test_what_must_be_chosen_or_mended_is_said(tmp_path, prepare, spec, words):
    prepare(tmp_path)
    with pytest.raises(ValueError, match=words):
        open_questions(f"{tmp_path}{spec}")


def test_what_is_no_data_of_questions_is_described(tmp_path):
    put(tmp_path / "instances_val2014.json", {"images": [], "annotations": [], "categories": []})
    (tmp_path / "photo.jpg").write_bytes(PICTURE)
    assert open_questions(str(tmp_path)) is None
    assert "instances_val2014.json (COCO's boxes). Expected lines of JSON" in found_in(str(tmp_path))


def test_captions_of_coco_answer_a_prompt(tmp_path):
    put(tmp_path / "val2014" / "b.jpg", PICTURE)
    captions = [{"image_id": 5, "caption": text} for text in ("A cat.", "The cat.")]
    content = {"images": [{"id": 5, "file_name": "b.jpg", "width": 4, "height": 4}], "annotations": captions}
    path = put(tmp_path / "annotations" / "captions_val2014.json", content)
    for spec in (tmp_path, path):
        source = open_questions(str(spec))
        assert isinstance(source, CocoRegionSource)
        asked = as_questions(source, "caption en", name="captions")
        assert isinstance(asked, Questions)
        assert (asked.questions[0].prompt, asked.questions[0].answers) == ("caption en", ("A cat.", "The cat."))
        assert (asked.judged.metrics, asked.read(asked.questions[0].images[0])) == (("cider",), PICTURE)


class Trap:
    """What a pickle can do when it is opened."""

    def __reduce__(self):
        return (pytest.fail, ("the pickle ran",))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_gives_plain_values_and_runs_nothing(protocol):
    values = [{"sent": "né", "ids": [1, 2.5, None, True], "split": ("a",)}]
    assert plain_pickle(pickle.dumps(values, protocol=protocol), "refs.p") == values
    for bad in (pickle.dumps([Trap()], protocol=protocol), pickle.dumps(values, protocol=protocol)[:-5], b""):
        with pytest.raises(WeightFileError, match="refs.p is not opened"):
            plain_pickle(bad, "refs.p")
    assert plain_pickle(b"(lp0\nS'caf\\xc3\\xa9'\np1\na.", "refs.p") == ["café"]  # of Python 2


def test_outlines_are_polygons_or_runs_down_the_columns():
    mask = Outline([[1, 1, 3, 1, 3, 2, 1, 2]], 4, 5).mask()
    assert np.argwhere(mask).tolist() == [[1, 1], [1, 2], [1, 3], [2, 1], [2, 2], [2, 3]]
    runs = Outline({"size": [3, 2], "counts": [1, 2, 3]}, 3, 2).mask()
    assert runs.T.tolist() == [[False, True, True], [False, False, False]]
    counts = [40, 3, 2, 40, 15]  # the differences of pycocotools: 40, 3, 2, 37, 13
    packed = Outline({"size": [10, 10], "counts": "X132U1="}, 10, 10)
    assert np.array_equal(packed.mask(), Outline({"size": [10, 10], "counts": counts}, 10, 10).mask())
    for bad in ([[1, 1, 2]], {"size": [3, 2], "counts": [1, 2]}, {"size": [2, 3], "counts": [6]}):
        with pytest.raises(Exception, match="region_outline"):
            Outline(bad, 3, 2).mask()
