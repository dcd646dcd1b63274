"""Each recipe at its tiny size, from data to report, typed as a person would; `nox -s recipes`.

A chain is run in one folder, so that a later recipe reads what an earlier one left. Every chain runs on jax. On the
other backends runs what they do in their own way, training and export; `DIPTYCH_THOROUGH` runs everything on all.
"""

import os
import subprocess
import sys
from dataclasses import dataclass

import pytest

from diptych.backends.selection import BACKENDS, installed_backends
from tests.tree import ROOT


@dataclass(frozen=True)
class Tiny:
    """A recipe's flags at its tiny size, and the files it must leave in the folder that a chain shares."""

    recipe: str
    flags: tuple[str, ...]
    files: tuple[str, ...] = ()


THOROUGH = bool(os.environ.get("DIPTYCH_THOROUGH"))
RUN = ("card.json", "metrics.jsonl", "results.json", "report.html", "model/config.json", "model/model.safetensors")
SHORT = ("--examples", "2048", "--warmup-examples", "256", "--evaluate-every", "1024")
ABLATION = (
    ("--examples", "320", "--seeds", "1", "--run-dir", "ablation", "--output", "ablation.md")
    if THOROUGH
    else ("--help",)
)
STAGES = ("captioning", "self_distillation", "trunk", "patch6_54", "trunk_curated", "naflex")

TRAINED = (
    Tiny("siglip", ("--run-dir", "siglip", *SHORT), tuple(f"siglip/{name}" for name in RUN)),
    Tiny(
        "export",
        ("--model", "siglip", "--output", "exported"),
        ("exported/image.onnx", "exported/text.onnx", "exported/export.json"),
    ),
)
CHAINS: dict[str, tuple[Tiny, ...]] = {
    "siglip2": (
        Tiny(
            "siglip2",
            ("--run-dir", "siglip2", "--examples", "1280", "--batch-size", "32", "--warmup-examples", "128"),
            ("siglip2/results.json", *(f"siglip2/{stage}/model/model.safetensors" for stage in STAGES)),
        ),
        Tiny(
            "caption",
            ("--model", "siglip2/trunk/model", "--output", "caption/results.json"),
            ("caption/results.json", "caption/results.html"),
        ),
        Tiny(
            "dense",
            ("--model", "siglip2/trunk/model", "--output", "dense/results.json"),
            ("dense/results.json", "dense/results.html"),
        ),
    ),
    "siglip": (
        *TRAINED,
        Tiny("embed", ("--index", "index", "--model", "siglip"), ("index/index.json", "index/vectors.npy")),
        Tiny(
            "search",
            ("--index", "index", "--query", "red apple", "--output", "search.json"),
            ("search.json", "search.html"),
        ),
        Tiny(
            "evaluate",
            ("--model", "siglip", "--output", "judged/results.json"),
            ("judged/results.json", "judged/results.html"),
        ),
        Tiny("push", ("siglip", "hf://owner/name", "--judged", "judged/results.json", "--picture", "--dry-run"), ()),
        Tiny("fairness", ("--model", "siglip"), ("runs/fairness/results.json", "runs/fairness/results.html")),
    ),
    "classifier": (
        Tiny(
            "classifier",
            ("linear_probe", "--run-dir", "classifier", *SHORT),
            tuple(f"classifier/{name}" for name in RUN),
        ),
        Tiny("compare", ("classifier",), ("runs/compare.html",)),
        Tiny("models", ("patch16",)),
        Tiny("data", ("emoji",)),
    ),
    "clip": (Tiny("clip", ("--run-dir", "clip", *SHORT), tuple(f"clip/{name}" for name in RUN)),),
    "gpt1": (
        Tiny(
            "gpt1",
            ("--run-dir", "gpt1", "--examples", "640", "--evaluate-every", "320"),
            (*(f"gpt1/{name}" for name in RUN), "gpt1/model/vocab.json"),
        ),
        Tiny(
            "gpt1_finetune",
            ("--pretrained", "gpt1", "--task", "emoji_same", "--epochs", "None", "--examples", "256")
            + ("--run-dir", "gpt1_finetune"),
            (*(f"gpt1_finetune/{name}" for name in RUN), "gpt1_finetune/model/vocab.json"),
        ),
    ),
    "lit": (Tiny("lit", ("--run-dir", "lit", *SHORT), tuple(f"lit/{name}" for name in RUN)),),
    "label": (
        Tiny(
            "label",
            ("--scenes", "40", "--output", "label/regions.jsonl"),
            ("label/regions.jsonl", "label/regions.html"),
        ),
    ),
    "paligemma": (
        Tiny(
            "paligemma",
            ("--run-dir", "paligemma", "--examples", "640", "--most-asked", "64", "--warmup-examples", "64"),
            tuple(f"paligemma/{name}" for name in RUN),
        ),
        Tiny("ask", ("--help",)),
        Tiny("judge_answers", ("--help",)),
    ),
    "zero_shot": (Tiny("zero_shot", ("--output", "zero_shot.json"), ("zero_shot.json", "zero_shot.html")),),
    "siglip2_ablation": (Tiny("siglip2_ablation", ABLATION),),
    "interpolate": (Tiny("interpolate", ("--help",)),),  # docs/fine_tuning.md has one that is carried out
    "demo": (Tiny("demo", ("--help",)),),  # it serves until it is stopped; its own tests ask it everything
}
"""Name -> the recipes that follow each other, the longest first."""


def chosen() -> list[tuple[str, str, tuple[Tiny, ...]]]:
    """(backend, name of the chain, its recipes) of what is to be run here."""
    first, *others = (name for name in BACKENDS if name in installed_backends())
    found = [(first, name, chain) for name, chain in CHAINS.items()]
    for backend in others:
        found += [(backend, name, chain) for name, chain in (CHAINS if THOROUGH else {"siglip": TRAINED}).items()]
    return found


def test_every_recipe_has_its_tiny_size():
    runnable = {path.stem for path in ROOT.glob("recipes/[!_]*.py") if "__main__" in path.read_text(encoding="utf-8")}
    assert len(runnable) >= 12
    assert {tiny.recipe for chain in CHAINS.values() for tiny in chain} == runnable


@pytest.mark.timeout(1_800)
@pytest.mark.parametrize(("backend", "chain"), [pytest.param(b, c, id=f"{b}-{name}") for b, name, c in chosen()])
def test_a_chain_of_recipes_ends_well(backend, chain, tmp_path):
    for tiny in chain:
        done = subprocess.run(
            [sys.executable, "-m", f"recipes.{tiny.recipe}", *tiny.flags],
            cwd=tmp_path,
            env=os.environ | {"KERAS_BACKEND": backend, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0, f"recipes.{tiny.recipe}: exit status {done.returncode}\n{done.stdout[-6000:]}"
        assert [file for file in tiny.files if not (tmp_path / file).exists()] == []
