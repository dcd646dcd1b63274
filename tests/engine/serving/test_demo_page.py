"""The demo's page in a browser: what a person sees and does there, with the keyboard too, and its requests."""

import json
from pathlib import Path

import pytest

from diptych.engine.serving import answers as answers_module
from tests.core.data.hostile import refused_pictures
from tests.engine.serving.demo_site import Site, demo_answers, png_file, served, two_colours
from tests.marks import ABOVE_THE_BACKENDS
from tests.recipes.chromium import PROGRAM, Chromium

pytestmark = [
    ABOVE_THE_BACKENDS,
    pytest.mark.skipif(PROGRAM is None, reason="there is no chromium here: apt install chromium"),
]

READY = "document.querySelectorAll('.bar').length && document.querySelectorAll('.hits li').length"
LABELS = "/?label=red&label=blue&label=green"
# Softmax and sigmoid of each bar, as they are shown.
NUMBERS = (
    "[...document.querySelectorAll('.bar')].map("
    "(row) => [...row.querySelectorAll('data')].map((number) => number.textContent))"
)
AT_HEAT = """
(async () => {
  const heat = document.getElementById("heat");
  await heat.decode();
  const size = {width: heat.naturalWidth, height: heat.naturalHeight};
  const canvas = Object.assign(document.createElement("canvas"), size);
  const context = canvas.getContext("2d", {willReadFrequently: true});
  context.drawImage(heat, 0, 0);
  const at = (x, y) => [...context.getImageData(x * canvas.width, y * canvas.height, 1, 1).data];
  return [at(0.25, 0.25), at(0.75, 0.75)];
})()
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with served(demo_answers(tmp_path_factory.mktemp("demo"))) as site:
        yield site


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


def opened(browser: Chromium, site: Site, address: str = "/") -> None:
    browser.evaluate("0")  # what the page before still had to say
    browser.messages.clear()
    browser.requested.clear()
    browser.open(site.origin + address)
    browser.wait_for(READY)


def text(browser: Chromium, selector: str) -> str:
    return browser.evaluate(f"document.querySelector({selector!r}).textContent")


def names(browser: Chromium) -> list[str]:
    """The labels with a bar, from top to bottom."""
    return browser.evaluate("[...document.querySelectorAll('.bar .name')].map((name) => name.textContent)")


def uploaded(browser: Chromium, folder: Path, data: bytes) -> None:
    """A file chosen as in the dialog."""
    (folder / "picture").write_bytes(data)
    browser.choose_file("#file", folder / "picture")


def percent(share: float) -> str:
    """How the page shows a probability."""
    return "<0.1%" if share < 0.0005 else ">99.9%" if 0.9995 < share < 1 else f"{100 * share:.1f}%"


def complaints(browser: Chromium, site: Site) -> list[str]:
    """What the browser complained about, and addresses elsewhere that were asked for."""
    assert len(browser.requested) > 5
    own = (site.origin, f"blob:{site.origin}", "data:")
    return browser.messages + [url for url in browser.requested if not url.startswith(own)]


def test_an_uploaded_picture_gets_probabilities_and_heat_maps(browser, site, tmp_path):
    opened(browser, site, LABELS)
    pixels = two_colours()
    _, answer = site.ask("/api/probabilities", {"picture": site.picture(pixels), "labels": ["red", "blue", "green"]})
    exact = [[percent(each["softmax"]), percent(each["sigmoid"])] for each in answer["labels"]]
    assert browser.evaluate(NUMBERS) != exact  # of the example
    uploaded(browser, tmp_path, png_file(pixels))
    browser.wait_for(f"JSON.stringify({NUMBERS}) === {json.dumps(exact, separators=(',', ':'))!r}")
    assert names(browser) == [each["label"] for each in answer["labels"]]
    assert names(browser)[0] == "red"
    width = browser.evaluate("parseFloat(document.querySelector('.bar .track i').style.width)")
    assert width == pytest.approx(100 * answer["labels"][0]["softmax"], abs=0.01)

    browser.click(".bar .look")
    browser.wait_for("!document.getElementById('heat').hidden")
    at_red, at_blue = browser.evaluate(AT_HEAT)
    assert at_red[3] > 100
    assert at_red[0] > at_red[2] + 50
    assert at_blue[3] < at_red[3] / 2
    assert "“red”" in text(browser, "#legend")
    assert browser.evaluate("document.querySelector('.bar .look').getAttribute('aria-pressed')") == "true"
    place = "JSON.stringify(document.getElementById({!r}).getBoundingClientRect())"
    assert browser.evaluate(place.format("heat")) == browser.evaluate(place.format("picture"))

    blue = 1 + names(browser).index("blue")
    browser.click(f".bar:nth-child({blue}) .look")
    assert "“blue”" in text(browser, "#legend")
    at_red, at_blue = browser.evaluate(AT_HEAT)
    assert at_blue[0] > at_blue[2] + 50
    assert at_red[2] > at_red[0]
    browser.click(f".bar:nth-child({blue}) .look")
    assert browser.evaluate("document.getElementById('heat').hidden")
    assert complaints(browser, site) == []


def test_the_address_says_what_to_begin_with(browser, site):
    opened(browser, site, "/?example=2&language=de&view=label&look=Rakete&query=blue")
    browser.wait_for("!document.getElementById('heat').hidden")
    assert browser.evaluate("document.querySelectorAll('.examples button')[2].getAttribute('aria-pressed')") == "true"
    assert {"Hundegesicht", "Rakete"} < set(names(browser))
    assert "“Rakete”" in text(browser, "#legend")
    assert " blue " in text(browser, ".hits .caption")
    assert complaints(browser, site) == []


def test_examples_and_languages_are_a_click_away(browser, site):
    opened(browser, site)
    before = browser.evaluate("document.getElementById('picture').src")
    browser.click(".examples li:nth-child(7) button")
    browser.wait_for(f"document.getElementById('picture').src !== {before!r}")
    assert browser.evaluate("document.querySelectorAll('.examples [aria-pressed=true]').length") == 1
    browser.evaluate("(() => { language.value = 'ar'; language.dispatchEvent(new Event('change')); })()")
    browser.wait_for("[...document.querySelectorAll('.bar bdi')].some((name) => name.textContent === 'بيتزا')")
    assert browser.evaluate("getComputedStyle(document.querySelector('.bar bdi')).direction") == "rtl"
    assert complaints(browser, site) == []


def test_labels_are_edited_with_the_keyboard(browser, site):
    opened(browser, site, LABELS)
    browser.type(".chip.new input", "yellow", enter=True)
    browser.wait_for("document.querySelectorAll('.bar').length === 4")
    assert "yellow" in names(browser)
    browser.call("Input.insertText", text="<img src=x onerror=alert(1)>")  # the focus has stayed where it was
    browser.press("Enter", "\r")
    browser.wait_for("document.querySelectorAll('.bar').length === 5")
    assert "<img src=x onerror=alert(1)>" in names(browser)
    browser.type(".chip.new input", "red", enter=True)  # there already
    browser.evaluate("document.querySelector('.chip input').select()")
    browser.call("Input.insertText", text="crimson red")
    browser.press("Tab")
    browser.wait_for("[...document.querySelectorAll('.bar bdi')].some((name) => name.textContent === 'crimson red')")
    assert browser.evaluate("document.activeElement.getAttribute('aria-label')") == "Remove crimson red"
    browser.press("Enter", "\r")
    browser.wait_for("document.querySelectorAll('.bar').length === 4")
    assert set(names(browser)) == {"blue", "green", "yellow", "<img src=x onerror=alert(1)>"}
    assert browser.evaluate("document.activeElement.getAttribute('aria-label')") == "Remove blue"
    assert complaints(browser, site) == []


def test_typing_searches_and_a_find_becomes_the_picture(browser, site):
    opened(browser, site)
    keys = "for (query.value of ['bl', 'blu', 'blue']) query.dispatchEvent(new Event('input'));"
    browser.evaluate(f"(() => {{ const query = document.getElementById('query'); {keys} }})()")
    browser.wait_for("document.querySelector('.hits .caption').textContent.includes(' blue ')")
    assert "“blue”" in text(browser, "#found")
    assert browser.requested.count(f"{site.origin}/api/search") == 2  # at the beginning, and after the last key
    browser.wait_for("document.querySelector('.hits img').naturalWidth === 160")
    before = browser.evaluate("document.getElementById('picture').src")
    browser.click(".hits button")
    browser.wait_for(f"document.getElementById('picture').src !== {before!r}")
    browser.wait_for("document.getElementById('picture').naturalWidth === 32")
    browser.click(".queries button")
    browser.wait_for("document.querySelector('.hits .caption').textContent.includes(' red ')")
    browser.click("#similar")
    browser.wait_for("document.querySelector('.hits .caption').textContent.includes(' blue ')")
    assert "cosine 1.00" in text(browser, ".hits data")
    assert complaints(browser, site) == []


def test_a_bad_file_is_told_and_the_page_goes_on(browser, site, tmp_path):
    opened(browser, site, LABELS)
    before = browser.evaluate("document.getElementById('picture').src")
    for data, words in (
        (refused_pictures()["SVG that reads a file"][0], "JPEG, PNG, WebP or GIF"),
        (refused_pictures()["half a JPEG"][0], "cut off"),
        (bytes(10_000_001), "10 MB"),
    ):
        uploaded(browser, tmp_path, data)
        browser.wait_for(f"!trouble.hidden && trouble.textContent.includes({words!r})")
    assert browser.evaluate("document.getElementById('picture').src") == before
    assert browser.evaluate("view.getAttribute('aria-busy')") == "false"
    assert browser.requested.count(f"{site.origin}/api/picture") == 3  # the example, and two of the files
    browser.click("#trouble-close")
    assert browser.evaluate("trouble.hidden")
    uploaded(browser, tmp_path, png_file(two_colours()))
    browser.wait_for(f"document.getElementById('picture').src !== {before!r}")


def test_a_picture_that_the_server_forgot_is_sent_again(browser, tmp_path, monkeypatch):
    monkeypatch.setattr(answers_module, "MOST_PICTURES", 1)
    with served(demo_answers(tmp_path)) as site:
        opened(browser, site, LABELS)
        site.picture(two_colours())
        browser.type(".chip.new input", "yellow", enter=True)
        browser.wait_for("document.querySelectorAll('.bar').length === 4")
        assert browser.evaluate("trouble.hidden")


def test_the_end_of_the_program_is_told(browser, tmp_path):
    with served(demo_answers(tmp_path)) as site:
        opened(browser, site)
    browser.click(".queries button")
    browser.wait_for("!trouble.hidden && trouble.textContent.includes('python -m recipes.demo')")


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_the_page_fits_its_window(browser, site, width):
    browser.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 500)
    long = "Donaudampfschifffahrtsgesellschaftskapitänsmützenabzeichen"
    opened(browser, site, f"/?label={long}&label=red&view=label&query={long}")
    browser.wait_for("!document.getElementById('heat').hidden")
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    small = (
        "[...document.querySelectorAll('button, input:not(#file), select')]"
        ".filter((each) => each.offsetParent && each.offsetHeight < 24)"
    )
    assert browser.evaluate(f"{small}.map((each) => each.outerHTML)") == []


def test_light_and_dark_follow_the_system(browser, site):
    grounds = {}
    for scheme in ("light", "dark"):
        browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        opened(browser, site)
        grounds[scheme] = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert grounds == {"light": "rgb(244, 245, 247)", "dark": "rgb(14, 17, 21)"}


def test_the_page_can_ask_nobody_else(browser, site):
    """And `complaints` notices."""
    opened(browser, site)
    assert complaints(browser, site) == []
    assert browser.evaluate("fetch('http://127.0.0.2:9/').then(() => 'sent', () => 'refused')") == "refused"
    assert complaints(browser, site)
    opened(browser, site)
    browser.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.ran = 1'}))"
    )
    assert browser.evaluate("window.ran") is None
    assert complaints(browser, site)
