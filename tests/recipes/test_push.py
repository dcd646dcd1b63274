"""A trained model goes to the hub with its card, and comes back bit for bit; what the hub refuses is explained."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest
from keras import ops

from diptych.core.report.model_card import MODEL_CARD
from diptych.core.training.results import write_results
from diptych.engine.run_card import write_model_card
from diptych.models import SigLIP, from_preset
from diptych.recipes import push
from tests.core.weights.hub_server import TOKEN, HubServer, Repository
from tests.marks import ABOVE_THE_BACKENDS
from tests.models.examples import TINY

pytestmark = [
    ABOVE_THE_BACKENDS,
    pytest.mark.skipif(
        importlib.util.find_spec("huggingface_hub") is None, reason="huggingface_hub is an optional package"
    ),
]

CLIENT = """
import json, os, sys
from diptych.core.weights.hub import preset_folder
from diptych.recipes import push

for token, words in json.loads(sys.argv[1]):
    os.environ["HF_TOKEN"] = token
    print(json.dumps(push.main(words) if len(words) > 1 else str(preset_folder(words[0]))), flush=True)
"""
RECALL = {"queries": 4, "gallery": 8, "recall@1": 0.25, "intervals": {"recall@1": [0.0, 0.5]}}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """What a run leaves, by hand."""
    folder = tmp_path_factory.mktemp("runs") / "photos"
    SigLIP(TINY).save_to_preset(folder / "model", format="diptych")
    (folder / "model" / "adapters.safetensors").write_bytes(b"small")
    (folder / "model" / "pickled.bin").write_bytes(b"\x80\x02.")
    card = {"config": {}, "parameters": 5, "examples_seen": 32, "stage": {"losses": {"contrastive": 1.0}}}
    (folder / "card.json").write_text(json.dumps(card))
    scores = {"retrieval": {"Held-out pairs": {"und": RECALL}}}
    write_results(folder / "results.json", {"training": scores})
    write_model_card(folder, card, scores)
    return folder


def ask(address, cache, *calls) -> tuple[list, str, str]:
    """What `push.main` returns for each call of a token and words, in a process that knows no other hub; and all that
    it prints.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    settings = {"HF_ENDPOINT": address, "HF_HOME": str(cache), "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    settings |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-c", CLIENT, json.dumps(calls)]
    done = subprocess.run(command, env=kept | settings, capture_output=True, text=True, timeout=300)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in lines if line[0] in '"01'], done.stdout, done.stderr


def test_what_was_pushed_comes_back_bit_for_bit_and_is_not_sent_twice(tmp_path, run):
    """The larger object goes in parts, the smaller one whole; one of them is interrupted."""
    calls = [(TOKEN, [str(run), "hf://me/photos", "--license", "mit"])] * 2 + [(TOKEN, ["hf://me/photos"])]
    with HubServer({}, hang_ups=1) as hub:
        (first, again, folder), said, progress = ask(hub.address, tmp_path, *calls)
    assert (first, again) == (0, 0)
    assert len(hub.sent) == 2, "what had arrived was sent again"
    assert "/me/photos/commit/" in said
    assert "Left out: pickled.bin." in said
    assert "100%" in progress
    files = hub.repositories["me/photos"].files
    assert set(files) == {"README.md", "adapters.safetensors", "config.json", "model.safetensors"}
    for name in ("model.safetensors", "adapters.safetensors"):
        assert files[name] == (run / "model" / name).read_bytes()
    card = files["README.md"].decode()
    assert 'license: "mit"' in card
    assert 'from_preset("hf://me/photos")' in card
    for pushed, kept in zip(from_preset(folder).weights, from_preset(run / "model").weights, strict=True):
        assert (ops.convert_to_numpy(pushed) == ops.convert_to_numpy(kept)).all()


def test_what_the_hub_refuses_is_explained_and_nothing_is_uploaded(tmp_path, run):
    there = {"me/public": Repository({}), "me/private": Repository({}, private=True)}
    calls = [
        ("hf_wrong", [str(run), "hf://me/photos"]),
        ("", [str(run), "hf://me/photos"]),
        (TOKEN, [str(run), "hf://others/photos"]),
        (TOKEN, [str(run), "hf://me/public", "--private"]),
        (TOKEN, [str(run), "hf://me/private", "--private"]),
        (TOKEN, [str(run), "hf://me/dry", "--dry-run"]),
        (TOKEN, [str(run), "hf://me/new", "--private"]),
    ]
    with HubServer(there) as hub:
        codes, said, refused = ask(hub.address, tmp_path, *calls)
    assert codes == [1, 1, 1, 1, 0, 0, 0]
    reasons = ("does not know the token", "log in with `hf auth login`", "may not write there", "exists and is public")
    lines = [line for line in refused.splitlines() if line.startswith("HubError: ")]
    assert len(lines) == len(reasons)
    for line, reason in zip(lines, reasons, strict=True):
        assert reason in line
    assert not hub.repositories["me/public"].files
    assert set(hub.repositories) == {"me/public", "me/private", "me/new"}
    assert hub.repositories["me/new"].private
    assert "Nothing was uploaded." in said
    assert said.count("model.safetensors") == 7
    assert TOKEN not in said + refused


def test_a_hub_out_of_reach_is_explained(run, monkeypatch, capsys):
    from huggingface_hub import constants

    with HubServer({}) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert push.main([str(run), "hf://me/photos"]) == 1
    assert "the hub cannot be reached" in capsys.readouterr().err


def test_an_edited_card_stays_as_it_is(tmp_path, run, capsys):
    model = tmp_path / "photos" / "model"
    model.mkdir(parents=True)
    (model / MODEL_CARD).write_text("# Mine\n")
    (tmp_path / "photos" / "card.json").write_text('{"config": {}}')
    address = ["hf://me/photos", "--dry-run"]
    assert push.main([str(tmp_path / "photos"), *address]) == 0
    assert push.main([str(tmp_path / "photos"), *address, "--license", "mit"]) == 1
    assert "edited" in capsys.readouterr().err
    write_model_card(tmp_path / "photos", {}, {})
    assert (model / MODEL_CARD).read_text() == "# Mine\n"


def test_what_cannot_be_pushed_is_said_before_the_hub_is_asked(tmp_path, run, capsys):
    (tmp_path / "card.json").write_text('{"config": {}}')
    for words, reason in (
        ([str(tmp_path), "hf://me/photos"], "the run has not ended"),
        ([str(run), "me/photos"], "expected hf://owner/name"),
        ([str(run), "hf://me/photos@v1"], "names a revision"),
        ([str(run)], "expected a run and a repository"),
        (["hf://me/photos", "hf://me/other"], "is no folder"),
        ([str(run), "hf://me/photos", "--picture", "--dry-run"], "leave out --picture"),
        ([str(run), "hf://me/photos", "--judged", str(run / "card.json"), "--dry-run"], "holds no evaluation"),
    ):
        assert push.main(words) == 1
        assert reason in capsys.readouterr().err
