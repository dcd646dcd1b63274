"""The steps that build the embedded data: matching names and code points, drawing, writing."""

import io
import json
import lzma
import sys
import tarfile
import zipfile

import pytest
from PIL import Image

from diptych.core.data import emoji
from diptych.core.data.emoji.building.annotations import hexcode_of
from diptych.core.data.emoji.building.build import concepts_bytes, match, zip_bytes
from diptych.core.data.emoji.building.drawing import (
    draw_any_svg,
    draw_bitmap,
    draw_svg,
    icon_svg,
    reduce_to_webp,
)
from diptych.core.data.emoji.building.matching import (
    match_by_code_points,
    match_by_name,
    match_regions,
    name_index,
    region_of,
    slug,
    without_selectors,
)
from diptych.core.data.emoji.building.packages import fetch, read_json
from diptych.core.data.emoji.building.renamed import RENAMED


def concept(hexcode: str, english: str) -> emoji.Concept:
    text = "".join(chr(int(part, 16)) for part in hexcode.split("-"))
    return emoji.Concept(hexcode, text, "objects", "tool", 1, emoji.split_of(hexcode), {"en": english}, {"en": ()})


def test_slug_keeps_letters_and_digits():
    assert slug("flag: Côte d’Ivoire") == "flagcotedivoire"
    assert slug("keycap: #") != slug("keycap: *")


def test_code_points_are_compared_without_selectors():
    assert without_selectors("2764-FE0F-200D-1F525") == "2764-200d-1f525"
    assert without_selectors("0023-fe0f-20e3") == "23-20e3"
    assert hexcode_of("❤️") == "2764"


def test_code_points_choose_the_drawing():
    chars = {"2764-fe0f": "heart", "1f600": "grin", "1f44b-1f3fb": "wave-light"}
    assert match_by_code_points(chars, ["heart", "wave-light"], ["2764", "1f600"]) == {"2764": "heart"}


def test_names_old_names_and_unicode_names_lead_to_the_concept():
    sets = [
        {
            "chars": {"1f43b": "bear"},
            "aliases": {"bear-face": {"parent": "bear"}, "ursine": {"parent": "bear-face"}},
        }
    ]
    index = name_index([concept("1f43b", "bear"), concept("2702", "scissors")], sets)
    assert index["bearface"] == "1f43b"
    assert index["blackscissors"] == "2702"  # Unicode's name
    assert "" not in index


def test_an_alias_does_not_give_one_drawing_to_two_concepts():
    icons = {"icons": {"cricket-game": {}, "bear": {}}, "aliases": {"cricket": {"parent": "cricket-game"}}}
    index = {"cricketgame": "1f3cf", "cricket": "1f997", "bear": "1f43b"}
    assert match_by_name(icons, index, {}) == {"1f3cf": "cricket-game", "1f43b": "bear"}
    assert match_by_name(icons, index, {"cricket-game": "cricket", "bear": None}) == {"1f997": "cricket-game"}


def test_flags_are_found_by_region():
    germany, scotland = "1f1e9-1f1ea", "1f3f4-e0067-e0062-e0073-e0063-e0074-e007f"
    assert [region_of(code) for code in (germany, scotland, "1f600", "1f3f4-200d-2620")] == ["de", "gb-sct", None, None]
    assert match_regions(["de-4x3", "gb-sct-4x3"], [germany, "1f600"], "-4x3") == {germany: "de-4x3"}


def test_drawings_of_something_else_are_left_out():
    icons = {"icons": {"ar": {}, "de": {}, "european-union": {}}, "aliases": {}, "chars": {}}
    concepts = [concept(code, "flag") for code in ("1f1e6-1f1f7", "1f1e9-1f1ea")]
    index = {"flageuropeanunion": "1f1ea-1f1fa", "flagunitednations": "1f1fa-1f1f3"}
    matched = match("circle_flags", icons, concepts, index)
    assert matched["1f1e9-1f1ea"] == "de"
    assert matched["1f1ea-1f1fa"] == "european-union"
    assert "1f1e6-1f1f7" not in matched


def test_renamed_drawings_name_concepts_that_exist():
    known = {concept.names["en"] for concept in emoji.concepts()}
    targets = [name for table in RENAMED.values() for name in table.values() if name is not None]
    assert len(targets) > 150
    assert [name for name in targets if name not in known] == []


def test_an_icon_becomes_a_document_and_its_mirror_image():
    icons = {
        "width": 32,
        "height": 24,
        "icons": {"left": {"body": "<path/>", "left": 2}},
        "aliases": {"right": {"parent": "left", "hFlip": True}, "turned": {"parent": "left", "rotate": 1}},
    }
    assert 'viewBox="2 0 32 24"><path/></svg>' in icon_svg(icons, "left")
    assert 'translate(36 0) scale(-1 1)"><path/></g>' in icon_svg(icons, "right")
    with pytest.raises(ValueError, match="rotate"):
        icon_svg(icons, "turned")


def test_a_drawing_is_composed_on_white_and_keeps_its_shape():
    transparent = io.BytesIO()
    Image.new("RGBA", (128, 96), (0, 0, 0, 0)).save(transparent, "PNG")
    picture = draw_bitmap(transparent.getvalue())
    assert picture.getpixel((5, 5)) == (255, 255, 255)
    assert Image.open(io.BytesIO(reduce_to_webp(picture))).size == (64, 48)


def test_drawing_without_resvg_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(ImportError, match="pip install resvg_py"):
        draw_svg('<svg width="1" height="1"/>')


def test_svg_is_drawn_on_white():
    pytest.importorskip("resvg_py", reason="only needed to build the data")
    svg = icon_svg({"width": 2, "height": 1, "icons": {"a": {"body": '<path d="M0 0h1v1H0z"/>'}}}, "a")
    picture = draw_svg(svg)
    assert picture.size == (256, 128)
    assert (picture.getpixel((60, 60)), picture.getpixel((200, 60))) == ((0, 0, 0), (255, 255, 255))


@pytest.mark.parametrize("size", ['width="2cm" height="1cm"', 'width="90pt" height="45pt"', ""])
def test_svg_of_any_origin_is_drawn_whatever_its_size_is_given_in(size):
    pytest.importorskip("resvg_py", reason="only needed to draw clip art")
    body = '<path d="M0 0h1v1H0z"/>'
    picture = draw_any_svg(f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 2 1">{body}</svg>')
    assert picture.size == (256, 128)
    assert (picture.getpixel((60, 60)), picture.getpixel((200, 60))) == ((0, 0, 0), (255, 255, 255))
    with pytest.raises(ValueError, match=r"."):
        draw_any_svg("<svg")


def test_same_drawings_give_the_same_bytes_in_any_order():
    pictures = {
        "1f600": reduce_to_webp(Image.new("RGB", (64, 64), "red")),
        "1f43b": reduce_to_webp(Image.new("RGB", (64, 64), "blue")),
    }
    data = zip_bytes(pictures)
    assert data == zip_bytes(dict(reversed(pictures.items())))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.namelist() == ["1f43b.webp", "1f600.webp"]
        assert {member.compress_type for member in archive.infolist()} == {zipfile.ZIP_STORED}


def test_shipped_concepts_are_what_the_build_writes():
    lines = lzma.decompress((emoji.TOKENIZER_PATH.parent / "concepts.jsonl.xz").read_bytes()).splitlines(keepends=True)
    few = emoji.concepts()[::300]
    assert lzma.decompress(concepts_bytes(few)) == b"".join(lines[::300])
    assert concepts_bytes(few) == concepts_bytes(few)


def test_a_fetched_package_is_read_without_asking_again(tmp_path, monkeypatch):
    monkeypatch.setattr("subprocess.run", lambda *a, **k: pytest.fail("asked for a package that is there"))
    content = json.dumps({"icons": {}}).encode()
    with tarfile.open(tmp_path / "iconify-json-noto-1.2.9.tgz", "w:gz") as archive:
        member = tarfile.TarInfo("package/icons.json")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    assert read_json(fetch("@iconify-json/noto@1.2.9", tmp_path), "icons.json") == {"icons": {}}
