"""A model judged on a file of questions: scores, what is left out, and going on after a stop."""

import json

import pytest

from diptych.core.data.detections import place_text
from diptych.core.data.sources.questions import read_lines
from diptych.core.evaluation.answer_metrics import METRICS, answer_score
from diptych.core.training.signals import StopSignals
from diptych.recipes.judge_answers import JudgeAnswers, judge_answers
from tests.core.data.pictures import encoded, pixels
from tests.marks import ABOVE_THE_BACKENDS

pytestmark = ABOVE_THE_BACKENDS

ROWS = [
    {"image": "a.png", "prefix": "what?", "suffix": "a cat"},
    {"image": "missing.png", "prefix": "what?", "suffix": "a dog"},
    {"image": "b.png", "prefix": "who?", "answers": ["two", "2", "2", "3"]},
    {"image": "a.png", "prefix": "where?", "suffix": "here"},
]


class Scripted:
    """In place of an answerer: answers by prompt; it can stop after some."""

    def __init__(self, told: dict[str, str], *, fails_at: str = ""):
        self.told, self.fails_at, self.asked = told, fails_at, []
        self.processor = self

    def fingerprint(self) -> str:
        return "the same"

    def answers(self, pictures, prompts, **choices):
        if self.fails_at in prompts:
            raise KeyboardInterrupt
        assert [len(picture.shape) for picture in pictures] == [3] * len(prompts)
        self.asked += prompts
        return [self.told[prompt] for prompt in prompts]


@pytest.fixture
def questions(tmp_path):
    for name, seed in (("a.png", 0), ("b.png", 1)):
        (tmp_path / name).write_bytes(encoded(pixels(seed)))
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)) + "\n\n")
    return path


def judged(questions, answerer, **changes) -> dict:
    output = questions.parent / "out" / "results.json"
    options = JudgeAnswers(
        model="m", data=str(questions), metric=("exact", "okvqa"), batch_size=1, output=output, **changes
    )
    with StopSignals() as stop:
        assert judge_answers(options, lambda model, **_: answerer, stop) == 0
    return json.loads(output.read_text())


def test_answers_are_scored_and_what_cannot_be_asked_is_told(questions, capsys):
    told = {"what?": "a cat", "who?": "two", "where?": "there"}
    results = judged(questions, Scripted(told))
    exact, agreement = results["results"]
    assert (exact["metric"], exact["questions"], exact["value"]) == ("exact", 3, pytest.approx(2 / 3))
    assert agreement["value"] == pytest.approx((1 / 3 + 1 / 3 + 0) / 3)
    assert [row["question"] for row in results["answers"]] == [1, 3, 4]
    assert "missing.png" in capsys.readouterr().out


def test_a_stopped_command_goes_on(questions):
    told = {"what?": "a cat", "who?": "2", "where?": "here"}
    first = Scripted(told, fails_at="where?")
    with pytest.raises(KeyboardInterrupt):
        judged(questions, first)
    second = Scripted(told)
    results = judged(questions, second)
    assert (first.asked, second.asked) == (["what?", "who?"], ["where?"])
    assert results["results"][0]["value"] == 1.0
    with pytest.raises(ValueError, match="asked otherwise. Give another --output"):
        judged(questions, second, steps=3)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"image": "a.png", "prefix": "what?"}', "line 1 of .* has the fields image, prefix, expected"),
        ("not JSON", "line 1 of"),
        ("", "holds no question"),
    ],
)
def test_what_is_no_question_is_named(tmp_path, line, message):
    (tmp_path / "q.jsonl").write_text(line)
    with pytest.raises(ValueError, match=message):
        read_lines(tmp_path / "q.jsonl")


def test_every_metric_has_its_known_value():
    box, near, far = (place_text(box) for box in ((0, 0, 0.5, 0.5), (0, 0, 0.5, 0.4), (0.5, 0.5, 1, 1)))
    cases = {
        "exact": (["a", "b"], [["a"], ["c", "d"]], 0.5),
        "vqa": (["cat", "x"], [["cat"] * 10, ["dog"] * 10], 0.5),
        "okvqa": (["cat"], [["cat", "cat", "dog"]], 2 / 3),
        "relaxed": (["102", "3"], [["100"], ["4"]], 0.5),
        "anls": (["kitten"], [["sitting"]], 4 / 7),
        "boxes": ([f"{near} cat", f"{far} cat", "nothing"], [[f"{box} cat"]] * 3, 1 / 3),
        "exact_or_box": ([near, far, "2", near], [[box], [box], ["2"], ["2"]], 0.5),
        "cider": (["a cat on a mat", "two dogs run here"], [["a cat on a mat"], ["two dogs run here"]], 10.0),
    }
    assert cases.keys() == set(METRICS)
    for metric, (answers, truths, expected) in cases.items():
        score, each = answer_score(metric, answers, truths)
        assert (score["value"], len(each)) == (pytest.approx(expected), len(answers)), metric
    assert answer_score("exact", ["A"], [["a"]], lower_case=True)[0]["value"] == 1.0
    with pytest.raises(ValueError, match="has no box"):
        answer_score("boxes", [box], [["a cat"]])
