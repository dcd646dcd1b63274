"""Questions about pictures to learn from: a file of them, captions of any data, or the embedded scenes."""

from pathlib import Path

from diptych.core.data.emoji.concepts import QUESTION_TOKENIZER_PATH
from diptych.core.data.emoji.scene_questions import SceneQuestions
from diptych.core.data.records import Source
from diptych.core.data.sources.open import LINES, SCENES
from diptych.core.data.sources.questions import Questions, is_questions
from diptych.core.training.recipe import Data
from diptych.engine.datasets.data_set import DataSet, Sources
from diptych.engine.datasets.lines import lines
from diptych.engine.datasets.own import open_captioned, parted
from diptych.engine.datasets.scenes import evaluation_scenes, training_scenes

HELD_OUT, NEW_SCENES = "Held-out questions", "Questions about new scenes"
SCENE_TOKENS, OWN_TOKENS = 32, 128


def questions(data: Data) -> DataSet:
    """What `data.train_data` names, judged on `data.val_data`, or on a fraction that is held out: of a file of
    questions by their pictures. The scenes are judged on drawings by a designer never trained on.
    """
    if data.train_data == LINES:
        return lines(data)
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
