"""Tasks: the kinds of model that a run can train, each with all that differs between them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Protocol

from diptych.core.data.examples.preprocessing import Preprocessing
from diptych.core.training.card import Card
from diptych.core.training.learner import Learner
from diptych.core.training.recipe import Recipe
from diptych.core.training.run_folder import RunFolder
from diptych.engine.datasets.data_set import DataSet
from diptych.engine.training.planned_stage import PlannedStage
from diptych.engine.training.results import JudgedStage
from diptych.engine.training.start import Start
from diptych.engine.training.terms.stage_term import Terms


class Judge(Protocol):
    """What evaluates a stage in training and at its end."""

    preprocess: Any

    def quick(self) -> dict[str, float]:
        """What is watched during training."""
        ...

    def finish(self, learner: Learner, folder: RunFolder, card: Card) -> JudgedStage:
        """Evaluates everything, prints a table, writes the pages; returns the results."""
        ...


def adapters_merged(method: Callable[..., Any]) -> Callable[..., Any]:
    """A judge's method that sees what low-rank adapters add in the kernels themselves.

    The adapters are weights of the student and not of its model: what jax compiles of this takes them for constants.
    """

    @wraps(method)
    def merged(self, *arguments):
        with self._student.merged():
            return method(self, *arguments)

    return merged


@dataclass(frozen=True, kw_only=True)
class Task:
    """A kind of model, from its beginning to what a run of it leaves.

    Attributes:
        start_of: what a recipe begins from.
        with_start: the recipe with what its beginning decides where it said nothing.
        with_data: the recipe with what its data decide, and the data set.
        preprocess: how records become arrays in the first stage (`core.data.examples.preprocessing`).
        of_stage: the same as a stage has it.
        config: of the first stage's model.
        described: what a run begins from, in a line for people.
        missing_flags: those without which the recipe cannot be carried out, each with what to give.
        judge: evaluates a stage's model; its arguments are those of `engine.training.evaluation.Evaluation`, and by
            name the stage's `folder`, the folder `beginning` of the first stage, and `stop`.
        anew: beginnings of the weights that a checkpoint leaves nothing of.
        may_leave: beginnings of a checkpoint's weights that the model has no place for.
        settle: makes the last changes to a model that has a checkpoint's weights, and keeps what it finds before
            training; returns a sentence about the changes.
        save: writes the trained model and its processor into a folder.
        implementation: which implementation of its loss a run's card names.
        opening: what a run says of an opening, in which examples are of another kind, before a stage begins; None where
            there is none.
        turns: steps of a stage after which examples of another kind follow, each with a line about it.
    """

    start_of: Callable[[Recipe], Start]
    with_start: Callable[[Recipe, Start, Terms], Recipe]
    with_data: Callable[[Recipe], tuple[Recipe, DataSet]]
    preprocess: Callable[[Recipe, Start, DataSet], Preprocessing]
    of_stage: Callable[[PlannedStage, Any], Any] = lambda planned, preprocess: preprocess
    config: Callable[[Recipe, Start, DataSet, Any], Any]
    described: Callable[[Recipe, Start, Any], str]
    missing_flags: Callable[[Recipe, Start], list[str]]
    judge: Callable[..., Judge]
    anew: Callable[[Recipe, Start, Any], tuple[str, ...]] = lambda recipe, start, config: ()
    may_leave: tuple[str, ...] = ()
    settle: Callable[[Learner, Recipe, Start, Any], str] = lambda learner, recipe, start, evaluation: ""
    save: Callable[[Any, Any, Path], None]
    implementation: Callable[[Recipe], str] = lambda recipe: "none"
    opening: Callable[[PlannedStage, Any], str | None] = lambda planned, preprocess: None
    turns: Callable[[PlannedStage, Any], Mapping[int, str]] = lambda planned, preprocess: {}
