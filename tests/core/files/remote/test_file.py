"""Files far away have the bytes that they have, whatever their server does; or there is a sentence."""

import pickle
import random
import subprocess
import sys
import time

import pytest

from diptych.core.files.errors import RemoteError
from diptych.core.files.random_access import LocalFile, Stream
from diptych.core.files.remote import block_cache, filesystem, http, retries
from diptych.core.files.remote.block_cache import BLOCK_BYTES, BlockCache
from diptych.core.files.remote.file import RemoteFile
from tests.core.files.remote.range_server import FAULTS, RangeServer, quick

__all__ = ["quick"]

CONTENT = random.Random(0).randbytes(3 * BLOCK_BYTES + 1234)


@pytest.fixture
def server(quick):
    with RangeServer({"a/b.tar": CONTENT, "empty.tar": b"", "a/über b.tar": CONTENT[:9]}) as served:
        yield served


def forget() -> None:
    """As another process, later."""
    block_cache.block_cache.cache_clear()


def test_bytes_at_any_place_are_those_of_the_file(server, tmp_path):
    file = RemoteFile(f"{server.address}/a/b.tar?token=1")
    assert (file.name, file.stem, file.suffix, file.size) == ("b.tar", "b", ".tar", len(CONTENT))
    (tmp_path / "b.tar").write_bytes(CONTENT)
    local, rng = LocalFile(tmp_path / "b.tar"), random.Random(1)
    for _ in range(200):
        offset, size = rng.randrange(len(CONTENT) + 10), rng.choice([0, 1, 512, 70_000, 2_000_000])
        assert file.pread(size, offset) == local.pread(size, offset) == CONTENT[offset : offset + size]
    assert RemoteFile(f"{server.address}/empty.tar").pread(512, 0) == b""
    for typed in ("über b", "über%20b", "%C3%BCber b"):
        assert RemoteFile(f"{server.address}/a/{typed}.tar?token=a+b").pread(512, 0) == CONTENT[:9]
    stream = Stream(file)
    assert (stream.seek(-5, 2), stream.read(), stream.seek(7), stream.read(3)) == (
        len(CONTENT) - 5,
        CONTENT[-5:],
        7,
        CONTENT[7:10],
    )


@pytest.mark.parametrize("fault", FAULTS)
def test_what_goes_wrong_now_and_then_is_asked_again(server, fault):
    server.faults = [fault, "", fault, fault, "", fault]
    file = RemoteFile(f"{server.address}/a/b.tar")
    assert file.pread(10, 100) == CONTENT[100:110]
    assert file.pread(len(CONTENT), 0) == CONTENT
    assert len(server.asked) >= 5, "three would do where nothing goes wrong"


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("cut", "the connection was cut"),
        ("stall", "sent nothing for"),
        ("429", "answered 429"),
        ("500", "answered 500"),
        ("whole", "answered 200 to a request for a part, expected 206"),
        ("nothing", "closed connection without response"),
    ],
)
def test_it_is_given_up_in_a_sentence(server, monkeypatch, fault, words):
    monkeypatch.setattr(retries, "USUAL", retries.Retries(attempts=3, first_seconds=0.001))
    file = RemoteFile(f"{server.address}/a/b.tar")
    assert file.size
    server.always = fault
    with pytest.raises(RemoteError, match=f"{server.address}/a/b.tar could not be read: .*{words}.*3 times.* again"):
        file.pread(10, 0)
    server.always = ""
    assert file.pread(10, 0) == CONTENT[:10], "what was given up once may be asked for later"


def test_what_will_not_pass_is_not_asked_again(server):
    with pytest.raises(RemoteError, match=r"c\.tar cannot be read: it answered 404 .* address right"):
        assert RemoteFile(f"{server.address}/c.tar").size
    server.always = "403"
    with pytest.raises(RemoteError, match="403"):
        assert RemoteFile(f"{server.address}/a/b.tar").size
    assert len(server.asked) == 2


def test_the_token_is_shown_to_the_hub_alone(server, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_of_this_test")
    with RangeServer({}, moved={"b.tar": f"{server.address}/a/b.tar"}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        assert RemoteFile(f"{hub.address}/b.tar").pread(10, 5) == CONTENT[5:15]
        assert hub.headers["Authorization"] == "Bearer hf_of_this_test"
    assert server.asked[-1] is not None
    assert "Authorization" not in server.headers


def test_a_file_that_changes_is_said_also_by_a_copy_in_another_process(server):
    file = RemoteFile(f"{server.address}/a/b.tar")
    assert file.pread(10, 0) == CONTENT[:10]
    copy = pickle.loads(pickle.dumps(file))
    for changed in (CONTENT[::-1], CONTENT[:-1]):
        server.files = {"a/b.tar": changed}
        for one in (file, copy):
            with pytest.raises(RemoteError, match="has changed while it was in use: it was .* and now is "):
                one.pread(10, 2 * BLOCK_BYTES)
    assert RemoteFile(file.url).pread(10, 0) == CONTENT[:10], "a new run reads the new file"


def test_reading_on_takes_few_requests_and_reading_again_none(server):
    file = RemoteFile(f"{server.address}/a/b.tar")
    for offset in range(0, len(CONTENT), 1_000):
        assert file.pread(512, offset) == CONTENT[offset : offset + 512]
    assert server.asked[:2] == ["bytes=0-0", f"bytes=0-{BLOCK_BYTES - 1}"]
    requests = len(server.asked)
    assert requests == 4
    forget()
    assert RemoteFile(file.url).pread(len(CONTENT), 0) == CONTENT
    assert len(server.asked) == requests + 1, "only what the file is was asked again"


def test_a_damaged_block_is_fetched_again(server, quick):
    assert RemoteFile(f"{server.address}/a/b.tar").pread(len(CONTENT), 0) == CONTENT
    blocks = [path for path in quick.rglob("*") if path.is_file()]
    assert len(blocks) == 4
    for path, damage in zip(blocks, (b"", b"\0", b"x" * 100, None), strict=True):
        data = path.read_bytes()
        path.write_bytes(data[:500] + damage + data[500 + len(damage) :] if damage else b"")
    forget()
    assert RemoteFile(f"{server.address}/a/b.tar").pread(len(CONTENT), 0) == CONTENT


def test_the_cache_keeps_to_its_bound_and_drops_the_oldest(tmp_path):
    cache = BlockCache(tmp_path / "blocks", gigabytes=0.002)
    for number in range(50):
        cache.put("key", number, bytes([number]) * 100_000)
        time.sleep(0.001)  # the order is that of the files' times
    again = BlockCache(tmp_path / "blocks", gigabytes=0.002)
    kept = [number for number in range(50) if again.get("key", number) is not None]
    assert kept == list(range(kept[0], 50))
    assert 15 <= len(kept) <= 20
    assert cache.get("key", 0) == bytes(100_000), "in memory"
    assert not list(tmp_path.rglob("*.tmp"))


WRITER = """
import sys
from pathlib import Path
from diptych.core.files.remote.block_cache import BlockCache

cache = BlockCache(Path(sys.argv[1]), 0.003)
for number in range(300):
    block = number.to_bytes(2, "big") * 10_000
    found = cache._read(cache._path("key", number % 60)) if number % 2 else None
    assert found is None or found == (number % 60).to_bytes(2, "big") * 10_000, number
    cache.put("key", number % 60, (number % 60).to_bytes(2, "big") * 10_000)
"""


def test_several_processes_share_a_cache_that_is_too_small(tmp_path):
    running = [subprocess.Popen([sys.executable, "-W", "error", "-c", WRITER, tmp_path / "blocks"]) for _ in range(2)]
    assert [process.wait(60) for process in running] == [0, 0]
    cache = BlockCache(tmp_path / "blocks", 0.003)
    assert sum(path.stat().st_size for path in (tmp_path / "blocks").rglob("key*")) < 1.2 * cache.bound


def test_a_disk_that_cannot_be_written_to_costs_a_warning(server, quick):
    quick.write_text("a file where the folder should be")
    file = RemoteFile(f"{server.address}/a/b.tar")
    with pytest.warns(UserWarning, match="no longer kept"):
        assert file.pread(len(CONTENT), 0) == CONTENT
    assert file.pread(len(CONTENT), 0) == CONTENT


@pytest.mark.parametrize(("given", "seconds"), [("7", 7), ("Wed, 21 Oct 2015 07:28:00 GMT", 0), ("soon", None)])
def test_the_server_says_how_long_to_wait(given, seconds):
    class Error:
        headers = {"Retry-After": given}

    assert http._retry_after(Error) == seconds
    wait = retries.Retries(longest_seconds=5.0)._wait(0, retries.TryAgain("", seconds))
    assert wait == 5.0 if seconds else 0.25 <= wait <= 0.5


def test_who_only_trickles_counts_as_stalled(monkeypatch):
    class Trickle:
        def read1(self, _):
            time.sleep(0.01)
            return b"x"

    monkeypatch.setattr(http, "TIMEOUT_SECONDS", 0.03)
    with pytest.raises(retries.TryAgain, match=r"has sent \d+ of 100 bytes in 0 s"):
        http._body(Trickle(), 100)


def test_waits_double_up_to_the_longest(monkeypatch):
    waits = []
    monkeypatch.setattr(retries.time, "sleep", waits.append)

    def ask():
        raise retries.TryAgain("no answer")

    with pytest.raises(RemoteError, match="x could not be read: no answer. It was asked 8 times"):
        retries.Retries(longest_seconds=20.0).answer("x", ask)
    assert all(0.25 * 2**attempt <= wait <= min(20.0, 0.5 * 2**attempt) for attempt, wait in enumerate(waits))
    assert len(waits) == 7


class TestFilesystems:
    """What fsspec reads, by the file system that it has in memory."""

    @pytest.fixture(autouse=True)
    def memory(self, quick):
        fsspec = pytest.importorskip("fsspec", reason="the optional package fsspec is not installed")
        system = fsspec.filesystem("memory")
        system.store.clear()
        system.pipe_file("/bucket/b.tar", CONTENT)
        self.system = system
        yield
        system.store.clear()

    def test_bytes_are_those_of_the_file_also_after_failures(self, monkeypatch):
        file = RemoteFile("memory://bucket/b.tar")
        assert (file.name, file.size) == ("b.tar", len(CONTENT))
        failures, read = [TimeoutError("slow"), OSError("reset"), None, ValueError("odd")], self.system.cat_file

        def cat_file(path, start=None, end=None):
            failure = failures.pop() if failures else None
            if failure:
                raise failure
            return read(path, start=start, end=end)

        monkeypatch.setattr(type(self.system), "cat_file", staticmethod(cat_file))
        assert file.pread(100, 5) == CONTENT[5:105]
        assert file.pread(len(CONTENT), 0) == CONTENT
        assert not failures
        monkeypatch.setattr(type(self.system), "cat_file", staticmethod(lambda *_, **__: b"short"))
        another = RemoteFile(file.url, file.described, checksum="of which no block is kept")
        with pytest.raises(RemoteError, match=r"memory://bucket/b.tar could not be read: it sent 5 of"):
            another.pread(10, 0)

    def test_a_change_and_a_loss_are_said(self, monkeypatch):
        monkeypatch.setattr(filesystem, "_SECONDS_BETWEEN_CHECKS", -1.0)
        file = RemoteFile("memory://bucket/b.tar")
        assert file.pread(10, 0) == CONTENT[:10]
        self.system.pipe_file("/bucket/b.tar", CONTENT[:-1])
        with pytest.raises(RemoteError, match="has changed"):
            file.pread(10, 2 * BLOCK_BYTES)
        self.system.store.clear()
        with pytest.raises(RemoteError, match="no file memory://bucket/b.tar"):
            file.pread(10, 2 * BLOCK_BYTES)

    def test_what_is_missing_is_named(self, monkeypatch):
        import fsspec

        def url_to_fs(url):
            raise ImportError("Install s3fs to access S3")

        with pytest.raises(ValueError, match=r"no way to read nosuch://; known are https://, s3://"):
            assert RemoteFile("nosuch://bucket/b.tar").size
        monkeypatch.setattr(fsspec.core, "url_to_fs", url_to_fs)
        with pytest.raises(ImportError, match=r"to read s3://bucket/b.tar, s3fs is needed: pip install s3fs"):
            assert RemoteFile("s3://bucket/b.tar").size
        monkeypatch.setitem(sys.modules, "fsspec", None)
        with pytest.raises(ImportError, match=r"fsspec and gcsfs are needed: pip install 'diptych\[remote\]' gcsfs"):
            assert RemoteFile("gs://bucket/b.tar").size
