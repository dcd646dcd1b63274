"""Sets that a model is judged on: the embedded emoji, folders of classes, clip-benchmark's, pictures with captions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from diptych.core.data.ledger import visit
from diptych.core.data.records import Source
from diptych.core.data.sources.clip_benchmark import (
    CLASS_NAMES,
    TEMPLATES,
    dataset_type,
    is_clip_benchmark,
    shards_of,
)
from diptych.core.data.sources.folder import FolderSource
from diptych.core.data.sources.labels import NO_LABEL, ClassNames, class_names_in, read_labels
from diptych.core.data.sources.open import open_source
from diptych.core.data.sources.reading import AS_USUAL, Reading
from diptych.core.data.sources.webdataset import WebDatasetSource
from diptych.core.evaluation.prompts import (
    GENERAL_TEMPLATES,
    read_class_names,
    read_templates,
    typed_class_names,
    typed_templates,
)
from diptych.engine.datasets.data_set import DataSet
from diptych.engine.datasets.open import known_data_set

Task = Literal["zeroshot_retrieval", "zeroshot_classification", "linear_probe"]
TASKS: tuple[Task, ...] = ("zeroshot_retrieval", "zeroshot_classification", "linear_probe")
TRAIN = "train"
SPLITS = frozenset({TRAIN, "training", "test", "val", "valid", "validation", "dev"})
RECORDS_ASKED = 100  # for captions, before a source is taken to have none


@dataclass(frozen=True, kw_only=True)
class Labels:
    """A class for each record of a source, and what the classes are called in prompts.

    names: [classes], for display.   of_records: int64 [records], -1 where there is none.
    templates: filled with the names, their embeddings averaged.
    kinds: instead of templates, for each class prompts that are different things of its kind.
    unlabelled: records without a usable label, by reason.
    """

    names: Sequence[str]
    of_records: np.ndarray
    templates: Sequence[str] = GENERAL_TEMPLATES
    kinds: Sequence[Sequence[str]] | None = None
    unlabelled: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class EvaluationSet:
    """Pictures with captions, labels, or both."""

    name: str
    source: Source
    labels: Labels | None = None


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """The sets a model is judged on, and the tasks they are made for.

    shots: what few-shot draws from; a set that is itself among `sets` is not tested. None: from each set, the rest is
        tested.
    """

    name: str
    sets: Sequence[EvaluationSet]
    shots: EvaluationSet | None = None
    tasks: tuple[Task, ...]


def open_dataset(
    spec: str,
    *,
    split: str = "test",
    class_names: Sequence[str] = (),
    templates: Sequence[str] = (),
    index_folder: Path | None = None,
    reading: Reading = AS_USUAL,
) -> Dataset:
    """The data set that a person means by what was typed.

    Args:
        spec: the name of a data set that diptych brings; a folder in clip-benchmark's layout; a folder with a folder a
            class (or a split of such); or whatever `core.data.sources.open` takes, with captions or labels.
        split: of folders that have several.
        class_names, templates: as they are typed (`core.evaluation.prompts`), in place of what the data set brings.
        index_folder: keeps the indices of tar shards.
        reading: fields of captions and images, and how many records may be bad.

    Raises:
        FileNotFoundError, ValueError: saying what is missing and what would be right.
    """
    known = known_data_set(spec)
    if known is not None:
        if class_names or templates:
            raise ValueError(f"the embedded data ({spec}) has prompts of its own: leave out --classes and --templates.")
        return _known(spec, known)
    folder = Path(spec)
    if folder.is_dir():
        if any(is_clip_benchmark(folder, name) for name in (split, *SPLITS)):
            dataset = _clip_benchmark(folder, split, index_folder, reading)
        else:
            dataset = _folder(folder, split, index_folder, reading)
    else:
        dataset = _pairs(spec, open_source(spec, index_folder=index_folder, reading=reading))
    return _with_prompts(dataset, class_names, templates)


def _known(name: str, data_set: DataSet) -> Dataset:
    """What a data set that diptych brings holds out: for the emoji the drawings of a designer never trained on,
    labelled by group.
    """
    sets = [
        EvaluationSet(name=held_out, source=source, labels=_classes(data_set, source))
        for held_out, source in data_set.sources(0).held_out.items()
    ]
    if sets[0].labels is None:
        return Dataset(name=name, sets=sets, tasks=("zeroshot_retrieval",))
    return Dataset(name=name, sets=sets, shots=sets[0], tasks=TASKS)


def _classes(data_set: DataSet, source: Source) -> Labels | None:
    classes = data_set.classes(source)
    if classes is None:
        return None
    return Labels(names=classes.names, of_records=classes.labels, kinds=classes.prompts)


def _clip_benchmark(folder: Path, split: str, index_folder: Path | None, reading: Reading) -> Dataset:
    if dataset_type(folder) == "retrieval":
        source = WebDatasetSource(shards_of(folder, split), index_folder=index_folder, reading=reading)
        return _captioned(f"{_name(folder)}, {split}", source)
    names = read_class_names(folder / CLASS_NAMES) if (folder / CLASS_NAMES).is_file() else ()
    templates = read_templates(folder / TEMPLATES) if (folder / TEMPLATES).is_file() else GENERAL_TEMPLATES
    sets = [
        _labelled_shards(
            f"{_name(folder)}, {part}",
            WebDatasetSource(shards_of(folder, part), index_folder=index_folder, reading=reading),
            names,
            templates,
        )
        for part in (split, *((TRAIN,) if split != TRAIN and is_clip_benchmark(folder, TRAIN) else ()))
    ]
    return _classified(_name(folder), *sets)


def _folder(folder: Path, split: str, index_folder: Path | None, reading: Reading) -> Dataset:
    """A folder of classes, of pictures with captions, of shards or tables; or of splits that are such folders."""
    root = folder / split if (folder / split).is_dir() else folder
    name = _name(folder) if root == folder else f"{_name(folder)}, {split}"
    classes = _class_folders(root)
    if root == folder and classes and set(classes) <= SPLITS:
        raise ValueError(f"{folder} holds the splits {', '.join(classes)}: choose one, --split {classes[0]}.")
    source = FolderSource(root, reading=reading) if classes else None
    if source is None or _has_captions(source):
        return _pairs(name, source or open_source(root, index_folder=index_folder, reading=reading))
    train = folder / TRAIN
    if root in (folder, train) or not _class_folders(train):
        return _classified(_name(folder), _labelled(name, source, classes))
    classes = sorted({*classes, *_class_folders(train)})
    return _classified(
        _name(folder),
        _labelled(name, source, classes),
        _labelled(f"{_name(folder)}, {TRAIN}", FolderSource(train, reading=reading), classes),
    )


def _classified(name: str, tested: EvaluationSet, shots: EvaluationSet | None = None) -> Dataset:
    return Dataset(name=name, sets=[tested], shots=shots, tasks=("zeroshot_classification",))


def _captioned(name: str, source: Source) -> Dataset:
    return Dataset(name=name, sets=[EvaluationSet(name=name, source=source)], tasks=("zeroshot_retrieval",))


def _pairs(name: str, source: Source) -> Dataset:
    if isinstance(source, WebDatasetSource) and _has_labels(source):
        return _classified(name, _labelled_shards(name, source, (), GENERAL_TEMPLATES))
    if _has_captions(source):
        return _captioned(name, source)
    classes = class_names_in(source).names if _has_labels(source) else ()
    if len(classes) < 2:
        raise ValueError(
            f"{name} has neither captions nor classes: none of its first {RECORDS_ASKED} records has a caption. Put "
            "the images of each class into a folder of its name, or give captions (a .txt beside each image, or "
            "captions.jsonl), or a list with a column label."
        )
    return _classified(name, _labelled(name, source, classes))


def _with_prompts(dataset: Dataset, class_names: Sequence[str], templates: Sequence[str]) -> Dataset:
    """The data set with the given names and templates, and every label among the names."""
    revised = partial(_revised, dataset=dataset.name, class_names=class_names, templates=templates)
    sets = [revised(each) for each in dataset.sets]
    return replace(dataset, sets=sets, shots=dataset.shots and revised(dataset.shots))


def _revised(
    each: EvaluationSet, *, dataset: str, class_names: Sequence[str], templates: Sequence[str]
) -> EvaluationSet:
    labels = each.labels
    if labels is None:
        if class_names or templates:
            raise ValueError(f"{dataset} has captions and no classes: leave out --classes and --templates.")
        return each
    if class_names:
        names = typed_class_names(class_names, dataset=dataset)
        if labels.names and len(names) != len(labels.names):
            raise ValueError(
                f"--classes {' '.join(class_names)} names {len(names)} classes, and {dataset} has {len(labels.names)}."
            )
        labels = replace(labels, names=names)
    largest = int(labels.of_records.max(initial=NO_LABEL))
    if not labels.names:
        raise ValueError(f"{dataset} has labels 0 to {largest} and no {CLASS_NAMES}: name the classes, --classes.")
    if largest >= len(labels.names):
        raise ValueError(f"{dataset} has labels up to {largest}, and only {len(labels.names)} classes are named.")
    if templates:
        labels = replace(labels, templates=typed_templates(templates, dataset=dataset))
    return replace(each, labels=labels)


def _labelled_shards(
    name: str, source: WebDatasetSource, names: Sequence[str], templates: Sequence[str]
) -> EvaluationSet:
    found = read_labels(source, None)
    labels = Labels(names=names, of_records=found.of_records, templates=templates, unlabelled=found.unlabelled)
    return EvaluationSet(name=name, source=source, labels=labels)


def _labelled(name: str, source: Source, classes: Sequence[str]) -> EvaluationSet:
    """Records that name their classes."""
    found = read_labels(source, ClassNames(tuple(classes)))
    shown = [name.replace("_", " ") for name in classes]
    labels = Labels(names=shown, of_records=found.of_records, unlabelled=found.unlabelled)
    return EvaluationSet(name=name, source=source, labels=labels)


def _class_folders(folder: Path) -> list[str]:
    """The folders directly below that may be classes: two or more, none of them hidden, and no lists, shards or
    tables.
    """
    others = ("*.jsonl", "*.tar", "*.parquet", "*.arrow", "*/*.parquet", "*/*.arrow")
    if not folder.is_dir() or any(next(folder.glob(pattern), None) for pattern in others):
        return []
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    return names if len(names) > 1 else []


def _name(folder: Path) -> str:
    return folder.absolute().name


def _has_captions(source: Source) -> bool:
    asked = range(min(len(source), RECORDS_ASKED))
    return any(captions for _, captions in visit(source, lambda record: record.captions, asked))


def _has_labels(source: Source) -> bool:
    asked = range(min(len(source), RECORDS_ASKED))
    return any(labels for _, labels in visit(source, lambda record: record.labels, asked))
