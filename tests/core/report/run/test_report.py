"""Laws of the report: one well-formed offline page, nothing of the data escapes into it, every number is the data's."""

import base64
import dataclasses
import hashlib
import html.parser
import re

import numpy as np
import pytest

from diptych.core.report.run import ReportData, Samples, write_report
from diptych.core.report.run.page import render
from tests.core.evaluation.synthetic import CLASSES, HOSTILE, WORDS, report_data, samples

VOID = {"meta", "img", "input", "br"}
LOADING = {"src", "href", "action", "data", "poster", "srcset", "xlink:href", "formaction", "background"}


class Page(html.parser.HTMLParser):
    """Reads a page strictly: every opened element is closed in order."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict]] = []
        self.texts: list[tuple[str, str]] = []
        self.numbers: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        names = [name for name, _ in attributes]
        assert len(names) == len(set(names)), f"attribute twice on {tag}: {names}"
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "data":
            self.numbers.append((dict(attributes)["value"], ""))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open[-1] == tag, f"</{tag}> closes <{self.open[-1]}>"
        self.open.pop()

    def handle_data(self, text):
        self.texts.append((self.open[-1] if self.open else "", text))
        if "data" in self.open:
            value, before = self.numbers[-1]
            self.numbers[-1] = (value, before + text)

    def values(self, attribute):
        return [attributes[attribute] for _, attributes in self.elements if attribute in attributes]


@pytest.fixture(scope="module")
def text():
    return render(report_data())


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def external_references(page):
    """Addresses that a browser would load from elsewhere, in attributes and style sheets."""
    found = [
        value
        for _, attributes in page.elements
        for name, value in attributes.items()
        if name in LOADING and not (value or "").startswith(("data:image/webp;base64,", "#"))
    ]
    sheets = [text for tag, text in page.texts if tag == "style"] + page.values("style")
    return found + [match for sheet in sheets for match in re.findall(r"url\(|@import", sheet)]


def test_the_page_loads_nothing(page):
    assert external_references(page) == []
    policy = next(a["content"] for tag, a in page.elements if tag == "meta" and "http-equiv" in a)
    assert policy.startswith("default-src 'none'")


@pytest.mark.parametrize(
    "smuggled",
    [
        '<img src="https://example.org/a.png">',
        '<a href="//example.org">x</a>',
        "<style>@import 'x.css'</style>",
        '<p style="background:url(https://example.org)"></p>',
    ],
)
def test_the_check_for_external_addresses_finds_them(text, smuggled):
    assert external_references(Page(text.replace("</body>", smuggled + "</body>")))


@pytest.mark.parametrize("broken", ["</div>", "<div>", "<p><b></p></b>", '<p id="a" id="b"></p>'])
def test_the_check_for_balanced_elements_finds_broken_ones(text, broken):
    with pytest.raises(AssertionError):
        Page(text.replace("</body>", broken + "</body>"))


def test_only_the_pages_own_script_may_run(text, page):
    scripts = [body for tag, body in page.texts if tag == "script"]
    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in html.unescape(text)
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]


def test_hostile_captions_and_names_stay_text(text, page):
    assert sum(tag == "script" for tag, _ in page.elements) == 1
    assert not [1 for tag, _ in page.elements if tag in ("i", "b")], "names of classes and titles are not markup"
    shown = " ".join(body for _, body in page.texts)
    assert CLASSES[2] in shown
    assert "Squares <i>in</i> six languages" in shown
    text.encode("utf-8")
    assert "\x00" not in text


def test_the_hostile_caption_is_really_shown():
    # Every image is called by the hostile caption, so that no choice of queries can avoid it.
    embedded = samples(12)
    shown = Page(
        render(ReportData(samples=dataclasses.replace(embedded, captions=(HOSTILE,) * len(embedded.captions))))
    )
    assert sum(tag == "script" for tag, _ in shown.elements) == 1
    quoted = [body for tag, body in shown.texts if tag == "bdi"]
    assert len(quoted) > 20
    assert all(body.startswith("</title><script>") for body in quoted)


def test_captions_of_any_script_set_their_own_direction(page):
    isolated = [attributes for tag, attributes in page.elements if tag == "bdi"]
    assert len(isolated) > 20
    assert all(attributes.get("dir") == "auto" for attributes in isolated)
    shown = " ".join(body for tag, body in page.texts if tag == "bdi")
    for language in ("ar", "he", "ja", "hi"):
        assert WORDS[language] in shown, "the gallery asks in other scripts too"


def test_the_page_is_small_and_needs_no_script(text, page):
    assert len(text.encode()) < 2_000_000
    without = Page(re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL))
    assert [t for t, _ in without.elements] == [t for t, _ in page.elements if t != "script"]


def test_every_section_of_the_menu_exists(page):
    links = [a["href"][1:] for tag, a in page.elements if tag == "a"]
    assert links == ["before-and-after", "finds", "languages", "training", "scores", "classes", "data", "run"]
    assert set(links) <= set(page.values("id"))
    assert len(page.values("id")) == len(set(page.values("id")))
    for wanted in page.values("for"):
        assert wanted in page.values("id")


def test_every_headline_number_is_the_datas(page):
    data = report_data()
    results = data.retrieval["New drawings"]
    expected = {
        results["en"]["recall@1"],
        results["en"]["recall@5"],
        results["en"]["image_to_text"]["recall@1"],
        results["mean"]["recall@1"],
        data.zero_shot["colours"]["accuracy"],
    }
    headline = [float(value) for value, shown in page.numbers if shown.endswith("%")]
    assert expected <= set(headline)
    card = {data.card["parameters"], data.card["flops_per_step"], data.card["wall_seconds"], data.card["utilisation"]}
    assert card <= {float(value) for value, _ in page.numbers}
    assert {3.0, 5.0, 8.0, 3848.0, 12.0} <= {float(value) for value, _ in page.numbers}


def test_every_number_reads_as_its_value(page):
    assert len(page.numbers) > 40
    for value, shown in page.numbers:
        assert read(shown) == pytest.approx(float(value), rel=0.06, abs=1e-12), (value, shown)


def test_the_reading_of_numbers_would_notice_a_wrong_one():
    assert read("12.3%") == pytest.approx(0.123)
    assert read("9 min 48 s") == 588
    assert read("2.5 GFLOP") == 2.5e9
    assert read("−7") == -7
    assert read("1,234") == 1234


def read(shown):
    """A number of the page as a float."""
    plain = shown.replace("−", "-").replace(",", "")
    time = re.fullmatch(r"(?:(\d+) h )?(?:(\d+) min)?(?: ?([\d.]+) s)?", plain)
    if time and any(time.groups()):
        hours, minutes, seconds = (float(part or 0) for part in time.groups())
        return 3600 * hours + 60 * minutes + seconds
    match = re.fullmatch(r"(-?[\d.]+(?:e-?\d+)?)(%| ?([kMGTPE]?)[A-Za-z/ ]*)", plain)
    assert match, f"unreadable number {shown!r}"
    size = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}[match[3] or ""]
    return float(match[1]) * (0.01 if match[2] == "%" else size)


def test_every_language_stands_with_its_recalls(text):
    for language, result in report_data().retrieval["New drawings"].items():
        if language != "mean":
            sentence = rf"recall@1 {100 * result['recall@1']:.1f}%".replace("100.0%", "100%").replace(" 0.0%", " 0%")
            assert sentence in text, (language, sentence)
    for name in ("English", "German", "Arabic", "Hebrew", "Japanese", "Hindi"):
        assert f"<title>{name}, recall@1" in text


def test_the_whole_card_is_listed(page):
    cells = [body for tag, body in page.texts if tag in ("th", "td")]
    for name, value in [
        ("config.image.width", "96"),
        ("config.betas", "0.9, 0.95"),
        ("config.stages.0.examples", "3840"),
        ("git.dirty", "True"),
        ("command", "python -m recipes.siglip --note '<script>'"),
    ]:
        assert cells[cells.index(name) + 1] == value


@pytest.mark.parametrize(
    "data",
    [
        ReportData(),
        ReportData(metrics=[{"step": 1}]),
        ReportData(metrics=[{"step": 1, "loss": float("nan")}, {"step": 2, "loss": None}, {"step": 3, "loss": "x"}]),
        ReportData(metrics=[{"step": 1, "loss": 0.0}, {"step": 2, "loss": 0.0}]),
        ReportData(card={"backend": None, "parameters": True}),
        ReportData(samples=samples(2)),
        ReportData(samples=samples(1, noise=0.0)),
        ReportData(skipped={"image_truncated": 1}),
        ReportData(retrieval={"empty": {}}),
        ReportData(retrieval={"one": {"und": {"recall@1": 0.0, "queries": 3, "gallery": 3}}}),
    ],
)
def test_a_report_of_little_is_still_a_page(data):
    assert external_references(Page(render(data))) == []


def test_embeddings_that_collapsed_still_give_a_page():
    embedded = samples(8)
    flat = dataclasses.replace(
        embedded,
        image_embeddings=np.ones_like(embedded.image_embeddings),
        text_embeddings=np.ones_like(embedded.text_embeddings),
    )
    Page(render(ReportData(samples=flat)))


def test_the_same_data_gives_the_same_page(text):
    assert render(report_data()) == text


def test_writing_replaces_the_page_and_leaves_nothing_else(tmp_path, text):
    path = tmp_path / "report.html"
    path.write_text("old")
    assert write_report(path, report_data()) == path
    assert path.read_text(encoding="utf-8") == text
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_stored_data_give_the_same_page(tmp_path, text):
    report_data().save(tmp_path / "report.npz")
    assert render(ReportData.load(tmp_path / "report.npz")) == text
    np.savez(tmp_path / "other.npz", weights=np.zeros(3))
    with pytest.raises(ValueError, match="not the data of a report"):
        ReportData.load(tmp_path / "other.npz")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"captions": ("a",)}, "captions must have 240 entries, one for each text, got 1"),
        ({"image_labels": np.arange(3)}, "image_labels must have 40 entries, one for each image, got 3"),
        ({"thumbnails": np.zeros((40, 8, 8, 4), np.uint8)}, "thumbnails must be uint8"),
    ],
)
def test_samples_that_do_not_fit_together_are_refused(change, message):
    embedded = samples()
    fields = {field.name: getattr(embedded, field.name) for field in dataclasses.fields(Samples)}
    with pytest.raises(ValueError, match=re.escape(message)):
        Samples(**{**fields, **change})
