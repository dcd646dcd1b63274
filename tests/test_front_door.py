"""The front door: a quick `import diptych` with what people use, and commands that list and run the recipes."""

import ast
import resource
import subprocess
import sys
from types import SimpleNamespace

import pytest

import diptych
from diptych import __main__ as command
from diptych.core.training.run_folder import RunFolder, RunFolderError
from tests.tree import ROOT

HEAVY = ("keras", "numpy", "jax", "torch", "tensorflow", "PIL")


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_it_imports_nothing_heavy_until_a_name_needs_it():
    loaded = f"sorted(set(sys.modules) & {set(HEAVY)!r})"
    seen = python(f"import sys, diptych; print({loaded}); diptych.Processor; print({loaded})").splitlines()
    assert ast.literal_eval(seen[0]) == []
    assert ast.literal_eval(seen[1]) == ["PIL", "numpy"]


def test_its_names_are_the_objects_themselves():
    from diptych.backends import sigmoid_loss
    from diptych.engine.embedding.encoder import Encoder
    from diptych.models import SigLIP, from_preset

    assert diptych.SigLIP is diptych.SigLIP2 is SigLIP
    assert diptych.sigmoid_loss is sigmoid_loss
    assert diptych.Encoder is Encoder
    assert diptych.from_preset is from_preset
    assert all(getattr(diptych, name) is not None for name in diptych.__all__)
    assert set(diptych.__all__) <= set(dir(diptych))
    with pytest.raises(AttributeError, match="no attribute 'SigLIP3'; it has CLIP, Encoder"):
        diptych.SigLIP3  # noqa: B018


def test_the_command_lists_every_recipe_with_a_sentence(capsys):
    known = command.recipes()
    assert known.keys() == {path.stem for path in ROOT.glob("recipes/[!_]*.py")}
    assert len(known) >= 12
    assert all(about.endswith(".") for about in known.values())
    assert command.main([]) == 0
    printed = capsys.readouterr().out
    assert all(f"  {name}" in printed and about in printed for name, about in known.items())


ALL_HELP = """
import contextlib, io, sys
from diptych.__main__ import main, recipes
for name in recipes():
    printed = io.StringIO()
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(printed):
        main([name, "--help"])
    assert "--" in printed.getvalue(), name
    print(name, *sorted({"keras", "jax", "torch", "tensorflow"} & set(sys.modules)))
"""


def test_no_help_imports_a_framework():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    seen = python(ALL_HELP).splitlines()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert seen == sorted(command.recipes())
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2 * len(seen)


def test_the_command_hands_the_words_on_and_gives_the_status_back(monkeypatch):
    seen = []
    recipe = SimpleNamespace(main=lambda words: seen.append(words) or 7)
    monkeypatch.setattr(command, "import_module", lambda name: seen.append(name) or recipe)
    assert command.main(["siglip", "--examples", "3"]) == 7
    assert seen == ["diptych.recipes.siglip", ["--examples", "3"]]


def test_a_recipe_that_there_is_not_is_answered_with_the_nearest(capsys):
    assert command.main(["siglib"]) == 2
    assert "there is no recipe 'siglib'. Did you mean siglip?" in capsys.readouterr().err


def test_a_run_is_loaded_with_its_card_and_says_what_it_lacks(tmp_path):
    with pytest.raises(RunFolderError, match="holds no run: expected card.json"):
        diptych.load_run(tmp_path)
    stages = [{"name": "first"}, {"name": "second"}]
    for folder in (tmp_path, tmp_path / "second"):
        with RunFolder(folder) as run:
            run.write_card({"config": {"stages": stages}})
    loaded = diptych.load_run(tmp_path)
    assert loaded.stages == ("second",)
    assert loaded.stage("second").folder == tmp_path / "second"
    with pytest.raises(ValueError, match="holds no stage 'first'; it has second"):
        loaded.stage("first")
    with pytest.raises(FileNotFoundError, match="Take that of a stage: second"):
        loaded.model  # noqa: B018
