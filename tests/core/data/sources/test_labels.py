"""Labels: the same classes from folders, CSV, shards and tables; what is no class is named."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from diptych.core.data.ledger import ledger_of, visit
from diptych.core.data.records import BadExample, Source
from diptych.core.data.sources.labels import NO_LABEL, ClassNames, class_names_in, labels_from_fields, read_labels
from diptych.core.data.sources.open import open_source
from diptych.core.data.sources.reading import Reading
from tests.core.data.pictures import encoded, pixels
from tests.core.data.sources.content import add_member

LABELS = ["dog", "cat", "dog", "great_tit"]


def write(folder: Path, kind: str) -> Source:
    """Four pictures with their labels, as data of a kind."""
    pictures = [encoded(pixels(place)) for place in range(4)]
    if kind == "folders":
        for place, label in enumerate(LABELS):
            (folder / label).mkdir(exist_ok=True)
            (folder / label / f"{place}.png").write_bytes(pictures[place])
        return open_source(folder)
    if kind == "csv":
        rows = "".join(f"{place}.png,{label}\n" for place, label in enumerate(LABELS))
        (folder / "train.csv").write_text("file_name,label\n" + rows)
        for place, data in enumerate(pictures):
            (folder / f"{place}.png").write_bytes(data)
        return open_source(folder / "train.csv")
    if kind == "tar":
        with tarfile.open(folder / "a.tar", "w") as tar:
            for place, label in enumerate(LABELS):
                add_member(tar, f"{place}.png", pictures[place])
                add_member(tar, f"{place}.cls", label.encode())
        return open_source(folder / "a.tar")
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    names = ["dog", "cat", "great_tit"]
    features = {"label": {"names": names, "_type": "ClassLabel"}}
    table = pyarrow.table({"image": pictures, "label": [names.index(label) for label in LABELS]})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    parquet.write_table(table, folder / "a.parquet")
    return open_source(folder / "a.parquet")


@pytest.mark.parametrize("kind", ["folders", "csv", "tar", "parquet"])
def test_every_form_of_data_has_the_same_labels(kind, tmp_path):
    source = write(tmp_path, kind)
    found = [labels for _, labels in visit(source, lambda record: record.labels)]
    assert sorted(found) == sorted((label,) for label in LABELS)
    classes = class_names_in(source)
    # Hugging Face's tables have an order of their own; elsewhere it is the alphabet's.
    assert classes.names == (("dog", "cat", "great_tit") if kind == "parquet" else ("cat", "dog", "great_tit"))
    numbers = read_labels(source, classes)
    assert [classes.names[number] for number in numbers.of_records] == [labels[0] for labels in found]
    assert numbers.unlabelled == {}


def test_a_label_that_is_no_class_is_named_and_counted(tmp_path):
    source, classes = write(tmp_path, "csv"), ClassNames(("cat", "dog"))
    numbers = read_labels(source, classes)
    np.testing.assert_array_equal(numbers.of_records, [1, 0, 1, NO_LABEL])
    assert numbers.unlabelled == {"label_unknown": 1}
    with pytest.raises(BadExample, match="'great_tit' is none of the 2 classes: cat, dog"):
        classes.number("great_tit")
    list(visit(source, lambda record: classes.numbers(record.labels)))
    (skipped,) = ledger_of(source).skipped.values()
    assert (skipped.name, skipped.reason) == ("3.png", "label_unknown")
    assert "'great_tit'" in skipped.detail


def test_a_label_is_a_name_or_else_a_number():
    classes = ClassNames(("zero", "one", "0"))
    assert [classes.number(label) for label in ("one", "1", "0", "2")] == [1, 1, 2, 2]
    for wrong in ("3", "-1", "", "1" * 30):
        with pytest.raises(BadExample, match="label_unknown"):
            classes.number(wrong)
    assert classes.numbers(("one|zero", "2")) == [1, 0, 2]


def test_fields_of_other_names_and_kinds_are_read():
    assert labels_from_fields({"label": 3}) == ("3",)
    assert labels_from_fields({"label": None, "class": " x "}) == ("x",)
    assert labels_from_fields({"labels": ["a", 1, None, True, 2.5]}, class_names=("zero", "one")) == ("a", "one")
    assert labels_from_fields({"kind": "a"}) == ()
    assert labels_from_fields({"kind": "a", "label": "b"}, Reading(label_field="kind").labels_in(("label",))) == ("a",)


def test_numbers_are_in_the_order_of_their_size(tmp_path):
    rows = "".join(f"{number}.png,{number}\n" for number in (10, 9, 2))
    (tmp_path / "train.csv").write_text("file_name,class\n" + rows)
    assert class_names_in(open_source(tmp_path / "train.csv")).names == ("2", "9", "10")


def test_data_without_labels_say_what_would_be_one(tmp_path):
    (tmp_path / "train.csv").write_text("file_name,caption\na.png,a cat\n")
    with pytest.raises(ValueError, match="--label-field names another"):
        class_names_in(open_source(tmp_path / "train.csv"))
