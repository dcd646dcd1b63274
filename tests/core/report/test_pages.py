"""Single pages of pictures: thumbnails, bars, and markup that nobody's caption can break out of."""

import numpy as np
import pytest

from diptych.core.report.charts.sheet import bar, sheet, square, write_page
from diptych.core.report.search_page import Answered, Hit, search_page
from diptych.core.report.zero_shot_page import Guess, Judged, zero_shot_page


@pytest.mark.parametrize(("height", "width"), [(10, 40), (400, 100), (128, 128), (1, 3000)])
def test_a_picture_is_fitted_into_a_white_square(height, width):
    fitted = square(np.zeros((height, width, 3), np.uint8))
    assert fitted.shape == (128, 128, 3)
    dark = fitted.sum(axis=2) == 0
    rows, columns = np.flatnonzero(dark.any(axis=1)), np.flatnonzero(dark.any(axis=0))
    longer = max(height, width)
    assert (len(rows), len(columns)) == (max(1, round(128 * height / longer)), max(1, round(128 * width / longer)))
    assert (fitted[~dark] == 255).all()


@pytest.mark.parametrize(("share", "width"), [(0.25, "25.00%"), (-1.0, "0.00%"), (7.0, "100.00%")])
def test_a_bar_stays_within_its_width(share, width):
    assert f"width:{width}" in bar(share)


def test_a_page_is_replaced_in_one_step(tmp_path):
    path = write_page(tmp_path / "new" / "page.html", sheet("A & B", ["first"], []))
    assert "A &amp; B" in path.read_text(encoding="utf-8")
    write_page(path, "second")
    assert [file.name for file in path.parent.iterdir()] == ["page.html"]
    assert path.read_text() == "second"


def test_found_things_are_shown_in_order_with_their_numbers():
    picture = np.full((128, 128, 3), 200, np.uint8)
    hits = [
        Hit(cosine=0.5, pair_probability=0.9, caption="<i>first</i>", language="en", where="a", picture=picture),
        Hit(cosine=-0.25, pair_probability=None, caption="", language="und", where="b/<second>", picture=None),
    ]
    page = search_page("Found", "in a test", [Answered(text="‮query", hits=hits), Answered(text="empty", hits=[])])
    assert page.index("&lt;i&gt;first") < page.index("b/&lt;second&gt;")
    assert ">90.0%<" in page
    assert ">−0.250<" in page
    assert page.count("<img") == 1
    assert page.count('class="lost"') == 1
    assert "Nothing was found." in page
    assert "width:90.00%" in page
    assert "width:0.00%" in page


def test_found_captions_have_their_language_and_no_gap_for_a_picture():
    hit = Hit(cosine=0.5, pair_probability=0.9, caption="Hund", language="de", where="1f436")
    page = search_page("Found", "in a test", [Answered(text="a picture", hits=[hit])], captions=True)
    assert "German" in page
    assert 'class="lost"' not in page


def test_verdicts_need_a_truth():
    picture = np.zeros((128, 128, 3), np.uint8)
    guesses = [Guess(label="cat", softmax=0.75, sigmoid=0.5), Guess(label="dog", softmax=0.25, sigmoid=0.125)]
    right, wrong, unknown = (
        zero_shot_page("Classes", "", [Judged(name="x", picture=picture, guesses=guesses, truth=truth)])
        for truth in ("cat", "dog", None)
    )
    assert 'class="verdict right"' in right
    assert 'class="verdict wrong"' in wrong
    assert 'class="verdict' not in unknown
    assert unknown.index("cat") < unknown.index("dog")
    assert "width:75.00%" in unknown
    assert "sigmoid" in unknown


def test_a_model_without_a_bias_shows_no_sigmoid():
    picture = np.zeros((128, 128, 3), np.uint8)
    page = zero_shot_page(
        "Classes", "", [Judged(name="x", picture=picture, guesses=[Guess(label="cat", softmax=1.0, sigmoid=None)])]
    )
    assert "sigmoid" not in page
    assert "bar-of text" not in page.partition("<body")[2]
