"""The tasks by name, each with the files in which its data are distributed and the columns that are read of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from diptych.core.data.text_tasks.task import TextTask

Kind = Literal["tsv", "csv", "jsonl", "race"]


@dataclass(frozen=True, kw_only=True)
class Format:
    """How a task's data are written down.

    Attributes:
        task: what is learned from them.
        kind: "tsv" as GLUE has it, tabs between cells and no quotes; "csv"; "jsonl", an object a line; "race", a file
            for each article with its questions.
        texts, answers, label: columns by name or, of files without a header, by number from 0; of "race" none.
        joined: whether the texts are parts of one, with spaces between them.
        answers_from: the number by which the right one of several answers is counted: 1 where the first is 1.
        names: other names that data have for the task's labels.
        unlabelled: labels that say that there is none.
        train, held_out: patterns of the files in the folder that a task is distributed in; of held-out ones each set by
            its name, that of the headline first.
        split: the number of examples that are held out of the training file, and the seed, as the released code does
            where there is one file with labels; None for a share by key.
    """

    task: TextTask
    kind: Kind
    texts: tuple[str | int, ...] = ()
    label: str | int = ""
    answers: tuple[str | int, ...] = ()
    joined: bool = False
    answers_from: int = 0
    names: Mapping[str, str] | None = None
    unlabelled: tuple[str, ...] = ("-",)
    train: str
    held_out: Mapping[str, str]
    split: tuple[int, int] | None = None

    @property
    def has_header(self) -> bool:
        """Whether the first row names the columns."""
        return not isinstance(self.label, int)


ENTAILMENT = ("entailment", "neutral", "contradiction")
BINARY_ENTAILMENT = ("not_entailment", "entailment")
DEV = {"Held-out texts": "dev.tsv"}


def _glue(name: str, texts: tuple[str | int, ...], label: str | int = "label", **of_task) -> Format:
    held_out = of_task.pop("held_out", DEV)
    return Format(
        task=TextTask(name=name, **of_task), kind="tsv", texts=texts, label=label, train="train.tsv", held_out=held_out
    )


FORMATS: Mapping[str, Format] = {
    "cola": _glue("cola", (3,), 1, layout="classification", labels=("0", "1"), metrics=("matthews", "accuracy")),
    "sst2": _glue("sst2", ("sentence",), layout="classification", labels=("0", "1")),
    "mrpc": _glue(
        "mrpc",
        ("#1 String", "#2 String"),
        "Quality",
        layout="similarity",
        labels=("0", "1"),
        metrics=("f1", "accuracy"),
    ),
    "qqp": _glue(
        "qqp",
        ("question1", "question2"),
        "is_duplicate",
        layout="similarity",
        labels=("0", "1"),
        metrics=("f1", "accuracy"),
    ),
    "stsb": _glue(
        "stsb",
        ("sentence1", "sentence2"),
        "score",
        layout="similarity",
        scores=(0, 5),
        metrics=("pearson", "spearman"),
    ),
    "mnli": _glue(
        "mnli",
        ("sentence1", "sentence2"),
        "gold_label",
        layout="entailment",
        labels=ENTAILMENT,
        held_out={"Held-out texts, matched": "dev_matched.tsv", "Held-out texts, mismatched": "dev_mismatched.tsv"},
    ),
    "qnli": _glue("qnli", ("question", "sentence"), layout="entailment", labels=BINARY_ENTAILMENT),
    "rte": _glue("rte", ("sentence1", "sentence2"), layout="entailment", labels=BINARY_ENTAILMENT),
    "snli": Format(
        task=TextTask(name="snli", layout="entailment", labels=ENTAILMENT),
        kind="jsonl",
        texts=("sentence1", "sentence2"),
        label="gold_label",
        train="snli_*train.jsonl",
        held_out={"Held-out texts": "snli_*dev.jsonl", "Test texts": "snli_*test.jsonl"},
    ),
    "scitail": Format(
        task=TextTask(name="scitail", layout="entailment", labels=("neutral", "entailment")),
        kind="jsonl",
        texts=("sentence1", "sentence2"),
        label="gold_label",
        names={"entails": "entailment"},
        train="scitail_*train.txt",
        held_out={"Held-out texts": "scitail_*dev.txt", "Test texts": "scitail_*test.txt"},
    ),
    "race": Format(
        task=TextTask(name="race", layout="multiple_choice", choices=4),
        kind="race",
        train="train/*/*.txt",
        held_out={
            "Held-out questions": "dev/*/*.txt",
            "Test questions, middle school": "test/middle/*.txt",
            "Test questions, high school": "test/high/*.txt",
        },
    ),
    "rocstories": Format(
        task=TextTask(name="rocstories", layout="multiple_choice", choices=2),
        kind="csv",
        texts=("InputSentence1", "InputSentence2", "InputSentence3", "InputSentence4"),
        answers=("RandomFifthSentenceQuiz1", "RandomFifthSentenceQuiz2"),
        label="AnswerRightEnding",
        joined=True,
        answers_from=1,
        train="cloze_test_val*.csv",
        held_out={"Test stories": "cloze_test_test*.csv"},
        split=(374, 3535999445),
    ),
}
"""Of the paper's twelve tasks, with RTE, MNLI and their kin as GLUE distributes them (Radford et al. 2018, table 1)."""
