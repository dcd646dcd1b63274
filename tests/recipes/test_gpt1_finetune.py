"""Fine-tuning of GPT-1 by recipe: from fresh weights and from a checkpoint, what it leaves, and what is refused."""

import json
import pickle

import keras
import numpy as np
import pytest

from diptych.core.data.text_tasks.sequences import sequence_fields
from diptych.core.data.texts.documents import EMBEDDED_VOCABULARY
from diptych.core.data.tokenizers.bpe_training import train_gpt_tokenizer
from diptych.core.data.tokenizers.gpt_bpe import GptTokenizer
from diptych.core.training.learner import Learner
from diptych.core.training.metrics import read_metrics
from diptych.core.training.results import read_results
from diptych.engine.command_line import parse_recipe
from diptych.engine.datasets.text_tasks import task_of_name
from diptych.engine.training.run_plan import RunPlan, plan_run
from diptych.engine.training.terms import TERMS
from diptych.models import GPT, GPTConfig, GPTDoubleHeads
from diptych.recipes import gpt1_finetune
from tests.marks import ABOVE_THE_BACKENDS
from tests.models.examples import numpy_of

pytestmark = ABOVE_THE_BACKENDS

NAMES = ("cat", "dog", "cow", "hen", "owl", "fox")
SHORT = ("--batch-size", "8", "--no-tensorboard", "--way", "transformers")


def rows(count: int, seed: int) -> list[str]:
    """ "the cat is red. | the cat is red." follows; with another animal it does not."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        one, other = rng.choice(NAMES, 2, replace=False)
        said = one if number % 2 else other
        label = "entailment" if number % 2 else "not_entailment"
        found.append(f"{number}\tthe {one} is here .\tit is the {said} .\t{label}")
    return found


@pytest.fixture(scope="module")
def rte(tmp_path_factory):
    folder = tmp_path_factory.mktemp("RTE")
    for name, count, seed in (("train.tsv", 48, 0), ("dev.tsv", 24, 1)):
        bad = [f"{count}\tthe cat\t \tentailment"] if name == "train.tsv" else []
        lines = ["index\tsentence1\tsentence2\tlabel", *rows(count, seed), *bad]
        (folder / name).write_text("\n".join(lines), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def checkpoint(rte, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpt")
    tokenizer = train_gpt_tokenizer((rte / "train.tsv").read_text().split("\t"), merges=40, way="transformers")
    tokenizer.save(folder)
    config = GPTConfig(width=16, depth=2, mlp_dim=64, num_heads=2, vocab_size=tokenizer.vocab_size, context_length=32)
    GPT(config, seed=7).save_to_preset(folder, format="transformers")
    return folder


def train(rte, folder, *flags: str) -> int:
    own = ["--task", "rte", "--train-data", str(rte), "--run-dir", str(folder)]
    return gpt1_finetune.main([*own, *SHORT, *flags])


def plan(*flags: str) -> RunPlan:
    recipe = parse_recipe(gpt1_finetune.gpt1_finetune(), list(flags), program="gpt1_finetune", description="")
    return plan_run(recipe, TERMS)


def weights(model) -> dict[str, np.ndarray]:
    return {weight.path: np.array(keras.ops.convert_to_numpy(weight.value)) for weight in model.weights}


def test_a_run_from_a_checkpoint_leaves_a_model_that_answers(rte, checkpoint, tmp_path, capsys):
    flags = ("--pretrained", str(checkpoint), "--epochs", "2", "--lr", "1e-2")
    assert train(rte, tmp_path, *flags) == 0
    out = capsys.readouterr().out
    assert "Begins from the weights of" in out
    assert "a fresh head for rte (entailment, 2 answers)" in out
    assert "26 weights carried over, resized 0, fresh 2 (classifier)" in out
    left_out = [json.loads(line) for line in (tmp_path / "left_out.jsonl").read_text().splitlines()]
    assert [(line["name"], line["reason"]) for line in left_out] == [("train.tsv:50", "text_empty")]
    assert "bag of words, second text alone" in out
    scored = read_results(tmp_path / "results.json")["training"]["answers"]["Held-out texts"]
    evaluations = [row["evaluation"] for row in read_metrics(tmp_path / "metrics.jsonl") if "evaluation" in row]
    assert len(evaluations) == 3  # before the first step, and after each epoch
    assert scored["metrics"]["accuracy"]["value"] == pytest.approx(evaluations[-1]["accuracy"])
    assert scored["examples"] == 24
    assert scored["tokens"] > 24 * 8
    assert scored["unknown"] == 0
    assert set(scored["baselines"]) == {"usual answer", "bag of words", "bag of words, second text alone"}
    low, high = scored["metrics"]["accuracy"]["interval"]
    assert 0 <= low <= scored["metrics"]["accuracy"]["value"] <= high <= 1
    report = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "bag of words, second text alone" in report
    assert "labelled texts" in report
    # What it leaves is read by name, and answers as it was judged.
    model, tokenizer = GPTDoubleHeads.from_preset(tmp_path / "model"), GptTokenizer.open(tmp_path / "model")
    assert model.config.task == task_of_name("rte")
    held_out = plan("--task", "rte", "--train-data", str(rte), *SHORT, *flags[:2]).data_set.held_out
    examples = held_out["Held-out texts"].examples
    assert tokenizer.fingerprint() == GptTokenizer.open(checkpoint).fingerprint()
    fields = sequence_fields(examples, model.config.length)
    logits = numpy_of(model({"token_ids": fields["token_ids"], "extract": fields["extract"]}))
    right = logits.argmax(1) == np.stack([one.target for one in examples]).argmax(1)
    assert right.mean() == pytest.approx(scored["metrics"]["accuracy"]["value"])


def test_a_run_that_breaks_off_goes_on_to_the_same_bits(rte, checkpoint, tmp_path, monkeypatch):
    flags = ("--pretrained", str(checkpoint), "--epochs", "1", "--no-report")
    assert train(rte, tmp_path / "whole", *flags) == 0
    take = Learner._take

    def breaks(self, *arguments):
        if self.steps_done == 3:
            raise RuntimeError("the power went")
        take(self, *arguments)

    monkeypatch.setattr(Learner, "_take", breaks)
    with pytest.raises(RuntimeError, match="the power went"):
        train(rte, tmp_path / "broken", *flags)
    monkeypatch.undo()
    assert train(rte, tmp_path / "broken", *flags) == 0
    whole, broken = (weights(GPTDoubleHeads.from_preset(tmp_path / name / "model")) for name in ("whole", "broken"))
    assert whole.keys() == broken.keys()
    assert all(value.tobytes() == broken[path].tobytes() for path, value in whole.items())


def test_of_a_frozen_net_the_head_alone_moves(rte, checkpoint, tmp_path):
    flags = ("--pretrained", str(checkpoint), "--epochs", "1", "--no-report", "--lock", "decoder/.*", "--lr", "1e-2")
    assert train(rte, tmp_path, *flags) == 0
    after, given = weights(GPTDoubleHeads.from_preset(tmp_path / "model")), weights(GPT.from_preset(checkpoint))
    assert after["classifier/bias"].any()
    for path, value in given.items():
        assert after[path][: len(value)].tobytes() == value.tobytes(), path


def test_the_papers_settings_and_what_the_data_decide(rte, checkpoint):
    made = plan("--task", "rte", "--train-data", str(rte), "--pretrained", str(checkpoint), *SHORT)
    optimization = made.recipe.optimization
    assert optimization.learning_rate == 6.25e-5
    assert optimization.weight_decay == pytest.approx(6.25e-7)
    assert (optimization.examples, optimization.warmup_examples) == (3 * 48, 1)
    assert made.recipe.run.evaluate_every == 48
    assert made.recipe.stages[0].losses == {"answering": 1.0, "language": 0.5}
    assert made.config.head_dropout == 0.1
    assert made.config.length == made.data_set.longest < made.config.decoder.context_length
    paper = gpt1_finetune.gpt1_finetune().optimization
    assert (paper.batch_size, paper.optimizer, paper.schedule) == (32, "openai_adam", "openai_linear")
    assert (paper.beta_2, paper.grad_clip_norm) == (0.999, 1.0)
    alone = plan(
        "--task", "rte", "--train-data", str(rte), "--pretrained", str(checkpoint), "--language-weight", "0", *SHORT
    )
    assert alone.recipe.stages[0].losses == {"answering": 1.0}


def test_special_tokens_are_the_only_new_rows_and_layers_can_be_left(rte, checkpoint):
    flags = ("--task", "rte", "--train-data", str(rte), "--pretrained", str(checkpoint), *SHORT)
    given = weights(GPT.from_preset(checkpoint))
    carried = plan(*flags).start.weights().groups["weights"]
    table = carried.pop("decoder/token_embedding/embedding")
    assert table[:-3].tobytes() == given.pop("decoder/token_embedding/embedding").tobytes()
    assert table.shape[0] == GptTokenizer.open(checkpoint).vocab_size + 3
    assert 0.005 < table[-3:].std() < 0.05
    assert {path: value.tobytes() for path, value in carried.items()} == {p: v.tobytes() for p, v in given.items()}
    fewer = plan(*flags, "--transfer-layers", "1").start.weights().groups["weights"]
    assert {path for path in carried if path not in fewer} == {path for path in carried if "block_01" in path}


def test_stories_are_held_out_as_the_released_code_does_and_tests_stay_apart(tmp_path):
    columns = [f"InputSentence{number}" for number in range(1, 5)]
    columns += ["RandomFifthSentenceQuiz1", "RandomFifthSentenceQuiz2", "AnswerRightEnding"]
    for name, count in (("cloze_test_val.csv", 400), ("cloze_test_test.csv", 30)):
        stories = [
            ",".join(["a cat", "it ran", "it ate", "it slept", "good", "bad", "12"[n % 2]]) for n in range(count)
        ]
        (tmp_path / name).write_text("\n".join([",".join(columns), *stories]))
    made = plan("--task", "rocstories", "--train-data", str(tmp_path), *SHORT)
    sets = {name: len(texts) for name, texts in made.data_set.held_out.items()}
    assert (len(made.data_set.train), sets) == (26, {"Held-out texts": 374, "Test stories": 30})
    assert len(pickle.loads(pickle.dumps(made.data_set.train))) == 26  # for worker processes


def test_from_fresh_weights_it_learns_its_own_vocabulary(rte):
    made = plan("--task", "rte", "--train-data", str(rte), "--merges", "30", *SHORT)
    assert made.preprocess.vocabulary.way == "transformers"
    assert made.config.decoder.vocab_size == made.preprocess.vocabulary.vocab_size + 3
    assert made.recipe.optimization.learning_rate == 1e-3
    usual = plan("--task", "rte", "--train-data", str(rte), *SHORT)
    assert usual.preprocess.vocabulary.fingerprint() == GptTokenizer.open(EMBEDDED_VOCABULARY).fingerprint()
    dry = plan("--task", "rte")
    assert dry.task.missing_flags(dry.recipe, dry.start)[0].startswith("--train-data (the folder in which rte is")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--task", "wnli"), "There is no task 'wnli'; there are story, novel"),
        (("--task", "emoji_kind", "--train-data", "x"), "made of data that come along, got --train-data x"),
        (("--pretrained", "EMOJI"), "is a SigLIP, and a GPT is expected"),
        (("--prompts", "once"), "--prompts is for language models, and a task is judged by its answers"),
        (("--transfer-layers", "1"), "there is none: give --pretrained"),
        (("--pretrained", "GPT", "--transfer-layers", "3"), "--transfer-layers is 0 to the 2 blocks of"),
        (("--pretrained", "GPT", "--context-length", "33"), "--context-length 33 is more than the 32 positions"),
        (("--pretrained", "GPT", "--tokenizer", "OTHER"), "they do not belong together"),
        (("--batch-size", "64"), "48 examples to train on, and a batch takes 64"),
        (("--model", "emoji"), "--model emoji is no size of GPT: there are gpt1"),
    ],
)
def test_what_cannot_be_is_said(flags, message, rte, checkpoint, tmp_path):
    train_gpt_tokenizer(["other words"], merges=2, way="transformers").save(tmp_path)
    named = {"GPT": str(checkpoint), "OTHER": str(tmp_path), "EMOJI": "emoji_36_languages"}
    with pytest.raises(ValueError, match=message):
        plan("--task", "rte", "--train-data", str(rte), *SHORT, *(named.get(flag, flag) for flag in flags))
