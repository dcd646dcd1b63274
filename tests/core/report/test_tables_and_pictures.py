"""Laws of the text tables and of the stand-alone figures."""

import xml.etree.ElementTree as xml

import pytest

from diptych.core.report import pictures
from diptych.core.report.run import ReportData
from diptych.core.report.run.__main__ import main as make_report_again
from diptych.core.report.tables import results_text, text_table
from tests.core.evaluation.synthetic import report_data

SVG = "{http://www.w3.org/2000/svg}"


def test_the_results_fit_a_terminal_and_hold_every_language():
    data = report_data()
    text = results_text(data.retrieval, data.zero_shot)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert text.isascii()
    results = data.retrieval["New drawings"]
    for code, name in (("en", "English (en)"), ("ar", "Arabic (ar)"), ("mean", "mean of 6")):
        line = next(line for line in lines if line.startswith(name))
        assert f"{100 * results[code]['recall@1']:.1f}%" in line
        assert line.endswith(f"{results[code]['queries']:,}")
    assert lines[-1].startswith(f"zero-shot, colours: {100 * data.zero_shot['colours']['accuracy']:.1f}% of 40 images")
    best = max((code for code in results if code != "mean"), key=lambda code: results[code]["recall@1"])
    assert f"({best})" in lines[4], "the mean first, then the best language"
    assert next(line for line in lines if line.startswith("chance")).split() == ["chance", "2.5%", "12.5%"]


def test_a_ragged_table_is_refused():
    assert text_table(["a", "bb"], [["x", "1"]]) == "a  bb\n-  --\nx   1"
    with pytest.raises(ValueError, match="2 cells"):
        text_table(["a", "b"], [["x"]])


def test_the_figures_are_complete_drawings(tmp_path, capsys):
    report_data().save(tmp_path / "report.npz")
    pictures.main([str(tmp_path / "report.npz"), str(tmp_path / "docs")])
    written = sorted((tmp_path / "docs").iterdir())
    assert [file.name for file in written] == ["gallery.svg", "learning_curves.svg"]
    assert capsys.readouterr().out.split() == [str(written[1]), str(written[0])]
    for file in written:
        root = xml.parse(file).getroot()
        assert root.tag == f"{SVG}svg"
        assert all(image.get("href").startswith("data:image/webp;base64,") for image in root.iter(f"{SVG}image"))
        assert "http" not in file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
    gallery = xml.parse(written[0]).getroot()
    assert len(list(gallery.iter(f"{SVG}image"))) == 8 * 9, "four English captions and one of each other language"
    right = [rect for rect in gallery.iter(f"{SVG}rect") if rect.get("class") == "tile right"]
    assert 1 <= len(right) <= 9


def test_no_curve_is_an_error():
    with pytest.raises(ValueError, match="no curve to draw"):
        pictures.learning_curves(ReportData())


def test_a_report_can_be_made_again(tmp_path, capsys):
    report_data().save(tmp_path / "report.npz")
    make_report_again([str(tmp_path / "report.npz"), str(tmp_path / "again.html")])
    assert capsys.readouterr().out.strip() == str(tmp_path / "again.html")
    assert (tmp_path / "again.html").read_text(encoding="utf-8").startswith("<!doctype html>")
