"""Questions about pictures to learn from: a file of them, captions of any data, or the embedded scenes."""

from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

from diptych.core.data.emoji.composed_scenes import ComposedScenes
from diptych.core.data.emoji.concepts import HELD_OUT_DESIGNER, LICENCE, QUESTION_TOKENIZER_PATH
from diptych.core.data.emoji.scene_questions import SceneQuestions
from diptych.core.data.emoji.scene_tasks import BOX_STEPS, TASKS, TaskQuestions
from diptych.core.data.ledger import ledger_of
from diptych.core.data.records import Source
from diptych.core.data.sources.open import BLANK_SCENE_TASKS, LINES, SCENE_TASKS, SCENES
from diptych.core.data.sources.question_layouts import as_questions, found_in, judged_as, open_questions
from diptych.core.data.sources.questions import Judging, Questions
from diptych.core.data.sources.referring_questions import ReferringQuestions
from diptych.core.training.recipe import Data
from diptych.core.training.term_options import Prompted
from diptych.engine.datasets.data_set import DataSet, Sources
from diptych.engine.datasets.lines import lines
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


def questions(data: Data, prompted: Prompted) -> DataSet:
    """What `data.train_data` names, judged on `data.val_data`, or on a fraction that is held out: of a file of
    questions by their pictures. The scenes are judged on drawings by a designer never trained on, the tasks on composed
    scenes also on compositions never trained.
    """
    if data.train_data == LINES:
        return lines(data)
    if data.train_data in (SCENE_TASKS, BLANK_SCENE_TASKS):
        return DataSet(
            name=data.train_data,
            sources=lambda seed: _scene_tasks(blank=data.train_data == BLANK_SCENE_TASKS),
            tokenizer=QUESTION_TOKENIZER_PATH,
            context_length=SCENE_TOKENS,
            licence=LICENCE,
            judging=Judging(metrics=(METRIC,)),
        )
    if data.train_data != SCENES:
        opened = cache(lambda spec: open_asked(spec, data, prompted))
        return DataSet(
            name=data.train_data,
            sources=lambda seed: parted(data, lambda spec, _: opened(spec), HELD_OUT),
            tokenizer=Path(),
            context_length=OWN_TOKENS,
            pictures=pictures_of(opened(data.train_data), prompted) if data.train_data else prompted.pictures,
            judging=judged_as(opened(data.val_data or data.train_data)) if data.train_data else Judging(),
        )

    def sources(seed: int) -> Sources:
        train = SceneQuestions(training_scenes())
        if data.val_data is not None:
            return Sources(train=train, held_out={HELD_OUT: open_asked(data.val_data, data, prompted)})
        return Sources(train=train, held_out={NEW_SCENES: SceneQuestions(evaluation_scenes())})

    return DataSet(
        name=SCENES,
        sources=sources,
        tokenizer=QUESTION_TOKENIZER_PATH,
        context_length=SCENE_TOKENS,
        licence=LICENCE,
    )


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


def open_asked(spec: str, data: Data, prompted: Prompted) -> Source:
    """Questions in one of the layouts of `sources.question_layouts`, or anything with captions, which are answers to
    the prompt that a recipe names.

    Raises:
        ValueError: for data without captions; says what was found, and what was expected.
    """
    found = open_questions(spec, masks=prompted.masks)
    if prompted.masks is not None and not isinstance(found, ReferringQuestions):
        raise ValueError(f"--masks is for referring expressions: leave it out. {found_in(spec)}")
    if found is not None:
        ledger_of(found).max_skipped = data.reading.max_skipped
        return found
    try:
        return open_captioned(spec, data)
    except ValueError as error:
        raise ValueError(f"{error} {found_in(spec)}") from error


def judged_questions(spec: str, *, prompt: str) -> Questions:
    """The questions that a person's words mean, whose answers are to be judged; captions of any data are answers to one
    prompt. Errors as of `open_asked`.
    """
    source = open_asked(spec, Data(train_data=spec), Prompted(prompt=prompt))
    return source if isinstance(source, Questions) else as_questions(source, prompt, name=spec)


def asks(spec: str) -> bool:
    """Whether a person's words mean questions with answers, and not captions or classes."""
    return isinstance(open_questions(spec), Questions)


def pictures_of(source: Source, prompted: Prompted) -> int:
    """Pictures of an example: as many as the questions have; 1 for captions, of whose pictures one is drawn.

    Raises:
        ValueError: for questions about unequal numbers, and for another number than --pictures.
    """
    if not isinstance(source, Questions):
        return 1
    numbers = Counter(len(question.images) for question in source.questions)
    if len(numbers) > 1:
        listed = ", ".join(f"{count:,} about {number}" for number, count in sorted(numbers.items()))
        raise ValueError(
            f"{source.ledger.name} has questions about unequal numbers of pictures ({listed}), and a model is built "
            "for one number. Put those of each number into a file of their own."
        )
    (number,) = numbers
    if prompted.pictures not in (1, number):
        raise ValueError(f"--pictures is {prompted.pictures}, and {source.ledger.name} asks about {number}.")
    return number
