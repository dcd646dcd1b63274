"""Answers to questions about scenes without a language model: the usual one, and that to the nearest picture."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import keras
import numpy as np

from diptych.core.data.detections import parse_detections, place_text
from diptych.core.data.emoji.scene_tasks import TASKS, TaskQuestions
from diptych.core.data.records import Source
from diptych.core.evaluation.answer_metrics import answer_score
from diptych.core.evaluation.nearest import nearest
from diptych.core.training.recipe import Data
from diptych.core.training.term_options import Prompted
from diptych.engine.datasets.questions import METRIC, MIXED, questions, task_scenes
from diptych.engine.embedding.encoder import Encoder

TOWER = "emoji_36_languages"
BATCH = 250
USUAL, NEAREST, NEAREST_TOKENS = "usual answer", "nearest", "nearest, tokens"


@dataclass(frozen=True, kw_only=True)
class QuestionsAsked:
    """Prompts and answers, [n], and unit vectors of their pictures by the name of what made them, [n, width]."""

    prompts: Sequence[str]
    answers: Sequence[str]
    vectors: Mapping[str, np.ndarray]


def baseline_scores(learned: int, *, most: int | None = None) -> dict[str, dict[str, float]]:
    """Right answers by baseline and held-out set.

    Args:
        learned: training questions of each task that the baselines have seen.
        most: held-out questions of each set, the first ones; None for all.
    """
    encoder = Encoder.open(TOWER)
    scores: dict[str, dict[str, float]] = {USUAL: {}, NEAREST: {}, NEAREST_TOKENS: {}}
    trained: dict[str, QuestionsAsked] = {}
    for name, source in questions(Data(train_data="scene_tasks"), Prompted()).sources(0).held_out.items():
        task = name.partition(",")[0]
        if task == MIXED:
            continue
        if task not in trained:
            scenes = task_scenes(task, learned, seed=list(TASKS).index(task))
            trained[task] = _read(TaskQuestions({task: scenes}), learned, encoder)
        asked, known = _read(source, len(source) if most is None else most, encoder), trained[task]
        said = {USUAL: [usual_answer(asked.answers)] * len(asked.answers)}
        said |= {what: nearest_answers(known, asked, what) for what in asked.vectors}
        for what, answers in said.items():
            score, _ = answer_score(METRIC, answers, [[truth] for truth in asked.answers])
            scores[what][name] = score["value"]
    return scores


def usual_answer(answers: Sequence[str]) -> str:
    """The most frequent of true answers, so that no constant one is better; of boxes the medians of their sides."""
    boxes = [parse_detections(answer).found for answer in answers]
    if all(boxes):
        ymin, xmin, ymax, xmax = np.median([found[0].box for found in boxes], axis=0).tolist()
        return place_text((ymin, xmin, ymax, xmax))
    return Counter(answers).most_common(1)[0][0]


def _read(source: Source, count: int, encoder: Encoder) -> QuestionsAsked:
    records = [source.record(index) for index in range(count)]
    found: dict[str, list[np.ndarray]] = {NEAREST: [], NEAREST_TOKENS: []}
    for start in range(0, count, BATCH):
        pictures = [source.pixels(record.images[0]) for record in records[start : start + BATCH]]  # type: ignore[attr-defined]
        tokens = keras.ops.convert_to_numpy(encoder.model.image_features(encoder.processor.images(pictures))["tokens"])
        found[NEAREST_TOKENS].append(_unit(tokens.reshape(len(pictures), -1)))
        found[NEAREST].append(encoder.embed_images(pictures, batch_size=BATCH))
    return QuestionsAsked(
        prompts=[record.prompt for record in records],
        answers=[record.captions[0].text for record in records],
        vectors={what: np.concatenate(some) for what, some in found.items()},
    )


def nearest_answers(known: QuestionsAsked, asked: QuestionsAsked, what: str) -> list[str]:
    """The answer to the same prompt about the nearest picture; of all prompts where nobody asked this one."""
    answers = [""] * len(asked.prompts)
    prompts = np.array(known.prompts)
    for prompt in dict.fromkeys(asked.prompts):
        same, places = prompts == prompt, np.flatnonzero(np.array(asked.prompts) == prompt)
        allowed = same if same.any() else np.ones(len(prompts), bool)
        _, found = nearest(asked.vectors[what][places], known.vectors[what], 1, allowed=allowed)
        for place, index in zip(places.tolist(), found[:, 0].tolist(), strict=True):
            answers[place] = known.answers[index]
    return answers


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)
