"""Tokens and windows: every token once and in order, cut once and for all, whatever breaks off in between."""

import pickle

import numpy as np
import pytest

from diptych.core.data.loading.loader import Loader
from diptych.core.data.texts import token_store
from diptych.core.data.texts.documents import Document
from diptych.core.data.texts.token_store import TokenStore, store_tokens
from diptych.core.data.texts.windows import WindowExamples, Windows
from diptych.core.data.tokenizers.bpe_training import train_gpt_tokenizer
from diptych.core.files import array_file

DOCUMENTS = [
    Document(f"document {number}", f"The {number}th text of many.\n\nIt goes on for {number} lines.\n" * (number + 1))
    for number in range(7)
]


@pytest.fixture(scope="module")
def words():
    return train_gpt_tokenizer((text for _, text in DOCUMENTS), merges=30, way="transformers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, words):
    folder = tmp_path_factory.mktemp("vocabulary")
    words.save(folder)
    return folder


def whole(words) -> list[int]:
    newline = words.token_id("\n</w>")
    return [token for _, text in DOCUMENTS for token in [*words.ids(text), newline]]


def stored(words, folder) -> TokenStore:
    return store_tokens(DOCUMENTS, words, folder, parts=lambda key: "all", say=lambda line: None)["all"]


@pytest.mark.parametrize(("group", "piece"), [(1 << 24, 1 << 20), (200, 40)])
def test_a_store_has_all_tokens_of_all_documents_in_order(words, tmp_path, monkeypatch, group, piece):
    monkeypatch.setattr(token_store, "GROUP_CHARACTERS", group)
    monkeypatch.setattr(token_store, "PIECE_CHARACTERS", piece)
    store = pickle.loads(pickle.dumps(stored(words, tmp_path)))
    assert store.ids(0, len(store)).tolist() == whole(words)
    assert (len(store.files) > 3) == (group == 200)
    assert [key for key, _ in store.documents()] == [document.key for document in DOCUMENTS]
    assert np.concatenate([ids for _, ids in store.documents()]).tolist() == whole(words)
    assert store.ids(5, 90).tolist() == whole(words)[5:90]
    assert store.counts(words.vocab_size).tolist() == np.bincount(whole(words), minlength=words.vocab_size).tolist()


def test_documents_are_parted_by_their_keys(words, tmp_path):
    last = {document.key for document in DOCUMENTS[5:]}
    stores = store_tokens(DOCUMENTS, words, tmp_path, parts=lambda key: str(key in last), say=lambda line: None)
    assert {name: len(list(store.documents())) for name, store in stores.items()} == {"False": 5, "True": 2}


def test_what_was_cut_before_is_not_cut_again_unless_its_file_is_damaged(words, tmp_path, monkeypatch):
    monkeypatch.setattr(token_store, "GROUP_CHARACTERS", 200)
    cut = []

    class Stopping(type(words)):
        def ids(self, text):
            cut.append(text)
            if len(cut) == stop_at:
                raise KeyboardInterrupt
            return super().ids(text)

    counting = Stopping(words.vocabulary, words.merges, way=words.way)
    stop_at = 4
    with pytest.raises(KeyboardInterrupt):
        stored(counting, tmp_path)
    stop_at, before = None, len(cut)
    store = stored(counting, tmp_path)
    assert len(cut) - before < len(DOCUMENTS)  # the groups that were finished stayed
    assert store.ids(0, len(store)).tolist() == whole(words)
    before = len(cut)
    stored(counting, tmp_path)
    assert len(cut) == before
    damaged = len(list(TokenStore(store.files[1:2]).documents()))
    store.files[1].write_bytes(store.files[1].read_bytes()[:-40])
    array_file._mapped.cache_clear()  # as in another process, which has not mapped it
    again = stored(counting, tmp_path)
    assert len(cut) == before + damaged
    assert again.ids(0, len(again)).tolist() == whole(words)


def test_windows_follow_each_other_and_a_loader_shows_each_once_an_epoch(words, folder, tmp_path):
    windows = Windows(stored(words, tmp_path), 9)
    tokens = whole(words)
    assert len(windows) == len(tokens) // 9
    assert windows.rest == len(tokens) % 9
    examples = WindowExamples(context_length=9, tokenizer_path=str(folder))
    loader = Loader(windows, examples, batch_size=4, seed=3)
    batches = [loader.batch(number) for number in range(len(windows) // 4)]
    seen = [tuple(row) for batch in batches for row in batch.fields["token_ids"].tolist()]
    assert len(seen) == len({*seen})
    assert {*seen} <= {tuple(tokens[at : at + 9]) for at in range(0, len(tokens) - 8, 9)}
    assert batches[0].fields["token_weights"].min() == 1
    seeds = np.concatenate([batch.fields["dropout_seeds"] for batch in batches])
    assert len({*seeds.tolist()}) == len(seeds)
    again = Loader(windows, examples, batch_size=4, seed=3).batch(1)
    assert again.fields["dropout_seeds"].tolist() == batches[1].fields["dropout_seeds"].tolist()


def test_the_fingerprint_is_that_of_tokens_length_and_dropout(words, folder, tmp_path):
    store = stored(words, tmp_path / "one")
    prints = {
        Windows(store, 9).fingerprint(),
        Windows(store, 8).fingerprint(),
        WindowExamples(context_length=9, tokenizer_path=str(folder)).fingerprint(),
        WindowExamples(context_length=9, tokenizer_path=str(folder), dropout=False).fingerprint(),
    }
    assert len(prints) == 4
    assert Windows(stored(words, tmp_path / "two"), 9).fingerprint() in prints  # wherever the cache is


def test_less_text_than_a_window_is_refused(words, tmp_path):
    with pytest.raises(ValueError, match=r"which is less than a window of 5,000: give more text"):
        Windows(stored(words, tmp_path), 5_000)
