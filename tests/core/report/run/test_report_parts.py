"""Laws of the report's parts: escaping, numbers, axes, curves, galleries."""

import dataclasses
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.core.report.charts.axes import Scale, linear, logarithmic, path
from diptych.core.report.charts.lines import smooth
from diptych.core.report.charts.markup import Markup, caption_text, element, escape, shorten
from diptych.core.report.charts.numbers import compact, duration, percent, significant
from diptych.core.report.charts.thumbnails import Thumbnails
from diptych.core.report.run import ReportData
from diptych.core.report.run.before_after import before_and_after
from diptych.core.report.run.gallery import choose_queries, nearest_captions, nearest_images, sure_mistakes
from diptych.core.report.run.header import command, device
from diptych.core.report.run.training import evaluation_curves, loss_figure, quantity_name
from tests.core.evaluation.synthetic import WORDS, metrics, report_data, samples


@settings(deadline=None)
@given(st.text(st.characters(), max_size=40))
def test_any_text_is_escaped_and_can_be_written(text):
    written = escape(text)
    assert not set(written) & set("<>\"'\x00")
    written.encode("utf-8")
    assert element("p", text, title=text) == f'<p title="{written}">{written}</p>'
    assert escape(written) == written, "what is escaped is markup, and is not escaped again"


def test_attributes_of_elements():
    assert element("a", None, class_="x", data_tip="", hidden=True, open=False, id=None) == (
        '<a class="x" data-tip="" hidden></a>'
    )
    assert element("p", ["a", Markup("<b></b>"), ("c", 1)]) == "<p>a<b></b>c1</p>"
    assert caption_text("abcdef", limit=4) == '<bdi dir="auto">abc…</bdi>'
    assert shorten("abcd", 4) == "abcd"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (percent(0.1234), "12.3%"),
        (percent(0.000588), "0.059%"),
        (percent(0.0000452), "0.0045%"),
        (percent(0.0), "0%"),
        (percent(1.0), "100%"),
        (percent(0.9999), "100.0%"),
        (percent(float("nan")), "–"),
        (compact(1914), "1,914"),
        (compact(310_000), "310 k"),
        (compact(1.93e11, "FLOP"), "193 GFLOP"),
        (significant(-13.04), "−13"),
        (significant(0.00025), "0.00025"),
        (significant(2.5e-7), "2.5e−7"),
        (duration(588), "9 min 48 s"),
        (duration(59.6), "1 min 0 s"),
        (duration(7500), "2 h 5 min"),
        (duration(0.25), "0.25 s"),
    ],
)
def test_numbers_as_they_are_read(written, expected):
    assert written == expected


@settings(deadline=None)
@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(2, 8))
def test_linear_ticks_are_round_few_and_inside(low, width, count):
    scale = Scale("linear", low, low + width, 0, 100)
    ticks = scale.ticks(count)
    assert len(ticks) <= 2 * count + 1
    places = scale(ticks)
    assert ((places > -1) & (places < 101)).all()
    assert len(set(np.round(np.diff(ticks), 9 - int(np.log10(width))))) <= 2


@settings(deadline=None)
@given(st.floats(1e-9, 1e9), st.floats(1.2, 1e12), st.integers(2, 7))
def test_logarithmic_ticks_are_inside_and_increase(low, ratio, count):
    ticks = Scale("log", low, low * ratio).ticks(count)
    assert all(low * 0.999 <= tick <= low * ratio * 1.001 for tick in ticks)
    assert ticks == sorted(set(ticks))
    assert len(ticks) <= 3 * count + 4


def test_scales_map_their_ends_to_their_pixels():
    for kind, low, high in (("linear", -3, 7), ("log", 1e-3, 1e4), ("odds", 1e-6, 0.99)):
        np.testing.assert_allclose(Scale(kind, low, high, 50, 10)([low, high]), [50, 10])
    np.testing.assert_allclose(Scale("odds", 0.1, 0.9, 0, 1)(0.5), 0.5)
    assert linear([np.nan, 2.0], include=(0.0,)).low == 0.0
    assert logarithmic([np.nan, 0.0, -1.0]).low > 0


def test_lines_break_where_values_are_missing():
    assert path([(0, 0), (1, 1), (2, np.nan), (3, 3), (4, 4)]) == "M0 0L1 1M3 3L4 4"


@settings(deadline=None)
@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=40), st.integers(1, 20))
def test_the_moving_average_stays_between_the_extremes_and_keeps_constants(values, window):
    smoothed = smooth(np.array(values), window)
    assert smoothed[0] == values[0]
    assert (smoothed >= min(values) - 1e-9).all()
    assert (smoothed <= max(values) + 1e-9).all()
    np.testing.assert_allclose(smooth(np.full(9, 2.5), window), 2.5)


def test_the_moving_average_ignores_what_is_not_a_number():
    np.testing.assert_allclose(smooth(np.array([np.nan, 2.0, np.nan, 2.0]), 3), [np.nan, 2.0, 2.0, 2.0])


def test_evaluation_rows_become_curves_of_shares():
    examples, label, curves = evaluation_curves(metrics())
    assert label == "examples seen"
    np.testing.assert_array_equal(examples, [960, 1920, 2880, 3840])
    assert [curve.name for curve in curves] == ["recall@1, English"], "a loss of 3 is no share"
    np.testing.assert_allclose(curves[0].values, [0.075, 0.15, 0.225, 0.3])
    assert quantity_name("zero_shot_group") == "zero-shot group"
    assert quantity_name("recall@1/mean") == "recall@1, mean of languages"


def test_the_nearest_images_are_those_of_a_full_sort():
    embedded = samples()
    texts = choose_queries(embedded, in_main=5, in_others=4)
    for answer in nearest_images(embedded, texts, count=8):
        cosines = embedded.image_embeddings @ embedded.text_embeddings[answer.query]
        assert list(answer.nearest) == np.argsort(-cosines)[:8].tolist()
        right = embedded.text_labels[answer.query]
        assert answer.rank == 1 + np.sum(cosines > cosines[right])


def test_the_nearest_captions_come_from_the_asked_ones_only():
    embedded = samples()
    german = embedded.in_language("de")
    for answer in nearest_captions(embedded, [0, 5, 9], german, count=5):
        cosines = embedded.text_embeddings[german] @ embedded.image_embeddings[answer.query]
        assert list(answer.nearest) == german[np.argsort(-cosines)[:5]].tolist()


def test_before_and_after_have_the_same_captions_and_count_what_was_gained_and_lost():
    data = report_data()
    before, after = data.samples.as_before(data.before), data.samples
    texts, labels = after.in_language(), after.image_labels
    were, are = (
        labels[np.argmax(s.text_embeddings[texts] @ s.image_embeddings.T, axis=1)] == s.text_labels[texts]
        for s in (before, after)
    )
    _, _, content = before_and_after(data, Thumbnails(after.thumbnails))
    assert (are & ~were).any()
    assert f"Of {len(texts):,} captions {(are & ~were).sum()} find their image" in content
    assert f"and {(were & ~are).sum()} no longer do" in content
    assert content.count('class="side"') == 2 * 8
    assert content.count('class="strip"') == 2 * 8
    assert before_and_after(dataclasses.replace(data, before=None, changes={}), None) is None


def test_queries_are_of_the_main_language_and_of_other_scripts_and_do_not_depend_on_the_answers():
    chosen = choose_queries(samples(noise=0.1), in_main=6, in_others=4)
    languages = [samples().languages[text] for text in chosen]
    assert languages == ["en"] * 6 + ["ar", "hi", "ja", "he"]
    assert chosen == choose_queries(samples(noise=3.0), in_main=6, in_others=4)
    assert len({int(samples().text_labels[text]) for text in chosen}) == 10, "no concept twice"


def test_sure_mistakes_are_wrong_and_the_surest_come_first():
    embedded = samples()
    mistakes = sure_mistakes(embedded, count=5)
    assert mistakes
    cosines = [float(embedded.image_embeddings[a.nearest[0]] @ embedded.text_embeddings[a.query]) for a in mistakes]
    assert cosines == sorted(cosines, reverse=True)
    for answer in mistakes:
        assert answer.rank > 1
        assert embedded.image_labels[answer.nearest[0]] != embedded.text_labels[answer.query]
    perfect = dataclasses.replace(embedded, text_embeddings=embedded.image_embeddings[embedded.text_labels])
    assert sure_mistakes(perfect, count=5) == []


@pytest.mark.parametrize(
    ("card", "line"),
    [
        ({"command": "/opt/venv/bin/python3.11 -m recipes.siglip --lr 1"}, "python3.11 -m recipes.siglip --lr 1"),
        ({"command": "python -m recipes.siglip", "backend": "jax"}, "KERAS_BACKEND=jax python -m recipes.siglip"),
        ({"command": "KERAS_BACKEND=jax ./run", "backend": "jax"}, "KERAS_BACKEND=jax ./run"),
    ],
)
def test_the_command_can_be_pasted_elsewhere(card, line):
    assert command(ReportData(card=card)) == f'<pre class="command"><code>{line}</code></pre>'


def test_the_device_is_the_accelerator_or_else_the_processor():
    host = {"processor": "AMD EPYC", "usable_cpus": 2}
    assert device({"device": "NVIDIA H200", "machine": host}) == "NVIDIA H200"
    assert device({"device": None, "machine": host}) == "AMD EPYC, 2 CPUs"
    assert device({"machine": {"processor": None}}) is None


def test_the_main_language_falls_back_to_the_most_frequent():
    embedded = samples(4)
    assert set(embedded.in_language().tolist()) == {0, 1, 2, 3}
    other = dataclasses.replace(embedded, main_language="fr", languages=("de",) * 5 + ("ja",) * 19)
    assert len(other.in_language()) == 19
    assert set(WORDS) == set(embedded.languages)


def test_the_loss_is_marked_where_the_opening_ends():
    rows = [{"step": step, "examples": 10 * step, "loss": 5.0 / step} for step in range(1, 101)]

    def places(opening: int | None, log: bool = False) -> list[float]:
        figure = str(loss_figure(rows, width=600, height=200, log=log, opening=opening))
        assert figure.count("opening ends") == figure.count('class="place"')
        return [float(x) for x in re.findall(r'<line x1="([\d.]+)"[^>]*class="place"', figure)]

    assert places(None) == places(0) == places(5_000) == []
    (early,), (late,) = places(250), places(750)
    assert (early - 46) / (late - 46) == pytest.approx(1 / 3, abs=0.01)
    assert len(places(250, log=True)) == 1
