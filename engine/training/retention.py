"""The retention set of a run that began from a checkpoint: what the checkpoint knew beside what it is tuned for."""

from pathlib import Path

from diptych.core.data.examples.preprocess import Preprocess
from diptych.core.training.recipe import Recipe
from diptych.core.training.signals import StopSignals
from diptych.engine.datasets.open import known_data_set
from diptych.engine.embedding.encoder import Encoder
from diptych.engine.embedding.stored_embeddings import StoredEmbeddings
from diptych.engine.judging.retention import retention_set
from diptych.engine.judging.sets import Dataset
from diptych.engine.judging.tasks import headlines, judge
from diptych.engine.training.saved_model import trained_processor
from diptych.models.siglip.student import Student


class Retention:
    """Judges a student, as it is at the moment, by what `recipes.evaluate` takes.

    Args:
        dataset: the retention set.
        student, preprocess: what is trained, and how its pictures and texts are prepared.
        folder: keeps the embeddings, so that a judgement that is stopped goes on.
        stop: asked after each batch.
    """

    def __init__(self, dataset: Dataset, student: Student, preprocess: Preprocess, folder: Path, stop: StopSignals):
        self.dataset, self._student = dataset, student
        encoder = Encoder(student.towers, trained_processor(student.config, preprocess))
        self._store = StoredEmbeddings(folder, encoder, model=str(folder.parent), batch_size=64, stop=stop)

    def judge(self) -> dict[str, float]:
        """The headline of each task, by the names of its set and its metric; raises Stopped where a signal came."""
        with self._student.merged():
            return headlines(judge(self._store.renewed(), self.dataset))


def retention_of(
    recipe: Recipe, student: Student, preprocess: Preprocess, folder: Path, stop: StopSignals
) -> Retention | None:
    """The retention set that --retention names; None for a run that began with fresh weights.

    By default it is the embedded emoji, for runs that write a report, unless they train on the embedded data
    themselves.
    """
    asked, run = recipe.run.retention, recipe.run
    by_default = run.report and known_data_set(recipe.data.train_data) is None
    if recipe.model.pretrained is None or (asked is None and not by_default):
        return None
    dataset = retention_set(asked, index_folder=folder / "shards", reading=recipe.data.reading)
    return None if dataset is None else Retention(dataset, student, preprocess, folder / "retention", stop)
