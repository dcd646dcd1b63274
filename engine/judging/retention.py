"""Retention: what a model knew beside what it is fine-tuned on, as a data set to be judged by before and after."""

from pathlib import Path

from diptych.core.data.emoji import evaluation_set
from diptych.core.data.sources.files import evenly
from diptych.core.data.sources.reading import AS_USUAL, Reading
from diptych.core.data.sources.small import ChosenRecords
from diptych.engine.judging.sets import Dataset, EvaluationSet, open_dataset

NOTHING = "none"
"""What one types for no retention set."""
MOST_EMOJI = 500
"""Drawings of the default set."""


def retention_set(spec: str | None, *, index_folder: Path | None = None, reading: Reading = AS_USUAL) -> Dataset | None:
    """The data set of a --retention: whatever `recipes.evaluate` takes as --data; by default some of the
    embedded emoji by their English names, None for "none".

    Raises:
        FileNotFoundError, ValueError: as `engine.judging.sets.open_dataset`.
    """
    if spec == NOTHING:
        return None
    if spec is not None:
        return open_dataset(spec, index_folder=index_folder, reading=reading)
    source = evaluation_set(languages=("en",))
    some = ChosenRecords(source, evenly(range(len(source)), MOST_EMOJI))
    sets = [EvaluationSet(name="Emoji by their English names", source=some)]
    return Dataset(name="emoji, in English", sets=sets, tasks=("zeroshot_retrieval",))
