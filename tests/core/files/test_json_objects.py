"""JSON beside weights is read within limits and replaced whole."""

import pytest

from diptych.core.files.errors import WeightFileError
from diptych.core.files.json_objects import MAX_BYTES, read_json, write_config, write_json


def test_what_is_written_is_read_and_laid_out_as_on_the_hub(tmp_path):
    fields = {"b": [1, 2.5, None], "a": {"text": "é"}}
    write_config(tmp_path / "config.json", fields)
    assert read_json(tmp_path / "config.json") == fields
    assert (tmp_path / "config.json").read_text(encoding="utf-8").startswith('{\n  "a": {\n    "text": "é"\n')


@pytest.mark.parametrize("value", [float("nan"), object()])
def test_a_write_that_fails_leaves_what_was_there(tmp_path, value):
    write_config(tmp_path / "config.json", {"a": 1})
    with pytest.raises((ValueError, TypeError)):
        write_config(tmp_path / "config.json", {"a": value})
    assert read_json(tmp_path / "config.json") == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "is empty, expected JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"a": 1' + b"0" * 5000 + b"}", "not JSON"),
        (b'{"a": 1, "a": 2}', "twice"),
        (b"[1]", "list, expected an object"),
        (b'{"a": "%s"}' % (b"x" * MAX_BYTES), "more than 8,000,000 bytes"),
    ],
    ids=["empty", "bytes", "deep", "long number", "twice", "list", "large"],
)
def test_anything_but_an_object_of_modest_size_is_refused(tmp_path, raw, reason):
    (tmp_path / "config.json").write_bytes(raw)
    with pytest.raises(WeightFileError, match=reason):
        read_json(tmp_path / "config.json")


def test_numbers_that_json_has_not_become_null(tmp_path):
    write_json(tmp_path / "results.json", {"recall": float("nan"), "all": [1.5, float("inf")]})
    assert read_json(tmp_path / "results.json") == {"recall": None, "all": [1.5, None]}


def test_names_of_files_that_are_no_text_are_read_as_they_were(tmp_path):
    write_json(tmp_path / "card.json", {"train_data": "photos/caf\udce9/é"})
    assert read_json(tmp_path / "card.json") == {"train_data": "photos/caf\udce9/é"}
    assert "é" in (tmp_path / "card.json").read_text(encoding="utf-8")


def test_results_keep_the_order_of_their_names(tmp_path):
    write_json(tmp_path / "results.json", {"b": 1, "a": 2})
    assert list(read_json(tmp_path / "results.json")) == ["b", "a"]
