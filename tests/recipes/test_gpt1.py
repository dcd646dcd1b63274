"""GPT-1's pre-training: from texts to a model that others read, stopped and resumed, planned at the paper's size."""

import json
import os
import re
import signal
import string
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from diptych.core.data.tokenizers.bpe_training import train_gpt_tokenizer
from diptych.core.data.tokenizers.gpt_bpe import GptTokenizer
from diptych.core.training.checkpoint import restore_latest
from diptych.core.training.metrics import read_metrics
from diptych.core.training.results import read_results
from diptych.engine.command_line import parse_recipe
from diptych.engine.training import language_evaluation
from diptych.engine.training.run_plan import RunPlan, plan_run
from diptych.engine.training.terms import TERMS
from diptych.models import GPT
from diptych.models.gpt import presets
from diptych.models.gpt.config import GPTConfig
from diptych.recipes import gpt1
from tests.marks import ABOVE_THE_BACKENDS
from tests.recipes.golden import check_losses
from tests.recipes.interruptions import run_undisturbed, run_with_kills
from tests.recipes.test_siglip import FEW_THREADS

THOROUGH = bool(os.environ.get("DIPTYCH_THOROUGH"))
MU = GPTConfig(width=16, depth=1, mlp_dim=32, num_heads=2, vocab_size=64, context_length=16)
STEPS = 20
SIZE = ("--context-length", "16", "--batch-size", "8", "--way", "transformers", "--merges", "40", "--no-tensorboard")
SHORT = (*SIZE, "--examples", str(8 * STEPS), "--evaluate-every", "80", "--sample-tokens", "4", "--dropout", "0.1")
NOUNS, VERBS = ("cat", "dog", "king", "queen"), ("sees", "follows", "greets")


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    monkeypatch.setitem(presets.PRESETS, "gpt1_tiny", MU)


@pytest.fixture(scope="module")
def books(tmp_path_factory) -> Path:
    """Sixteen documents of sentences that follow rules."""
    folder = tmp_path_factory.mktemp("texts") / "books"
    folder.mkdir()
    for number in range(16):
        rng = np.random.default_rng(number)
        lines = [f"The {rng.choice(NOUNS)} {rng.choice(VERBS)} the {rng.choice(NOUNS)}." for _ in range(40)]
        (folder / f"{number}.txt").write_text("\n".join(lines))
    return folder


def train(books: Path, folder: Path, *flags: str) -> int:
    own = ["--train-data", str(books), "--val-fraction", "0.2", "--run-dir", str(folder)]
    return gpt1.main(["tiny", *own, *SHORT, *flags])


def plan(preset: str, *flags: str) -> RunPlan:
    return plan_run(parse_recipe(gpt1.PRESETS[preset](), list(flags), program="gpt1", description=""), TERMS)


@pytest.fixture(scope="module")
def finished(books, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "finished"
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(presets.PRESETS, "gpt1_tiny", MU)
        assert train(books, folder) == 0
    return folder


def test_texts_are_learned_and_judged(finished):
    rows = read_metrics(finished / "metrics.jsonl")
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == STEPS
    assert losses[-1] < 0.97 * losses[0]
    found = [row["evaluation"]["bits_per_byte"] for row in rows if "evaluation" in row]
    assert len(found) == 2
    assert found[1] < found[0]
    result = read_results(finished / "results.json")["training"]["language"]["Held-out documents"]
    assert 0 < result["bits_per_byte"] < 8
    assert result["unknown"] == 0
    assert len(result["baselines"]) == 3
    page = (finished / "report.html").read_text(encoding="utf-8")
    assert "Bits a byte" in page
    assert "Samples" in page
    card = json.loads((finished / "card.json").read_text())
    assert card["implementation"] == "none"
    assert card["flops_per_step"] > 0


def test_the_losses_are_the_golden_ones(finished):
    check_losses("gpt1", finished / "metrics.jsonl")


def test_what_a_run_leaves_is_a_gpt_with_its_vocabulary(finished, books):
    model, words = GPT.from_preset(finished / "model"), GptTokenizer.open(finished / "model")
    assert model.config.vocab_size == words.vocab_size
    assert words.way == "transformers"
    result = read_results(finished / "results.json")["training"]["language"]["Held-out documents"]
    text = next(books.iterdir()).read_text()
    ids = np.array([words.ids(text)[:16]], np.int32)
    losses = keras.ops.convert_to_numpy(model.token_losses(ids))
    assert losses.shape == (1, 15)
    assert abs(losses.mean() - result["loss"]) < 1.5
    assert words.text(keras.ops.convert_to_numpy(model.generate(ids[:, :4], steps=3))[0])


@ABOVE_THE_BACKENDS
def test_what_is_judged_is_each_token_of_each_document_once(finished, books, monkeypatch):
    """In windows of any number at a time, against the model's own losses of whole documents."""
    made = plan("tiny", "--train-data", str(books), "--val-fraction", "0.2", *SIZE, "--pretrained", str(finished))
    data_set = made.data_set
    student = type("Student", (), {"towers": GPT.from_preset(finished / "model")})
    judge = language_evaluation.LanguageEvaluation(
        made.recipe, made.planned["training"], data_set, None, made.examples["training"], student
    )
    store = next(iter(data_set.judged.values()))
    result = judge._read(store, 1 << 20)
    length = sum(len(ids) - 1 for _, ids in store.documents())
    assert result["tokens"] == length
    nats = 0.0
    for _, ids in store.documents():
        for at in range(0, len(ids) - 1, 15):
            part = ids[None, at : at + 16]
            nats += float(keras.ops.convert_to_numpy(student.towers.token_losses(part)).sum()) if part.size > 1 else 0.0
    assert result["loss"] == pytest.approx(nats / length, rel=1e-4)
    monkeypatch.setattr(language_evaluation, "TOKENS_AT_ONCE", 48)
    assert judge._read(store, 1 << 20)["loss"] == pytest.approx(result["loss"], rel=1e-5)


@ABOVE_THE_BACKENDS
def test_a_run_that_is_stopped_goes_on_to_the_same_bits(finished, books, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patched:
        stopping = lambda self: os.kill(os.getpid(), signal.SIGTERM) or {"loss": 1.0}  # noqa: E731
        patched.setattr(language_evaluation.LanguageEvaluation, "quick", stopping)
        assert train(books, tmp_path / "run") == 143
    assert train(books, tmp_path / "run") == 0
    assert "going on from there" in capsys.readouterr().out
    for group, arrays in restore_latest(finished / "checkpoints").groups.items():
        found = restore_latest(tmp_path / "run" / "checkpoints").groups[group]
        assert all(np.array_equal(found[name], array) for name, array in arrays.items()), group


@ABOVE_THE_BACKENDS
def test_released_weights_are_gone_on_with_further_texts_judged_and_prompts_too(finished, books, tmp_path, capsys):
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps({"text": "The king greets the cat. " * 20}) + "\n")
    flags = ("--pretrained", str(finished), "--lr", "1e-4", "--eval-data", str(other), "--prompts", "the queen")
    assert train(books, tmp_path / "run", *flags, "--no-report") == 0
    out = capsys.readouterr().out
    assert "Begins from the weights of" in out
    assert "Sample: the queen ..." in out
    judged = read_results(tmp_path / "run" / "results.json")["training"]["language"]
    assert set(judged) == {"Held-out documents", str(other)}
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    before = next(row for row in rows if "evaluation" in row)
    assert before["examples"] == 0
    ended = read_results(finished / "results.json")["training"]["language"]["Held-out documents"]["loss"]
    assert before["validation_loss"] == pytest.approx(ended, rel=0.05)


@ABOVE_THE_BACKENDS
def test_micro_batches_add_up_to_the_whole(finished, books, tmp_path):
    assert train(books, tmp_path / "run", "--accum-freq", "4", "--no-report") == 0
    whole, pieces = (read_metrics(folder / "metrics.jsonl") for folder in (finished, tmp_path / "run"))
    losses = [[row["loss"] for row in rows if "loss" in row][:8] for rows in (whole, pieces)]
    np.testing.assert_allclose(*losses, rtol=1e-4)


@ABOVE_THE_BACKENDS
def test_the_papers_run_is_planned_to_the_parameter(capsys, monkeypatch):
    monkeypatch.undo()
    assert gpt1.main(["paper", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "116,534,784 parameters; windows of 512 tokens, of which there are 40,478" in out
    assert "512 tokens" in out
    assert "To carry it out, give --train-data (a folder of texts)." in out
    optimization = plan("paper").recipe.optimization
    assert (optimization.optimizer, optimization.schedule) == ("openai_adam", "openai_cosine")
    assert optimization.learning_rate == 2.5e-4
    assert optimization.weight_decay == pytest.approx(0.01 * 2.5e-4)
    assert optimization.warmup_examples == 2_000 * 64
    assert plan("paper").config.embedding_dropout == 0.1


@ABOVE_THE_BACKENDS
def test_epochs_stand_for_so_many_examples(books):
    flags = ("--train-data", str(books), *SIZE)
    made = plan("tiny", *flags, "--epochs", "3")
    windows = len(made.data_set.learned) // 16
    assert made.recipe.optimization.examples == 3 * (windows // 8) * 8


@ABOVE_THE_BACKENDS
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--augment",), "--augment is for pictures, and a language model reads texts alone"),
        (("--model", "siglip_b16_224"), "is no size of GPT: there are gpt1"),
        (("--pretrained", "RUN", "--context-length", "17"), "longer than the 16 positions that"),
        (("--context-length", "9000"), "which is less than a window of 9,000"),
        (("--val-fraction", "0.001"), "No document of .* is held out"),
        (("--tokenizer", "LARGE", "--pretrained", "BARE"), "has .* entries, and the table of"),
        (("--train-data", "nowhere"), "no file or folder nowhere"),
        (("--tokenizer", "nowhere"), "nowhere"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said_with_the_next_step(finished, books, tmp_path, capsys, flags, message):
    many = " ".join(f"{one}{two}" for one in string.ascii_lowercase for two in string.digits)
    words = train_gpt_tokenizer([many], merges=90, way="transformers")
    words.save(tmp_path / "large")
    GPT.from_preset(finished / "model").save_to_preset(tmp_path / "bare", format="diptych")
    stand_for = {"RUN": finished, "LARGE": tmp_path / "large", "BARE": tmp_path / "bare"}
    assert train(books, tmp_path / "run", *(str(stand_for.get(flag, flag)) for flag in flags)) == 1

    assert re.search(message, capsys.readouterr().err)


@ABOVE_THE_BACKENDS
def test_bad_documents_are_counted_and_too_many_end_the_run(books, tmp_path, capsys):
    rows = [json.dumps({"text": path.read_text()}) for path in sorted(books.iterdir())]
    data = tmp_path / "texts.jsonl"
    data.write_text("\n".join([*rows, '{"text": ""}']) + "\n")
    assert train(data, tmp_path / "run", "--no-report", "--max-skipped", "0.1") == 0
    out = capsys.readouterr().out
    assert "text_empty" in out
    assert "texts.jsonl, line 17" in out
    assert train(data, tmp_path / "strict", "--no-report", "--max-skipped", "0") == 1
    assert "1 of 17 records of" in capsys.readouterr().err


@pytest.mark.skipif(not THOROUGH, reason="takes minutes: with DIPTYCH_THOROUGH")
def test_kills_at_random_moments_change_no_bit(books, tmp_path):
    def command(folder: Path) -> list[str]:
        own = ["--train-data", str(books), "--val-fraction", "0.2", "--run-dir", str(folder), "--checkpoint-every", "3"]
        return [sys.executable, "-m", "recipes.gpt1", "tiny", *own, *SHORT, "--no-report"]

    undisturbed = run_undisturbed(command(tmp_path / "a"), tmp_path / "a", environment=FEW_THREADS)
    killed = run_with_kills(
        command(tmp_path / "b"), tmp_path / "b", kills=4, seed=1, undisturbed=undisturbed, environment=FEW_THREADS
    )
    assert killed.by_step() == undisturbed.by_step()
    assert killed.weights_sha256 == undisturbed.weights_sha256
