"""Finished and unfinished runs, as what they left in their folder."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from diptych.core.training.card import Card
from diptych.core.training.metrics import MetricsRow, read_metrics
from diptych.core.training.results import Scores, read_results
from diptych.core.training.run_folder import RunFolder, RunFolderError
from diptych.engine.embedding.encoder import Encoder
from diptych.models import ImageClassifier


@dataclass(frozen=True)
class TrainedRun:
    """What a run, or a stage of one, left.

    Attributes:
        folder: where it lies.
        card: what was run, on what, and by which command; `card["config"]` is the recipe.
    """

    folder: Path
    card: Card

    @property
    def stages(self) -> tuple[str, ...]:
        """The names of its stages that have a folder of their own, in the recipe's order; none for a run of one
        stage.
        """
        named = [stage["name"] for stage in self.card["config"].get("stages", ())]
        return tuple(name for name in named if (self.folder / name / "card.json").is_file())

    def stage(self, name: str) -> "TrainedRun":
        """One of its stages."""
        if name not in self.stages:
            raise ValueError(
                f"{self.folder} holds no stage {name!r}; it has {', '.join(self.stages) or 'one stage alone'}."
            )
        return load_run(self.folder / name)

    @property
    def results(self) -> dict[str, Scores]:
        """What its stages scored, by name (`core.training.results`); raises FileNotFoundError for a run that has not
        ended.
        """
        return read_results(self.folder / "results.json")

    @property
    def metrics(self) -> list[MetricsRow]:
        """A row a step, and one an evaluation; empty for a run whose stages have folders of their own."""
        return read_metrics(self.folder / "metrics.jsonl")

    @cached_property
    def encoder(self) -> Encoder:
        """Its model and processor together; raises FileNotFoundError where it has left no model."""
        if not (self.folder / "model" / "config.json").is_file():
            stages = f" Take that of a stage: {', '.join(self.stages)}." if self.stages else ""
            raise FileNotFoundError(
                f"{self.folder} holds no model: the run has not ended, or its stages have one each.{stages}"
            )
        return Encoder.open(self.folder)

    @property
    def model(self):
        """The trained towers, or the classifier, a Keras model."""
        if any("classification" in stage.get("losses", ()) for stage in self.card["config"].get("stages", ())):
            return ImageClassifier.from_preset(self.folder / "model")
        return self.encoder.model

    @property
    def processor(self):
        """What turns pictures and texts into the model's inputs."""
        return self.encoder.processor


def load_run(folder: str | Path) -> TrainedRun:
    """The run in a folder, as `python -m recipes.siglip --run-dir FOLDER` leaves it; models are read when asked for.

    Raises:
        RunFolderError: for a folder without a run.
    """
    run = RunFolder(folder)
    card = run.read_card()
    if card is None:
        raise RunFolderError(f"{run.path.absolute()} holds no run: expected card.json. Give the folder of --run-dir.")
    return TrainedRun(run.path, card)
