"""Data from far away are the data: the same records from a server that does not behave, or from the hub by name."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from diptych.core.data.loading.loader import Loader
from diptych.core.data.sources import fetching
from diptych.core.data.sources.open import open_source
from diptych.core.files.errors import HubError, RemoteError
from diptych.core.files.remote import block_cache as block_cache_module
from diptych.core.files.remote import file as file_module
from diptych.core.files.remote.block_cache import block_cache
from diptych.core.files.remote.hub import CONVERTED
from tests.core.data.pictures import preprocess
from tests.core.data.sources import content
from tests.core.files.remote.range_server import FAULTS, RangeServer, quick

__all__ = ["quick"]

NO_PARQUET = "the optional package pyarrow is not installed"


def served(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def shards(tmp_path, quick):
    """A local data set as shards, and a server that has it."""
    content.write_tars(tmp_path / "set")
    with RangeServer(served(tmp_path / "set")) as server:
        yield tmp_path / "set", server


def batches(source):
    loader = Loader(source, preprocess(), batch_size=4, seed=3)
    return [
        (batch.keys, {name: array.tobytes() for name, array in batch.fields.items()})
        for batch in map(loader.batch, range(5))
    ]


def test_shards_give_the_examples_of_the_local_ones_though_much_goes_wrong(shards):
    folder, server = shards
    server.faults = [*FAULTS, "", *reversed(FAULTS)]
    source = open_source(f"{server.address}/shard-{{000..001}}.tar")
    assert content.content_of(source) == content.expected()
    assert batches(source) == batches(open_source(folder))
    assert not server.faults
    assert not source.ledger.skipped
    assert source.record_name(0) == "shard-000.tar: even/000"


def test_tables_give_the_examples_of_the_local_ones_though_much_goes_wrong(tmp_path, quick):
    pytest.importorskip("pyarrow", reason=NO_PARQUET)
    content.write_parquet(tmp_path / "set" / "train-0.parquet", hugging_face=True)
    with RangeServer(served(tmp_path / "set"), faults=[*FAULTS]) as server:
        source = open_source(f"{server.address}/train-0.parquet")
        assert content.content_of(source) == content.expected()
        assert batches(source) == batches(open_source(tmp_path / "set"))
        assert not server.faults
        server.always = "500"
        block_cache.cache_clear()
        for path in quick.rglob("*.0"):
            path.unlink()
        with pytest.raises(RemoteError, match="could not be read: it answered 500"):
            open_source(f"{server.address}/train-0.parquet").record(0)


def test_a_second_start_reads_no_shard_and_a_shard_that_changed_anew(shards):
    folder, server = shards
    spec = f"{server.address}/shard-{{000..001}}.tar"
    first = open_source(spec)
    first.fingerprint()
    block_cache.cache_clear()
    server.asked.clear()
    again = open_source(spec)
    assert again.fingerprint() == first.fingerprint()
    assert Counter(server.asked) == {"bytes=0-0": 2}
    content.write_tars(folder, shards=1)
    server.files = {
        "shard-000.tar": (folder / "shard-000.tar").read_bytes(),
        "shard-001.tar": server.files["shard-001.tar"],
    }
    block_cache.cache_clear()
    changed = open_source(spec)
    assert len(changed) == content.COUNT + len(again) // 2
    assert changed.fingerprint() != first.fingerprint()
    block_cache().folder.rename(folder / "lost")
    block_cache.cache_clear()
    with pytest.raises(RemoteError, match="shard-000.tar has changed"):
        content.content_of(again)


def test_what_a_batch_needs_is_fetched_many_at_a_time_and_each_block_once(shards, monkeypatch):
    folder, server = shards
    source = open_source(f"{server.address}/shard-{{000..001}}.tar")
    for module in (block_cache_module, file_module, fetching):
        monkeypatch.setattr(module, "BLOCK_BYTES", 1_024)
    forgotten(server)
    server.delay = 0.1
    loader = Loader(source, preprocess(), batch_size=8, seed=3)
    keys = loader.batch(0).keys
    assert server.at_once > 1, "one after the other"
    assert max(Counter(server.asked).values()) <= 2, "of two shards"
    server.asked.clear()
    assert loader.batch(0).keys == keys
    assert not server.asked


def forgotten(server: RangeServer) -> None:
    """Nothing is kept, in memory or on disk."""
    shutil.rmtree(block_cache().folder)
    block_cache.cache_clear()
    server.asked.clear()


def test_a_server_that_is_gone_ends_the_walk_and_skips_nothing(shards):
    _, server = shards
    source = open_source(f"{server.address}/shard-{{000..001}}.tar")
    server.always = "nothing"
    block_cache.cache_clear()
    for path in block_cache().folder.rglob("*.0"):
        path.unlink()
    with pytest.raises(RemoteError, match="could not be read"):
        batches(source)
    assert not source.ledger.skipped


def test_what_cannot_be_asked_for_is_said(shards):
    _, server = shards
    for spec, error, words in [
        (f"{server.address}/*.tar", ValueError, "does not list its files.*range of numbers"),
        (f"{server.address}/shard-{{000..002}}.tar", RemoteError, "shard-002.tar cannot be read: it answered 404"),
        (f"{server.address}/list.csv", ValueError, "of one of the kinds .tar, .parquet are read"),
        ("hf://google/siglip", ValueError, "data sets of the hub are hf://datasets/owner/name"),
    ]:
        with pytest.raises(error, match=words):
            open_source(spec)


def test_an_object_store_is_listed(tmp_path, quick):
    fsspec = pytest.importorskip("fsspec", reason="the optional package fsspec is not installed")
    content.write_tars(tmp_path / "set")
    system = fsspec.filesystem("memory")
    try:
        for name, data in served(tmp_path / "set").items():
            system.pipe_file(f"/bucket/set/{name}", data)
        for spec in ("memory://bucket/set/*.tar", "memory://bucket/set", "memory://bucket/set/shard-{000..001}.tar"):
            assert content.content_of(open_source(spec)) == content.expected()
        for spec in (f"file://{tmp_path}/set/*.tar", f"file://{tmp_path}/set"):
            assert content.content_of(open_source(spec)) == content.expected()
        with pytest.raises(RemoteError, match=r"memory://bucket/other holds no .tar or .parquet files; 0 others"):
            open_source("memory://bucket/other")
    finally:
        system.store.clear()


class Hub(RangeServer):
    """Answers as the hub does: what a data set has at a revision, and files at its commits."""

    def publish(self, name: str, revision: str, files: dict[str, bytes]) -> None:
        commit = f"{revision.replace('/', '-')}-commit"
        siblings = [{"rfilename": path, "size": len(data), "blobId": str(hash(data))} for path, data in files.items()]
        about = json.dumps({"id": name, "sha": commit, "siblings": siblings}).encode()
        where = f"datasets/{name}/resolve/{commit}"
        self.files = {
            **self.files,
            f"api/datasets/{name}/revision/{revision}": about,
            **{f"{where}/{path}": data for path, data in files.items()},
        }


@pytest.fixture
def hub(tmp_path, quick, monkeypatch):
    pytest.importorskip("pyarrow", reason=NO_PARQUET)
    content.write_parquet(tmp_path / "table.parquet", hugging_face=True)
    content.write_tars(tmp_path / "set", shards=1)
    table, shard = (tmp_path / "table.parquet").read_bytes(), (tmp_path / "set" / "shard-000.tar").read_bytes()
    with Hub({}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        monkeypatch.setenv("HF_TOKEN", "hf_of_this_test")
        server.publish("we/tables", "main", {"README.md": b"", "data/train-00000-of-00001.parquet": table})
        splits = {"data/train-0.parquet": table, "data/test-0.parquet": table, "x.jsonl": b""}
        server.publish("we/splits", "v1.0", splits)
        server.publish("we/shards", "main", {"train/0.tar": shard})
        server.publish("we/images", "main", {"images/1.jpg": b"", "README.md": b""})
        server.publish("we/images", CONVERTED, {"default/train/0000.parquet": table})
        server.publish("we/nothing", "main", {"README.md": b""})
        server.publish("we/nothing", CONVERTED, {})
        yield server


@pytest.mark.parametrize(
    "spec",
    [
        "we/tables",
        "we/tables@main",
        "we/tables/data",
        "we/tables/data/train-*.parquet",
        "we/tables/**/train-*.parquet",
        "we/splits@v1.0/data/test-0.parquet",
        "we/splits@v1.0/data/train-*.parquet",
        "we/shards",
        "we/images",
        f"we/images@{CONVERTED}/default/train",
    ],
)
def test_data_sets_of_the_hub_are_read_by_name(hub, spec):
    hub.faults = ["cut", "500", "", "stall", "429"]
    assert content.content_of(open_source(f"hf://datasets/{spec}")) == content.expected()
    assert hub.headers["Authorization"] == "Bearer hf_of_this_test"


def test_what_of_the_hub_is_kept_stays_of_use_when_a_commit_changes_something_else(hub):
    first = open_source("hf://datasets/we/tables")
    content.content_of(first)
    files = {name.rpartition("/")[2]: data for name, data in hub.files.items() if "we/tables/resolve" in name}
    hub.publish(
        "we/tables",
        "main",
        {"README.md": b"new", "data/train-00000-of-00001.parquet": files["train-00000-of-00001.parquet"]},
    )
    hub.asked.clear()
    block_cache.cache_clear()
    again = open_source("hf://datasets/we/tables")
    assert content.content_of(again) == content.expected()
    assert hub.asked == [None], "only what there is was asked"
    assert again.fingerprint() == first.fingerprint()


def test_what_the_hub_has_not_is_said(hub):
    for spec, error, words in [
        ("we/splits@v1.0", ValueError, r"holds the splits test, train: choose one, such as .*/test-\*.parquet"),
        ("we/tables/*.parquet", RemoteError, "holds no .tar or .parquet files; 2 others"),
        ("we/none", HubError, "hf://datasets/we/none@main does not exist, or may not be read without logging in"),
        ("we/nothing", RemoteError, "holds no .tar or .parquet files"),
        ("tables", ValueError, "names no data set, expected hf://datasets/owner/name"),
    ]:
        with pytest.raises(error, match=words):
            open_source(f"hf://datasets/{spec}")
