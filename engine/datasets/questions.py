"""Questions about pictures to learn from: a file of them, captions of any data, or the embedded scenes."""

from pathlib import Path
from typing import Any

from diptych.core.data.emoji.composed_scenes import ComposedScenes
from diptych.core.data.emoji.concepts import HELD_OUT_DESIGNER, QUESTION_TOKENIZER_PATH
from diptych.core.data.emoji.scene_questions import SceneQuestions
from diptych.core.data.emoji.scene_tasks import BOX_STEPS, TASKS, TaskQuestions
from diptych.core.data.records import Source
from diptych.core.data.sources.open import BLANK_SCENE_TASKS, SCENE_TASKS, SCENES
from diptych.core.data.sources.questions import Questions, is_questions
from diptych.core.training.recipe import Data
from diptych.engine.datasets.data_set import DataSet, Sources
from diptych.engine.datasets.own import open_captioned, parted
from diptych.engine.datasets.scenes import (
    DESIGNERS,
    EVALUATION_SEED,
    SETTINGS,
    TRAINING_SCENES,
    evaluation_scenes,
    training_scenes,
)

HELD_OUT, NEW_SCENES = "Held-out questions", "Questions about new scenes"
MIXED, METRIC = "all tasks", "exact_or_box"
"""The first set of questions about composed scenes, and how answers to them are judged."""
NEW_DESIGNER, NEW_COMPOSITIONS = "new designer", "new compositions"
SCENE_TOKENS, OWN_TOKENS = 32, 128
ASKED_SCENES = (SCENES, SCENE_TASKS, BLANK_SCENE_TASKS)
TASK_DESIGNERS = (*DESIGNERS, "noto_v1", "fluent_3d")
TASK_SCENES: dict[str, Any] = {**SETTINGS, "size": (96, 96), "languages": ("en",), "designers": TASK_DESIGNERS}
QUESTIONS_OF_TASK = 320
"""Held-out ones, of each task and kind."""


def questions(data: Data) -> DataSet:
    """What `data.train_data` names, judged on `data.val_data`, or on a fraction that is held out: of a file of
    questions by their pictures. The scenes are judged on drawings by a designer never trained on, the tasks on composed
    scenes also on compositions never trained.
    """
    if data.train_data in (SCENE_TASKS, BLANK_SCENE_TASKS):
        return DataSet(
            name=data.train_data,
            sources=lambda seed: _scene_tasks(blank=data.train_data == BLANK_SCENE_TASKS),
            tokenizer=QUESTION_TOKENIZER_PATH,
            context_length=SCENE_TOKENS,
        )
    if data.train_data != SCENES:
        return DataSet(
            name=data.train_data,
            sources=lambda seed: parted(data, open_asked, HELD_OUT),
            tokenizer=Path(),
            context_length=OWN_TOKENS,
        )

    def sources(seed: int) -> Sources:
        train = SceneQuestions(training_scenes())
        if data.val_data is not None:
            return Sources(train=train, held_out={HELD_OUT: open_asked(data.val_data, data)})
        return Sources(train=train, held_out={NEW_SCENES: SceneQuestions(evaluation_scenes())})

    return DataSet(name=SCENES, sources=sources, tokenizer=QUESTION_TOKENIZER_PATH, context_length=SCENE_TOKENS)


def task_scenes(task: str, length: int, *, compositions: str = "trained", **settings: Any) -> ComposedScenes:
    """Scenes that a task asks about; `settings` as for `ComposedScenes`."""
    found = TASKS[task]
    own = {**found.settings, **(found.settings_of_new if compositions == "new" else {})}
    return ComposedScenes(length=length, **{**TASK_SCENES, **own, "compositions": compositions, **settings})


def _scene_tasks(*, blank: bool) -> Sources:
    """All tasks to train on, by several designers; held out are a new designer's drawings, and those of the designers
    that are trained on in compositions that never are. The first set is of all tasks.
    """

    def of(length: int, seed: int, **settings: Any) -> dict[str, ComposedScenes]:
        return {task: task_scenes(task, length, seed=seed + place, **settings) for place, task in enumerate(TASKS)}

    held_out: dict[str, Any] = {}
    new_designer = {"designers": (HELD_OUT_DESIGNER,)}
    mixed = of(QUESTIONS_OF_TASK // len(TASKS), EVALUATION_SEED + len(TASKS), **new_designer)
    held_out[f"{MIXED}, {NEW_DESIGNER}"] = TaskQuestions(mixed, blank=blank)
    kinds: dict[str, dict[str, Any]] = {NEW_DESIGNER: new_designer, NEW_COMPOSITIONS: {"compositions": "new"}}
    for kind, settings in kinds.items():
        for task, scenes in of(QUESTIONS_OF_TASK, EVALUATION_SEED, **settings).items():
            held_out[f"{task}, {kind}"] = TaskQuestions({task: scenes}, blank=blank)
    train = TaskQuestions(of(TRAINING_SCENES, 0), steps=BOX_STEPS, blank=blank)
    return Sources(train=train, held_out=held_out)


def open_asked(spec: str, data: Data) -> Source:
    """A file of questions, or anything with captions, which are answers to the prompt that a recipe names.

    Raises:
        ValueError: for questions about several pictures, and for data without captions.
    """
    if not is_questions(spec):
        return open_captioned(spec, data)
    source = Questions(Path(spec))
    several = [place for place, question in enumerate(source.questions) if len(question.images) > 1]
    if several:
        raise ValueError(
            f"{source.record_name(several[0])} of {spec} is about {len(source.questions[several[0]].images)} pictures, "
            f"and {len(several):,} questions are about several. A model is fine-tuned on one picture an example: leave "
            "these lines out, or put their pictures side by side into one."
        )
    return source
