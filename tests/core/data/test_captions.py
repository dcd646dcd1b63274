"""Captions are cleaned or refused in bounded time."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.core.data.captions import clean_caption
from diptych.core.data.records import BadExample
from tests.core.data.hostile import cleaned_captions, refused_captions


@pytest.mark.parametrize("name", refused_captions())
def test_what_is_no_caption_is_refused_with_its_reason_and_at_once(name):
    caption, reason = refused_captions()[name]
    start = time.process_time()
    with pytest.raises(BadExample) as caught:
        clean_caption(caption)
    assert caught.value.reason == reason
    assert time.process_time() - start < 0.1


@pytest.mark.parametrize("name", cleaned_captions())
def test_captions_keep_their_words_and_lose_the_rest(name):
    caption, cleaned = cleaned_captions()[name]
    assert clean_caption(caption) == cleaned
    assert clean_caption(cleaned) == cleaned


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(), max_size=60))
def test_cleaning_any_text_gives_one_visible_line_or_none(text):
    try:
        cleaned = clean_caption(text)
    except BadExample:
        return
    assert cleaned.strip()
    assert len(cleaned.splitlines()) == 1
    assert "  " not in cleaned
    assert cleaned.encode("utf-8").decode("utf-8") == cleaned
    assert clean_caption(cleaned) == cleaned
