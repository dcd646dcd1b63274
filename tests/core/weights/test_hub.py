"""A preset is a folder, a file, or a repository of the hub.

It is fetched once, in one format of weights, without pickles, and found again offline.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from diptych.core.weights.hub import preset_folder
from diptych.core.weights.open import open_weights
from diptych.core.weights.safetensors import write_safetensors_folder
from tests.core.weights.arrays import assert_same
from tests.core.weights.hub_server import TOKEN, HubServer, Repository

TENSORS = {"a": np.arange(4, dtype=np.float32), "b": np.ones((2, 3), np.float32)}

CLIENT = """
import json, sys
from diptych.core.weights.hub import preset_folder

for preset, options in json.loads(sys.argv[1]):
    try:
        print(json.dumps(["path", str(preset_folder(preset, **options))]))
    except Exception as error:
        print(json.dumps([type(error).__name__, str(error)]))
"""

needs_hub = pytest.mark.skipif(
    importlib.util.find_spec("huggingface_hub") is None, reason="huggingface_hub is an optional package"
)


def ask(address: str, cache: Path, *calls, **environment) -> list[tuple[str, str]]:
    """What `preset_folder` returns or raises for each call.

    It is called in a process of its own: huggingface_hub reads its settings once.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    settings = {"HF_ENDPOINT": address, "HF_HOME": str(cache), "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    settings |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"} | environment
    asked = json.dumps([(call, {}) if isinstance(call, str) else call for call in calls])
    command = [sys.executable, "-c", CLIENT, asked]
    run = subprocess.run(command, env=kept | settings, capture_output=True, text=True, check=True, timeout=120)
    return [tuple(json.loads(line)) for line in run.stdout.splitlines()]


def files_of(folder: str) -> set[str]:
    root = Path(folder)
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def repositories(tmp_path):
    write_safetensors_folder(tmp_path / "one", TENSORS)
    write_safetensors_folder(tmp_path / "many", TENSORS, max_shard_bytes=16)
    one = (tmp_path / "one" / "model.safetensors").read_bytes()
    many = {path.name: path.read_bytes() for path in (tmp_path / "many").iterdir()}
    assert len(many) == 3
    settings = {"config.json": b"{}", "tokenizer.json": b'{"version": 1}', "README.md": b"#"}
    pickles = {"pytorch_model.bin": b"\x80\x02.", "model.pt": b"\x80\x02.", "model.ckpt": b"\x80\x02."}
    inside = {"onnx/model.safetensors": one, "onnx/config.json": b"{}", "unet/pytorch_model.bin": b"\x80\x02."}
    return {
        "google/one": Repository(
            settings | pickles | inside | {"model.safetensors": one, "flax_model.msgpack": b"x"},
            revisions=("main", "v1"),
        ),
        "google/two-formats": Repository(
            settings | {"open_clip_model.safetensors": one, "model.safetensors": one, "weights.npz": b"PK"}
        ),
        "google/many": Repository(settings | many),
        "google/other-name": Repository(settings | {"weights_of_mine.safetensors": one}),
        "google/pickles": Repository(settings | pickles),
        "google/gated": Repository(settings | {"model.safetensors": one}, gated=True),
        "google/private": Repository(settings | {"model.safetensors": one}, private=True),
    }


def opened(folder: str) -> dict[str, np.ndarray]:
    with open_weights(Path(folder)) as files:
        return {name: files.read(name) for name in files.shapes}


@needs_hub
def test_a_repository_is_fetched_once_and_found_again_without_a_connection(tmp_path, repositories):
    cache, settings = tmp_path / "cache", {"config.json", "tokenizer.json"}
    with HubServer(repositories) as hub:
        address = hub.address
        online = ask(
            address,
            cache,
            "hf://google/one",
            "hf://google/one@v1",
            ("hf://google/one", {"revision": "v1"}),
            "hf://google/two-formats",
            "hf://google/many",
            "hf://google/other-name",
            ("hf://google/pickles", {"patterns": ["*.json", "*.bin"]}),
        )
        fetched = sorted(hub.fetched)
    assert [kind for kind, _ in online] == ["path"] * 7
    folders = [folder for _, folder in online]
    assert files_of(folders[0]) == settings | {"model.safetensors"}
    assert folders[0] == folders[1] == folders[2]
    assert files_of(folders[3]) == settings | {"open_clip_model.safetensors"}
    shards = {f"model-0000{n}-of-00002.safetensors" for n in (1, 2)}
    assert files_of(folders[4]) == settings | shards | {"model.safetensors.index.json"}
    assert files_of(folders[5]) == settings | {"weights_of_mine.safetensors"}
    assert files_of(folders[6]) == settings, "no pickle, even where it is asked for"
    for folder in folders[:6]:
        assert_same(opened(folder), TENSORS)
    assert fetched.count("model.safetensors") == 1

    calls = (
        "hf://google/one",
        "hf://google/one@v1",
        "hf://google/two-formats",
        "hf://google/many",
        "hf://google/gated",
    )
    for environment in ({}, {"HF_HUB_OFFLINE": "1"}):
        offline = ask(address, cache, *calls, **environment)
        assert [found for _, found in offline[:4]] == [folders[0], folders[0], folders[3], folders[4]]
        kind, message = offline[4]
        assert kind == "HubError"
        assert "not in the cache, and the hub cannot be reached" in message
        assert "\n" not in message


@needs_hub
def test_what_cannot_be_fetched_is_explained(tmp_path, repositories):
    calls = (
        "hf://google/pickles",
        "hf://google/gated",
        "hf://google/private",
        "hf://google/absent",
        "hf://google/one@v9",
    )
    with HubServer(repositories) as hub:
        refused = ask(hub.address, tmp_path / "cache", *calls)
        allowed = ask(hub.address, tmp_path / "cache", *calls[:3], HF_TOKEN=TOKEN)
    assert {kind for kind, _ in refused} == {"HubError"}
    reasons = ("no weights that are safe to read", "is gated", "or is private", "does not exist", "no revision 'v9'")
    for (_, message), call, reason in zip(refused, calls, reasons, strict=True):
        assert message.startswith(call)
        assert reason in message
    assert [kind for kind, _ in allowed] == ["HubError", "path", "path"]
    assert TOKEN not in str(refused) + str(allowed)


def test_without_huggingface_hub_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match="pip install huggingface_hub"):
        preset_folder("hf://google/one")


def test_a_path_is_itself(tmp_path, monkeypatch):
    file = tmp_path / "weights.npz"
    file.touch()
    assert preset_folder(tmp_path) == tmp_path
    assert preset_folder(str(file)) == file
    monkeypatch.setenv("HOME", str(tmp_path))
    assert preset_folder("~/weights.npz") == file


def test_a_name_that_is_nowhere_is_answered_with_names_that_are(tmp_path, monkeypatch):
    (tmp_path / "siglip_b16").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="Did you mean siglip_b16?"):
        preset_folder("siglip_b61")
    with pytest.raises(FileNotFoundError, match="Did you mean .*siglip_b16?"):
        preset_folder(tmp_path / "siglip-b16")
    with pytest.raises(FileNotFoundError, match="Did you mean emoji_36_languages?"):
        preset_folder("emoji_36_language", known=["emoji_36_languages", "siglip2_b16_224"])
    with pytest.raises(FileNotFoundError, match="write hf://google/siglip2-base-patch16-224"):
        preset_folder("google/siglip2-base-patch16-224")


@pytest.mark.parametrize(
    "preset", ["hf://", "hf://google", "hf://google/", "hf:///one", "hf://google/one/two", "hf://google/one@",
        "hf://../one", "hf://a b/c"]
)  # fmt: skip
def test_a_malformed_name_is_refused(preset):
    with pytest.raises(ValueError, match="expected hf://owner/name"):
        preset_folder(preset)


def test_two_revisions_and_a_revision_of_a_folder_are_refused(tmp_path):
    with pytest.raises(ValueError, match="two revisions"):
        preset_folder("hf://google/one@v1", revision="v2")
    with pytest.raises(ValueError, match="belongs to repositories of the hub"):
        preset_folder(tmp_path, revision="v2")
