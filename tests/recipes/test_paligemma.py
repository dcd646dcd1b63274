"""PaliGemma's fine-tuning: from questions to a model that is asked, what moves, what is planned, what is refused."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from diptych.core.data.pixels import FixedSize
from diptych.core.data.processor.prompted import PaliGemmaProcessor
from diptych.core.data.tokenizers.open import open_tokenizer
from diptych.core.training.checkpoint import restore_latest
from diptych.core.training.metrics import read_metrics
from diptych.core.training.recipe import Data
from diptych.core.training.results import read_results
from diptych.core.training.term_options import Prompted
from diptych.core.weights.npz import write_npz
from diptych.engine.command_line import parse_recipe
from diptych.engine.datasets.questions import open_asked
from diptych.engine.training.costs import training_flops
from diptych.engine.training.memory import stage_memory
from diptych.engine.training.prompted_evaluation import PromptedEvaluation
from diptych.engine.training.run_plan import plan_run
from diptych.engine.training.terms import TERMS
from diptych.models import PaliGemma
from diptych.models.paligemma.presets import PRESETS
from diptych.recipes import ask, paligemma
from tests.core.data.pictures import encoded
from tests.core.data.sources.test_question_layouts import refcoco
from tests.core.data.test_mask_codes import archive
from tests.core.data.tokenizers.small_vocabularies import newline_model
from tests.marks import ABOVE_THE_BACKENDS
from tests.models.examples import numpy_of
from tests.models.paligemma.test_paligemma import CONFIG, TEXT

COLOURS = {"red": (220, 20, 20), "blue": (20, 20, 220)}
STEPS = 60
SHORT = (
    *("--batch-size", "4", "--examples", str(4 * STEPS), "--epochs", "None", "--evaluate-every", str(2 * STEPS)),
    *("--warmup-examples", "0", "--lr", "2e-2", "--context-length", "16", "--answer-tokens", "3"),
    *("--precision", "float32", "--no-grad-checkpointing", "--no-tensorboard", "--val-fraction", "0.25"),
)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A PaliGemma of a few thousand weights with its processor."""
    path = tmp_path_factory.mktemp("base")
    (path / "tokenizer.model").write_bytes(newline_model(("red", "blue", "colour")))
    processor = PaliGemmaProcessor(
        pixels=FixedSize(height=8, width=8), tokenizer=open_tokenizer(path / "tokenizer.model")
    )
    processor.save_to_preset(path)
    text = replace(TEXT, vocab_size=processor.tokenizer.vocab_size, attention_soft_cap=None, context_length=48)
    PaliGemma(replace(CONFIG, text=text)).save_to_preset(path, format="diptych")
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Twenty questions about the colours of ten pictures, of which one file is missing."""
    folder = tmp_path_factory.mktemp("data")
    lines = []
    for number in range(10):
        name = list(COLOURS)[number % 2]
        picture = np.full((12, 12, 3), COLOURS[name], np.uint8)
        picture[0, 0] = number
        (folder / f"{number}.png").write_bytes(encoded(picture))
        lines += [{"image": f"{number}.png", "prefix": prompt, "suffix": name} for prompt in ("colour", "what?")]
    lines.append({"image": "missing.png", "prefix": "colour", "suffix": "red"})
    (folder / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "data.jsonl"


def train(base: Path, data: Path, folder: Path, *flags: str) -> int:
    own = ("--pretrained", str(base), "--train-data", str(data), "--run-dir", str(folder))
    return paligemma.main([*own, *SHORT, *flags])


def plan(preset: str, *flags: str):
    return plan_run(parse_recipe(paligemma.PRESETS[preset](), list(flags), program="", description=""), TERMS)


@pytest.fixture(scope="module")
def finished(base, data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "finished"
    assert train(base, data, folder) == 0
    return folder


def test_questions_are_learned_judged_and_shown(finished):
    rows = read_metrics(finished / "metrics.jsonl")
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == STEPS
    assert losses[-1] < 0.5 * losses[0]
    evaluations = [row for row in rows if "evaluation" in row]
    assert evaluations[0]["examples"] == 0
    assert evaluations[0]["evaluation"]["exact"] == 0
    results = read_results(finished / "results.json")["training"]
    (score,) = results["answers"]["Held-out questions"]
    assert score["metric"] == "exact"
    assert score["value"] >= 0.5
    assert {one["prompt"] for one in results["asked"]} == {"colour", "what?"}
    page = (finished / "report.html").read_text(encoding="utf-8")
    assert "Answers" in page
    assert "Before training" in page or "before" in page
    assert page.count("data:image/webp") >= score["questions"]
    assert "missing.png" in (finished / "left_out.jsonl").read_text(encoding="utf-8")


def test_a_run_is_asked(finished, data, capsys):
    photo = str(data.parent / "0.png")
    assert ask.main(["--model", str(finished), "--image", photo, "--prompt", "colour", "--steps", "3"]) == 0
    assert f"{photo}: colour\n" in capsys.readouterr().out
    model, processor = PaliGemma.from_preset(finished / "model"), PaliGemmaProcessor.from_preset(finished / "model")
    assert model.config.text.vocab_size == processor.tokenizer.vocab_size


@ABOVE_THE_BACKENDS
def test_a_run_that_is_stopped_goes_on_to_the_same_bits(base, data, finished, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patched:
        stopping = lambda self: os.kill(os.getpid(), signal.SIGTERM) or {"loss": 1.0}  # noqa: E731
        patched.setattr(PromptedEvaluation, "quick", stopping)
        assert train(base, data, tmp_path / "run") == 143
    assert train(base, data, tmp_path / "run") == 0
    found, expected = (restore_latest(folder / "checkpoints").groups for folder in (tmp_path / "run", finished))
    for group, arrays in expected.items():
        assert all(np.array_equal(found[group][name], array) for name, array in arrays.items()), group


@ABOVE_THE_BACKENDS
@pytest.mark.parametrize(
    ("flags", "moving"),
    [
        (("--train", "attention", "--optimizer", "sgd", "--momentum", "0"), ("decoder/block_", "/attention/")),
        (("--train", "all-but-image", "--mean-over", "tokens", "--label-smoothing", "0.1"), ("decoder/", "projector/")),
        (("--train", "decoder", "--lora-rank", "2"), ("decoder/block_", "_kernel")),
    ],
)
def test_what_is_held_does_not_move(base, data, tmp_path, flags, moving):
    """And all that is not held does."""
    assert train(base, data, tmp_path / "run", "--examples", "12", "--evaluate-every", "12", "--no-report", *flags) == 0
    before, after = (
        {weight.path: numpy_of(weight.value) for weight in PaliGemma.from_preset(folder).weights}
        for folder in (base, tmp_path / "run" / "model")
    )
    changed = {path for path, value in before.items() if not np.array_equal(value, after[path])}
    matches = all if flags[1] == "attention" or "--lora-rank" in flags else any
    expected = {path for path in before if matches(part in path for part in moving)}
    assert changed == expected


@ABOVE_THE_BACKENDS
def test_captions_answer_a_prompt(base, tmp_path, monkeypatch):
    for number, name in enumerate(("red", "blue") * 4):
        (tmp_path / f"{number}.png").write_bytes(encoded(np.full((9, 9, 3), COLOURS[name], np.uint8)))
        (tmp_path / f"{number}.txt").write_text(name)
    flags = ("--pretrained", str(base), "--train-data", str(tmp_path), "--val-fraction", "0.4", "--prompt", "say it")
    assert paligemma.main([*flags, *SHORT[:-2], "--examples", "8", "--run-dir", str(tmp_path / "run")]) == 0
    results = read_results(tmp_path / "run" / "results.json")["training"]
    assert {one["prompt"] for one in results["asked"]} == {"say it"}


@ABOVE_THE_BACKENDS
def test_an_example_may_have_several_pictures(base, data, tmp_path):
    """All of them go through the tower, in their order, in training and when the model is asked."""
    lines = []
    for number in range(8):
        images = [f"{number}.png", f"{number + 1}.png"]
        lines.append({"images": images, "prefix": "colour", "suffix": list(COLOURS)[number % 2]})
    lines.append({"images": ["0.png", "missing.png"], "prefix": "colour", "suffix": "red"})
    several = data.parent / "several.jsonl"
    several.write_text("".join(json.dumps(line) + "\n" for line in lines))
    flags = ("--examples", "16", "--evaluate-every", "16")
    assert train(base, several, tmp_path / "run", "--val-data", str(several), *flags) == 0
    results = read_results(tmp_path / "run" / "results.json")["training"]
    assert results["answers"]["Held-out questions"][0]["questions"] == 8
    assert "missing.png" in (tmp_path / "run" / "left_out.jsonl").read_text(encoding="utf-8")
    given = ("--pretrained", str(base), "--batch-size", "4", "--context-length", "16")
    made = [plan("transfer", "--train-data", str(file), "--val-data", str(file), *given) for file in (several, data)]
    assert [each.recipe.prompted.pictures for each in made] == [2, 1]
    two, one = (training_flops(each.recipe, each.planned["training"], TERMS)["total"] for each in made)
    assert two > one


@ABOVE_THE_BACKENDS
def test_a_data_set_is_learned_and_judged_as_it_is_downloaded(base, tmp_path):
    """RefCOCO's boxes; and its masks, whose codes are part of the answer."""
    path = refcoco(tmp_path / "refcoco", outline=[[2, 1, 10, 1, 10, 5, 2, 5]])
    write_npz(tmp_path / "vae-oid.npz", archive())
    prompted = Prompted(masks=tmp_path / "vae-oid.npz")
    source = open_asked(f"{path}#train", Data(train_data=f"{path}#train"), prompted)
    answer = source.record(0).captions[0].text
    assert source.record(0).prompt == "segment the man"
    assert (answer.count("<loc"), answer.count("<seg"), answer.endswith("> the man")) == (4, 16, True)
    made = plan("transfer", *("--pretrained", str(base), "--train-data", f"{path}#train"), "--val-data", f"{path}#val",
                "--context-length", "16", "--batch-size", "2", "--epochs", "None")  # fmt: skip
    assert made.recipe.prompted.metric == ("boxes",)


@ABOVE_THE_BACKENDS
def test_presets_are_planned_at_the_published_size(capsys):
    made = plan("attention")
    planned = made.planned["training"]
    assert planned.trained == 169_869_312
    assert planned.locked == {"image"}
    memory = stage_memory(made.recipe, planned, TERMS)
    assert memory["optimizer"] < 100  # its counter
    assert memory["total"] < 14e9, "the plan of 3B on a card of 16 GB"
    assert made.recipe.optimization.momentum == 0
    assert plan("forkme").recipe.optimization.weight_decay_multipliers == {"decoder/.*": 0.0}
    assert paligemma.main(["transfer", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "2,923,335,408 parameters, pictures of 224 px, which are 256 tokens, texts of up to 128" in out
    assert "5.7e+03" in out  # GFLOP of an example
    assert "give --train-data (lines of JSON" in out


@ABOVE_THE_BACKENDS
def test_the_tiny_default_begins_from_the_shipped_tower(tmp_path):
    made = plan("tiny")
    weights = made.start.weights().groups["weights"]
    assert all(path.startswith("image/") for path in weights)
    assert made.config == PRESETS["paligemma_emoji"]
    source = made.data_set.sources(0).train
    records = [source.record(place) for place in range(3)]
    assert [record.prompt for record in records] == ["caption en", "count", "answer en what is left?"]
    caption, count, left = (record.captions[0].text for record in records)
    assert caption.split(", ")[0] == left
    assert int(count) == len(caption.split(", "))


@ABOVE_THE_BACKENDS
def test_what_cannot_be_trained_is_refused_in_sentences(base, data, tmp_path, capsys):
    def refused(*flags: str) -> str:
        assert paligemma.main(["tiny", *flags, "--run-dir", str(tmp_path / "none")]) != 0
        return capsys.readouterr().err

    own = ("--pretrained-image", "None", "--pretrained", str(base), "--train-data", str(data))
    assert "is a SigLIP, and a PaliGemma is expected" in refused(*own[:2], "--pretrained", "emoji_36_languages")
    assert "--english-share is for pairs of pictures and texts" in refused("--english-share", "0.5")
    assert "are longer than the 48 tokens" in refused(*own, "--context-length", "45")
    assert "lower --batch-size" in refused(*own, "--epochs", "1", "--batch-size", "64")
    length = ("--context-length", "16")
    mixed = tmp_path / "mixed.jsonl"
    lines = [{"image": images, "prefix": "alike?", "suffix": "no"} for images in (["a.png", "b.png"], "a.png")]
    mixed.write_text("".join(json.dumps(line) + "\n" for line in lines))
    unequal = "unequal numbers of pictures (1 about 1, 1 about 2)"
    assert unequal in refused(*own[:4], "--train-data", str(mixed), *length)
    assert "--masks is for referring expressions" in refused(*own, "--masks", "vae-oid.npz")
    with pytest.raises(SystemExit):
        paligemma.main(["tiny", "--momentum", "0.5"])
    assert "--momentum is sgd's" in capsys.readouterr().err
