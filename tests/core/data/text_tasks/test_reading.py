"""Labelled texts as distributed: GLUE's tables, SNLI's and SciTail's lines, RACE's articles, ROCStories' CSV."""

import csv
import json
import pickle
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from diptych.core.data.ledger import TooManySkipped
from diptych.core.data.loading.loader import Loader
from diptych.core.data.text_tasks.formats import FORMATS
from diptych.core.data.text_tasks.layouts import SpecialIds
from diptych.core.data.text_tasks.opening import drawn_split, format_of, open_task_texts
from diptych.core.data.text_tasks.sequences import SequenceFields, TokenizedTexts
from diptych.core.data.text_tasks.source import read_texts
from diptych.core.data.tokenizers.bpe_training import train_gpt_tokenizer

TEXT, OTHER = 'A man said "hello".', "He spoke."
TOKENIZER = train_gpt_tokenizer(
    [TEXT, OTHER, "Who? The dog ran away. One two three four."], merges=0, way="transformers"
)

# The first lines of each file as GLUE distributes it: headers and numbers of columns are theirs, the texts ours.
GLUE = {
    "cola": ("gj04\t1\t\t{a}\nks08\t0\t*\t{b}\n", [((TEXT,), "1"), ((OTHER,), "0")]),
    "sst2": ("sentence\tlabel\n{a}\t1\n", [((TEXT,), "1")]),
    "mrpc": (
        "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t702\t703\t{a}\t{b}\n", [((TEXT, OTHER), "1")],
    ),
    "qqp": (
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n133\t213\t214\t{a}\t{b}\t0\n", [((TEXT, OTHER), "0")],
    ),
    "stsb": (
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n"
        "0\tmain-captions\tMSRvid\t2012test\t0001\tnone\tnone\t{a}\t{b}\t3.800\n", [((TEXT, OTHER), "3.800")],
    ),
    "mnli": (
        "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\t"
        "sentence2_parse\tsentence1\tsentence2\tlabel1\tgold_label\n"
        "0\t31193\t31193n\tgovernment\t( a )\t( b )\t(R a)\t(R b)\t{a}\t{b}\tneutral\tneutral\n",
        [((TEXT, OTHER), "neutral")],
    ),
    "qnli": ("index\tquestion\tsentence\tlabel\n0\t{a}\t{b}\tnot_entailment\n", [((TEXT, OTHER), "not_entailment")]),
    "rte": ("index\tsentence1\tsentence2\tlabel\n0\t{a}\t{b}\tentailment\n", [((TEXT, OTHER), "entailment")]),
}  # fmt: skip


def examples_in(form, *paths):
    source = read_texts(form, list(paths))
    return [source.record(index) for index in range(len(source))]


@pytest.mark.parametrize("name", GLUE)
def test_glue_as_it_is_distributed(tmp_path, name):
    content, expected = GLUE[name]
    (tmp_path / "train.tsv").write_text(content.format(a=TEXT, b=OTHER), encoding="utf-8")
    found = examples_in(FORMATS[name], tmp_path / "train.tsv")
    assert [(example.texts, example.label) for example in found] == expected
    for example in found:
        assert np.isclose(FORMATS[name].task.target(example.label).sum(), 1)
    train, held_out = open_task_texts(FORMATS[name], str(tmp_path), max_skipped=0.05)
    assert (len(train), held_out) == (len(expected), {})
    for pattern in FORMATS[name].held_out.values():
        (tmp_path / pattern).write_text(content.format(a=OTHER, b=TEXT), encoding="utf-8")
    _, held_out = open_task_texts(FORMATS[name], str(tmp_path), max_skipped=0.05)
    assert list(held_out) == list(FORMATS[name].held_out)
    assert {source.record(0).texts[0] for source in held_out.values()} == {OTHER}


def test_lines_of_snli_and_scitail(tmp_path):
    rows = [{"gold_label": label, "sentence1": TEXT, "sentence2": OTHER, "pairID": "1"}
            for label in ("entailment", "-", "contradiction")]  # fmt: skip
    path = tmp_path / "snli_1.0_train.jsonl"
    path.write_text("\n".join([*map(json.dumps, rows), "[]", "{", ""]))
    source = read_texts(FORMATS["snli"], [path])
    tokenized = TokenizedTexts(source, TOKENIZER, length=64)
    assert [one.target.tolist() for one in tokenized.examples] == [[1, 0, 0], [0, 0, 1]]
    reasons = Counter(one.reason for one in source.ledger.skipped.values())
    assert reasons == {"label_missing": 1, "row_not_json": 2}
    assert [one.name for one in source.ledger.skipped.values()] == [f"{path.name}:{line}" for line in (2, 4, 5)]
    other = tmp_path / "scitail_1.0_train.txt"
    other.write_text(json.dumps(rows[0] | {"gold_label": "entails"}))
    assert [example.label for example in examples_in(FORMATS["scitail"], other)] == ["entailment"]


def test_the_articles_of_race(tmp_path):
    article = {
        "id": "middle1.txt", "article": "A man said.\n He spoke.", "questions": ["Who?", "The dog _ ."],
        "options": [["one", "two", "three", "four"], ["ran", "away", "said", "spoke"]], "answers": ["D", "A"],
    }  # fmt: skip
    folder = tmp_path / "train" / "middle"
    folder.mkdir(parents=True)
    (folder / "1.txt").write_text(json.dumps(article))
    (folder / "2.txt").write_text(json.dumps(article | {"answers": ["E", "B"], "options": [["a"] * 4, ["a"] * 3]}))
    (folder / "3.txt").write_text(json.dumps(article | {"answers": ["A"]}))
    train, _ = open_task_texts(FORMATS["race"], str(tmp_path), max_skipped=1.0)
    tokenized = TokenizedTexts(train, TOKENIZER, length=64)
    assert [one.target.argmax() for one in tokenized.examples] == [3, 0]
    assert tokenized.text_example(1).texts == (article["article"], "The dog _ .")
    reasons = {one.name: one.reason for one in train.ledger.skipped.values()}
    assert reasons == {"2.txt:0": "label_unknown", "2.txt:1": "choices_count", "3.txt": "article_unreadable"}


HEADER = ["InputStoryid", *(f"InputSentence{number}" for number in range(1, 5)), "RandomFifthSentenceQuiz1",
          "RandomFifthSentenceQuiz2", "AnswerRightEnding"]  # fmt: skip


def test_the_stories_of_the_cloze_test(tmp_path):
    path = tmp_path / "cloze_test_val__spring2016 - cloze_test_ALL_val.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(
            [HEADER, ["a", "One.", "Two, three.", 'He "ran".', "Four.", "The dog.", "A man.", "2"],
             ["b", "One.", "Two.", "Three.", "Four.", "The dog.", " ", "1"],
             ["c", "One.", "Two.", "Three.", "Four.", "The dog.", "A man.", "3"]]
        )  # fmt: skip
    source, held_out = open_task_texts(FORMATS["rocstories"], str(tmp_path), max_skipped=1.0)
    example = source.record(0)
    assert example.texts == ('One. Two, three. He "ran". Four.',)
    assert (example.answers, example.label, held_out) == (("The dog.", "A man."), "1", {})
    TokenizedTexts(source, TOKENIZER, length=64)
    assert [one.reason for one in source.ledger.skipped.values()] == ["text_empty", "label_unknown"]


FIRST = [1058, 198, 1174, 806, 127]


def test_the_released_split_of_the_stories():
    """scikit-learn's train_test_split holds out the first places of RandomState(seed).permutation(count)."""
    train, held_out = drawn_split(1871, 374, 3535999445)
    assert (len(train), len(held_out)) == (1497, 374)
    assert sorted([*train, *held_out]) == list(range(1871))
    assert held_out[:5].tolist() == FIRST


def rte(tmp_path, *rows, name="train.tsv"):
    path = tmp_path / name
    path.write_text("\n".join(["index\tsentence1\tsentence2\tlabel", *rows]), encoding="utf-8")
    return read_texts(FORMATS["rte"], [path], max_skipped=0.5)


def test_what_cannot_be_used_is_skipped_and_named_and_what_is_cut_is_counted(tmp_path):
    good = [f"{number}\t{TEXT}\t{OTHER}\tentailment" for number in range(5)]
    source = rte(tmp_path, *good, f"5\t{TEXT}\t \tentailment", f"6\t{TEXT}\t{OTHER}\tmaybe", "7\tone cell",
                 f"8\t{TEXT * 9}\t{OTHER}\tnot_entailment")  # fmt: skip
    tokenized = TokenizedTexts(source, TOKENIZER, length=40)
    assert len(tokenized) == 6
    assert {one.name: one.reason for one in source.ledger.skipped.values()} == {
        "train.tsv:7": "text_empty", "train.tsv:8": "label_unknown", "train.tsv:9": "row_columns"
    }  # fmt: skip
    assert source.ledger.left_out["text_cut"].names == ["train.tsv:10, its texts"]
    assert tokenized.longest <= 40
    assert tokenized.record_name(5) == "train.tsv:10"
    part = tokenized.part([5, 0])
    assert [one.key for one in part.examples] == ["train.tsv:10", "train.tsv:2"]
    assert part.fingerprint() != tokenized.fingerprint()
    with pytest.raises(TooManySkipped, match=r"label_unknown 3 \(bad.tsv:2"):
        TokenizedTexts(rte(tmp_path, *["0\ta\tb\tno"] * 3, *good[:2], name="bad.tsv"), TOKENIZER, length=40)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("index\tsentence1\tlabel\n", "no column sentence2; there are index, sentence1, label"),
        ("index\tsentence1\tsentence2\tlabel\n", "holds no example of the task rte"),
        ("", "holds no example"),
    ],
)
def test_files_of_another_kind_are_refused(tmp_path, content, message):
    (tmp_path / "train.tsv").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_texts(FORMATS["rte"], [tmp_path / "train.tsv"])


def test_what_is_not_there_is_said(tmp_path):
    (tmp_path / "readme.txt").write_text("nothing")
    with pytest.raises(FileNotFoundError, match=r"holds no train.tsv, as the task rte is distributed; there is readme"):
        open_task_texts(FORMATS["rte"], str(tmp_path), max_skipped=0.05)
    with pytest.raises(FileNotFoundError, match="no file or folder .*nowhere"):
        open_task_texts(FORMATS["rte"], str(tmp_path / "nowhere"), max_skipped=0.05)
    with pytest.raises(ValueError, match="There is no task 'wnli'; there are cola, sst2"):
        format_of("wnli")


def test_a_batch_is_what_the_sequences_are_and_depends_on_seed_and_place_alone(tmp_path):
    tokenized = TokenizedTexts(
        rte(tmp_path, *[f"{number}\t{TEXT[: 9 + number]}\t{OTHER}\tentailment" for number in range(6)]),
        TOKENIZER,
        length=40,
    )
    fields = SequenceFields(length=tokenized.longest)
    loader = Loader(tokenized, fields, batch_size=3, seed=4)
    batch, again = loader.batch(3), Loader(tokenized, fields, batch_size=3, seed=4).batch(3)
    special = SpecialIds.behind(TOKENIZER.vocab_size)
    for row, key in enumerate(batch.keys):
        (ids,) = next(one for one in tokenized.examples if one.key == key).sequences
        got, place = batch.fields["token_ids"][row, 0], batch.fields["extract"][row, 0]
        assert got[: len(ids)].tolist() == ids.tolist()
        assert not got[len(ids) :].any()
        assert got[place] == special.extract
        assert batch.fields["token_weights"][row, 0].sum() == len(ids)
    for name, array in batch.fields.items():
        assert array.tobytes() == again.fields[name].tobytes()
    seeds = [seed for number in range(4) for seed in loader.batch(number).fields["dropout_seeds"].ravel().tolist()]
    assert len(set(seeds)) == 12
    assert pickle.loads(pickle.dumps(replace(fields, vocabulary=TOKENIZER))) == fields
