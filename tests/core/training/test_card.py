"""The card says what ran, on what, from which commit, and keeps every secret out."""

import dataclasses
import enum
import functools
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from diptych.core.training.card import ENVIRONMENT, git_state, hide_secrets, plain, resolve_card, versions


class Pooling(enum.Enum):
    MAP = "map"


@dataclasses.dataclass(frozen=True)
class Optimizer:
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)


@dataclasses.dataclass(frozen=True)
class Recipe:
    optimizer: Optimizer = Optimizer()
    data: Path = Path("shards")
    loss: object = plain
    schedule: object = functools.partial(plain, name="x")
    freeze: tuple[str, ...] | None = None
    pooling: Pooling = Pooling.MAP
    scale: object = np.float32(0.5)
    hub_token: str = "canary"


def card_of(config: object = None, **changes) -> dict:
    arguments = {
        "seed": 3,
        "backend": "jax",
        "implementation": "reference",
        "parameters": 12,
        "flops_per_step": 1e9,
        "device": "cpu",
    }
    return resolve_card(config or Recipe(), **(arguments | changes))


def test_a_configuration_becomes_plain_json():
    assert plain(Recipe()) == {
        "optimizer": {"learning_rate": 1e-3, "betas": [0.9, 0.95]},
        "data": "shards",
        "loss": "diptych.core.training.card.plain",
        "schedule": {"function": "diptych.core.training.card.plain", "arguments": [{"name": "x"}]},
        "freeze": None,
        "pooling": "MAP",
        "scale": 0.5,
        "hub_token": "(hidden)",
    }


def test_a_field_without_a_faithful_form_is_named():
    with pytest.raises(TypeError, match=r"config\.optimizer\.rates\[1\] is a object"):
        plain({"optimizer": {"rates": [1, object()]}})


def test_the_card_is_complete_and_plain():
    card = card_of()
    assert json.loads(json.dumps(card, allow_nan=False)) == card
    assert {
        "config",
        "seed",
        "backend",
        "implementation",
        "parameters",
        "flops_per_step",
        "device",
        "git",
        "command",
    } <= card.keys()
    assert {"python", "diptych", "keras", "numpy", "jax"} <= card["versions"].keys()
    assert 1 <= card["machine"]["usable_cpus"] <= card["machine"]["cpus"]
    assert card["restarts"] == []


@pytest.mark.parametrize(("backend", "package"), [("jax", "jax"), ("torch", "torch"), ("tensorflow", None)])
def test_versions_are_those_of_the_backend_in_use(backend, package):
    found = versions(backend)
    assert found["numpy"] == np.__version__
    assert package is None or package in found
    assert not {"jax", "torch", "tensorflow"} & found.keys() - {backend}


def test_only_listed_variables_are_stored(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "canary")
    monkeypatch.setenv("HF_TOKEN", "canary")
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=x")
    card = card_of()
    assert card["environment"]["XLA_FLAGS"] == "--xla_dump_to=x"
    assert set(card["environment"]) <= set(ENVIRONMENT)
    assert "canary" not in json.dumps(card)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--hub-token", "canary"],
        ["--hub-token=canary"],
        ["--token", "canary", "--steps", "3"],
        ["--data.api_key=canary"],
        ["--access-key", "canary"],
        ["--PASSWORD", "canary"],
        ["https://me:canary@example.org/shards.tar"],
        ["--data=s3://me:canary@bucket/x"],
    ],
)
def test_secrets_in_a_command_are_hidden(arguments):
    shown = hide_secrets(["python", "-m", "recipes.siglip", *arguments])
    assert "canary" not in " ".join(shown)
    assert len(shown) == 3 + len(arguments)


def test_other_arguments_are_shown_as_they_are():
    arguments = [
        "--tokenizer",
        "tokenizer.model",
        "--max-tokens=64",
        "--key-frames",
        "2",
        "--token-count",
        "--steps",
        "5",
        "gs://bucket/{000..010}.tar",
    ]
    assert hide_secrets(arguments[:4]) == arguments[:4]
    assert hide_secrets(arguments[5:]) == arguments[5:]


def test_the_commit_is_that_of_the_checkout_and_changes_make_it_dirty(tmp_path):
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        done = subprocess.run(
            ["git", "-C", tmp_path, *identity, *arguments], env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    assert git_state(tmp_path) is None, "no checkout"
    git("init", "-q")
    assert git_state(tmp_path) is None, "no commit"
    (tmp_path / "file").write_text("a")
    git("add", "file")
    git("commit", "-qm", "first")
    assert git_state(tmp_path) == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    (tmp_path / "untracked").write_text("")
    assert git_state(tmp_path)["dirty"] is False
    (tmp_path / "file").write_text("b")
    assert git_state(tmp_path)["dirty"] is True
    (tmp_path / "site-packages").mkdir()
    assert git_state(tmp_path / "site-packages") is None, "installed inside somebody else's checkout"


def test_without_git_the_card_is_written_all_the_same(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert card_of()["git"] is None
