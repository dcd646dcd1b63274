"""Retention: what a model knew beside what it is fine-tuned on, as a data set to be judged by before and after."""

from pathlib import Path

from diptych.core.data.sources.reading import AS_USUAL, Reading
from diptych.engine.datasets.emoji import evaluation_sources
from diptych.engine.judging.sets import Dataset, EvaluationSet, open_dataset

NOTHING = "none"
"""What one types for no retention set."""


def retention_set(spec: str | None, *, index_folder: Path | None = None, reading: Reading = AS_USUAL) -> Dataset | None:
    """The data set of a --retention: whatever `recipes.evaluate` takes as --dataset; by default the embedded emoji by
    their English names, None for "none".

    Raises:
        FileNotFoundError, ValueError: as `engine.judging.sets.open_dataset`.
    """
    if spec == NOTHING:
        return None
    if spec is not None:
        return open_dataset(spec, index_folder=index_folder, reading=reading)
    sets = [
        EvaluationSet(name=f"Emoji, {name.lower()}", source=source)
        for name, source in evaluation_sources(languages=("en",)).items()
    ]
    return Dataset(name="emoji, in English", sets=sets, tasks=("zeroshot_retrieval",))
