"""Questions about pictures to learn from: a file of them, captions of any data, or the embedded scenes."""

from collections import Counter
from functools import cache
from pathlib import Path

from diptych.core.data.emoji.concepts import LICENCE, QUESTION_TOKENIZER_PATH
from diptych.core.data.emoji.scene_questions import SceneQuestions
from diptych.core.data.ledger import ledger_of
from diptych.core.data.records import Source
from diptych.core.data.sources.open import SCENES
from diptych.core.data.sources.question_layouts import as_questions, found_in, judged_as, open_questions
from diptych.core.data.sources.questions import Judging, Questions
from diptych.core.data.sources.referring_questions import ReferringQuestions
from diptych.core.training.recipe import Data
from diptych.core.training.term_options import Prompted
from diptych.engine.datasets.data_set import DataSet, Sources
from diptych.engine.datasets.own import open_captioned, parted
from diptych.engine.datasets.scenes import evaluation_scenes, training_scenes

HELD_OUT, NEW_SCENES = "Held-out questions", "Questions about new scenes"
SCENE_TOKENS, OWN_TOKENS = 32, 128


def questions(data: Data, prompted: Prompted) -> DataSet:
    """What `data.train_data` names, judged on `data.val_data`, or on a fraction that is held out: of a file of
    questions by their pictures. The scenes are judged on drawings by a designer never trained on.
    """
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
