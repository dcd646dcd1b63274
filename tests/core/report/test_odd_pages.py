"""Pages of small and odd data are whole, and names in any script stay within their place and in order."""

import html
import re

import numpy as np
import pytest

from diptych.core.report.charts.axes import LEFT, frame, linear, plot_area
from diptych.core.report.charts.markup import drawn_width, isolated, shorten
from diptych.core.report.run.matrix import confusion_figure
from tests.core.report.odd_pages import (
    CJK,
    LONG,
    ODD,
    RIGHT_TO_LEFT,
    classified,
    evaluation_pages,
    fairness_pages,
    names,
    run_pages,
    search_pages,
)
from tests.core.report.run.test_report import Page, external_references


@pytest.mark.parametrize("pages", [run_pages, evaluation_pages, search_pages, fairness_pages])
def test_every_page_is_whole_loads_nothing_and_shows_no_number_that_is_none(pages):
    written = pages()
    assert written
    for name, text in written.items():
        page = Page(text)
        assert not [one for one in external_references(page) if not one.startswith("data:image/png;")], name
        assert len(text) < 600_000, name
        said = " ".join(words for element, words in page.texts if element not in ("style", "script"))
        assert not re.search(r"\b(nan|NaN|None|inf|Infinity)\b|−0\.0+\b|0/0", said), name


def test_a_name_within_a_sentence_keeps_the_order_of_its_words():
    assert isolated("cats") == "cats"
    assert isolated("三毛猫") == "三毛猫"
    for name in (*RIGHT_TO_LEFT, "\u202eevil"):
        assert isolated(name) == f"\u2068{name}\u2069"
    (page,) = fairness_pages().values()
    assert "\u2068runs/תמונות\u2069, " in page
    assert "pictures of \u2068נשים\u2069 (3) than to those of 男性 (3)" in page


@pytest.mark.parametrize("limit", [1, 2, 5, 20])
@pytest.mark.parametrize("text", [*ODD, "", "三x毛y猫"])
def test_a_shortened_name_is_as_wide_as_it_may_be_and_no_wider(text, limit):
    short = shorten(text, limit)
    assert drawn_width(short) <= 6.3 * limit
    if short != text:
        assert short.endswith("…")
        assert drawn_width(short) > 6.3 * limit - 30, "two letters more would have had place"


@pytest.mark.parametrize("room", [92, 128])
@pytest.mark.parametrize("of", [CJK, RIGHT_TO_LEFT, (LONG, "x"), ("dog", "cat"), names(12)])
def test_names_beside_a_confusion_stay_within_it(of, room):
    figure = confusion_figure(classified(of, 40), names=room)
    rows = re.findall(r'<text x="([\d.]+)" y="[\d.]+" text-anchor="end"[^>]*>([^<]*)<', figure)
    assert len(rows) == len(of)
    for right, name in rows:
        assert drawn_width(html.unescape(name)) <= float(right)


def test_a_page_of_equal_groups_says_so_and_no_difference_has_a_sign():
    (page,) = fairness_pages().values()
    assert page.count("No group is ahead of another.") == 2
    assert ">0%<" in page
    assert ">−20.0%<" in page
    assert "+0.0" not in page


def test_a_tick_of_many_digits_stays_within_the_drawing():
    x, y = plot_area(300, 200, linear(np.array([0.0, 1.0])), linear(np.array([-4.1446, -4.1434])))
    labels = re.findall(
        r'text-anchor="end" class="tick"([^>]*)>([^<]*)<', frame(300, 200, x, y, title="", x_label="", y_label="")
    )
    assert any(drawn_width(label) > LEFT for _, label in labels)
    for fitted, label in labels:
        width = re.search(r'textLength="([\d.]+)"', fitted)
        assert (float(width[1]) if width else drawn_width(label)) <= LEFT - 7
