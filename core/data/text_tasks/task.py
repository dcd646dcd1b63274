"""Tasks on texts: which texts a task brings together, what its answer is, and how answers are judged."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from diptych.core.data.bad_example import BadExample
from diptych.core.data.sources.labels import ClassNames

LayoutName = Literal["classification", "entailment", "similarity", "multiple_choice"]
MetricName = Literal["accuracy", "f1", "matthews", "pearson", "spearman"]


@dataclass(frozen=True, kw_only=True)
class TextTask:
    """A task as Radford et al. 2018 fine-tune for (section 3.3, figure 1).

    Attributes:
        name: for people, and on the command line.
        layout: how texts become sequences; see `diptych.core.data.text_tasks.layouts`.
        labels: the classes in the order of the outputs, by the names that the data have for them; "" of a class that
            is known by its number alone. Empty where answers are scores or choices.
        scores: the least and the largest score, whole numbers; None where answers are not scores.
        choices: the number of answers to choose from, of multiple choice.
        metrics: how answers are judged, that of the headline first. F1 is of the last class.
    """

    name: str
    layout: LayoutName
    labels: tuple[str, ...] = ()
    scores: tuple[int, int] | None = None
    choices: int = 0
    metrics: tuple[MetricName, ...] = ("accuracy",)

    def __post_init__(self):
        if (bool(self.labels), self.scores is not None, bool(self.choices)).count(True) != 1:
            raise ValueError(f"Task {self.name} needs labels, scores or a number of choices, one of the three.")
        if self.outputs < 2:
            raise ValueError(f"Task {self.name} needs two answers or more to tell apart, got {self.outputs}.")
        if bool(self.choices) != (self.layout == "multiple_choice"):
            raise ValueError(f"Task {self.name}: choices belong to the layout multiple_choice, got {self.layout}.")
        judged = {"pearson", "spearman"} if self.scores else {"accuracy", "f1", "matthews"}
        if not self.metrics or not judged.issuperset(self.metrics):
            raise ValueError(f"Task {self.name} is judged by {', '.join(sorted(judged))}, got {self.metrics}.")

    @property
    def outputs(self) -> int:
        """Over how many answers the softmax is."""
        if self.scores:
            return self.scores[1] - self.scores[0] + 1
        return self.choices or len(self.labels)

    @property
    def texts(self) -> int:
        """The fewest texts of an example; multiple choice may have two, a context and a question."""
        return 1 if self.layout in ("classification", "multiple_choice") else 2

    @property
    def sequences(self) -> int:
        """How many sequences an example becomes."""
        return {"classification": 1, "entailment": 1, "similarity": 2}.get(self.layout, self.choices)

    def target(self, label: str) -> np.ndarray:
        """What the answers' probabilities should be, float32 [outputs].

        A score y between whole numbers is split: ⌊y⌋ gets 1 - (y - ⌊y⌋) and ⌊y⌋ + 1 the rest, so that the expected
        score is y (Tai et al. 2015, section 4.2; the released code's helper for STS-B).

        Raises:
            BadExample: label_unknown, for a class that the task has not; label_no_number and label_beyond, for scores.
        """
        target = np.zeros(self.outputs, np.float32)
        if self.scores is None:
            target[self._class_names().number(label)] = 1.0
            return target
        low, high = self.scores
        try:
            score = float(label)
        except ValueError:
            raise BadExample("label_no_number", f"{label[:100]!r}, and task {self.name} has scores") from None
        if not low <= score <= high:
            raise BadExample("label_beyond", f"{score:g}, and scores of task {self.name} are from {low} to {high}")
        below = min(int(np.floor(score)) - low, self.outputs - 2)
        share = score - low - below
        target[below], target[below + 1] = 1 - share, share
        return target

    def answers(self, probabilities: np.ndarray) -> np.ndarray:
        """What probabilities [examples, outputs] say: the number of the likeliest answer, int64 [examples]; of scores
        the expected one, float64 [examples]. `target` in their place gives the truth.
        """
        if self.scores is None:
            return probabilities.argmax(axis=1)
        return probabilities @ np.arange(self.scores[0], self.scores[1] + 1, dtype=np.float64)

    def _class_names(self) -> ClassNames:
        if self.labels:
            return ClassNames(self.labels)
        return ClassNames(tuple(f"choice {number}" for number in range(self.choices)))


@dataclass(frozen=True)
class TextExample:
    """One example of a task, as its data have it.

    Attributes:
        key: names it.
        texts: in the order of the layout: a text; premise and hypothesis; two texts alike; a context, and perhaps a
            question about it.
        answers: to choose from, of multiple choice.
        label: the name or number of a class, the number of the right answer from 0, or a score.
    """

    key: str
    texts: tuple[str, ...]
    answers: tuple[str, ...] = ()
    label: str = ""

    def check(self, task: TextTask) -> None:
        """Raises `BadExample` (text_empty, texts_count, choices_count) for what the task cannot use."""
        most = task.texts + (task.layout == "multiple_choice")
        if not task.texts <= len(self.texts) <= most:
            raise BadExample("texts_count", f"{len(self.texts)} texts, and task {task.name} needs {task.texts}")
        if len(self.answers) != task.choices:
            raise BadExample("choices_count", f"{len(self.answers)} answers, and task {task.name} has {task.choices}")
        for kind, texts in (("text", self.texts), ("answer", self.answers)):
            if (empty := first_empty(texts)) is not None:
                raise BadExample("text_empty", f"{kind} {empty + 1} of {len(texts)}")


def first_empty(texts: Sequence[str]) -> int | None:
    """The place of the first text in which there is nothing to read, None where all have something."""
    return next((place for place, text in enumerate(texts) if not text.strip()), None)
