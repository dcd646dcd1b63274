"""The manual has every page and every flag, and shows them as Markdown does."""

import re

from diptych.engine.flags import types_of_flags
from docs.manual.build import DOCS, HERE, pages, settings
from docs.manual.markdown import fenced
from docs.manual.pictures import FOLDER, PICTURES
from docs.manual.recipe_options import recipe_options
from docs.manual.reference import GROUPS, Flag, groups, python_page, recipe_page


def test_every_page_stands_in_the_navigation_once():
    navigation = (HERE / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    named = re.findall(r": ([\w/]+\.md)$", navigation, re.M)
    there = {path.name for path in DOCS.glob("*.md")} | {"reference/python.md"}
    assert len(there) >= 20
    assert sorted(named) == sorted(there), "enter the page in docs/manual/mkdocs.yml"


def test_every_recipe_has_a_page_with_its_examples_and_all_its_flags():
    asked = recipe_options()
    assert len(asked) >= 17
    for name, options in asked.items():
        page = recipe_page(name, options)
        assert f"python -m recipes.{name}" in page.partition("```text")[2].partition("```")[0]
        shown = set(re.findall(r"^`(--[\w-]+)`", page, re.M))
        assert shown == {flag for flag in types_of_flags(type(options.options)) if f"`{flag}`" in page}
        assert len(shown) >= len(types_of_flags(type(options.options))) - 1  # one may be without a flag, by its place


def test_every_flag_says_what_it_is():
    flags = [flag for asked in recipe_options().values() for group in groups(asked.options) for flag in group.flags]
    assert len(flags) > 300
    assert {flag.name for flag in flags if not flag.about} == set()
    by_name = {flag.name: flag for flag in flags}
    assert by_name["--precision"] == Flag(
        "--precision",
        "float32 or bfloat16",
        "float32",
        "bfloat16 computes in bfloat16; weights, optimizer and loss stay float32.",
    )


def test_the_page_of_python_names_the_front_door():
    import diptych

    page = python_page()
    assert set(re.findall(r"^::: diptych\.(\w+)$", page, re.M)) | {"SigLIP2"} == set(diptych.__all__)
    assert "## Others" not in page, f"put it into one of {', '.join(GROUPS)}"


def test_links_of_pages_stay_in_the_manual():
    found = pages()
    settled = settings(list(found))
    assert "          - siglip: reference/recipes/siglip.md\n" in settled
    assert "RECIPES" not in settled
    for name, text in found.items():
        prose = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
        for target in re.findall(r"\]\(([^)#\s:]+\.md)", prose):
            place = (DOCS / name).parent / target
            assert place.resolve().relative_to(DOCS).as_posix() in found, f"{name}: {target}"


def test_examples_of_docstrings_become_blocks_of_code():
    assert fenced("A.\n\n>>> f(1)\n... + 2\n\nB.") == "A.\n\n\n```python\nf(1)\n+ 2\n```\n\nB."


def test_every_picture_has_its_command_and_those_of_stored_numbers_show_them():
    assert {path.name for path in FOLDER.iterdir()} == set(PICTURES)
    stored = {name: one for name, one in PICTURES.items() if one.draw and one.data.suffix == ".json"}
    assert len(stored) >= 2
    for name, picture in stored.items():
        kept = (FOLDER / name).read_text(encoding="utf-8")
        assert picture.draw(picture.data).partition("</style>")[2] == kept.partition("</style>")[2], "nox -s pictures"
