"""Listings of models and of data by name, and runs side by side."""

import json
import re

import pytest

from diptych.core.training.metrics import MetricsWriter
from diptych.models.presets import ALL_PRESETS, hub_name
from diptych.recipes import compare, data, models
from tests.marks import ABOVE_THE_BACKENDS
from tests.recipes.photos import write_photos

pytestmark = ABOVE_THE_BACKENDS


def test_every_model_is_listed_with_its_size_and_its_checkpoint(capsys):
    assert models.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2 : 2 + len(ALL_PRESETS)]] == list(ALL_PRESETS)
    (base,) = [line for line in lines if line.startswith("siglip2_base_patch16_224 ")]
    assert re.fullmatch(r"\S+ +SigLIP +224 +92\.9 M +282 M +1\.40 GiB +hf://google/siglip2-base-patch16-224", base)
    assert "emoji_36_languages comes with diptych" in lines[-1]


def test_words_choose_among_models_and_words_of_none_are_answered(capsys):
    assert models.main(["CLIP", "vit", "large"]) == 0
    chosen = capsys.readouterr().out
    assert chosen.count("clip_vit_large_patch14") == 2
    assert "base" not in chosen
    assert models.main(["resnext"]) == 1
    assert "no model has resnext in its name" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "hub"),
    [
        ("siglip2_giant_patch16_384", "hf://google/siglip2-giant-opt-patch16-384"),
        ("siglip_i18n_base_patch16_256", "hf://google/siglip-base-patch16-256-multilingual"),
        ("siglip2_so400m_patch16_naflex", "hf://google/siglip2-so400m-patch16-naflex"),
        ("clip_vit_large_patch14_336", "hf://openai/clip-vit-large-patch14-336"),
        ("paligemma2_3b_pt_224", "hf://google/paligemma2-3b-pt-224"),
        ("siglip_b16_224", None),
        ("clip_rn50", None),
        ("gemma_tiny", None),
    ],
)
def test_names_of_the_hub(name, hub):
    assert name in ALL_PRESETS
    assert hub_name(name) == hub


def test_the_embedded_data_are_listed_with_languages_and_licences(capsys):
    assert data.main([]) == 0
    said = capsys.readouterr().out
    assert "1,700 records to train on; judged on 1,700 new drawings, 214 new concepts" in said
    assert all(f"{name}\n" in said for name in ("emoji", "scenes", "wide_scenes", "noisy_scenes", "lines"))
    assert "named in 36 languages" in said
    assert "LICENSES.md" in said


def test_own_data_are_looked_at_and_what_is_of_no_use_is_named(tmp_path, capsys):
    photos = write_photos(tmp_path / "photos", 5)
    (photos / "001.png").write_bytes(b"no picture")
    assert data.main([str(photos)]) == 0
    said = capsys.readouterr().out
    assert "photos: 5 records" in said
    assert "of the first 5: 4 can be used; 4 have captions, 0 boxes, 0 labels" in said
    assert "pictures: 32 x 32 (4)" in said
    assert "001.png" in said
    assert data.main([str(tmp_path / "emojy")]) == 1
    assert "no file or folder" in capsys.readouterr().err


def write_run(folder, *, rate, final, stage=None):
    """A run as `recipes.siglip` leaves it."""
    folder.mkdir(parents=True)
    config = {"optimization": {"learning_rate": rate, "batch_size": 8}, "run": {"run_dir": str(folder)}, "stages": []}
    card = {"config": config} | ({"stage": {"name": stage, "stretch": final}} if stage else {})
    (folder / "card.json").write_text(json.dumps(card))
    with MetricsWriter(folder / "metrics.jsonl") as writer:
        for step, share in ((1, 0.1), (2, final)):
            writer.write(step, {"examples": 8 * step, "loss": 4.0 / step, "seconds": 60.0 * step})
            writer.write(step, {"examples": 8 * step, "evaluation": {"recall@1/en": share}})


def test_runs_are_compared_by_their_ends_and_their_options(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "runs" / "a", rate=0.1, final=0.5)
    write_run(tmp_path / "runs" / "b", rate=0.2, final=0.25)
    (tmp_path / "runs" / "nothing").mkdir()
    assert compare.main([]) == 0
    said = capsys.readouterr()
    assert "Left out, because they hold no run that has begun: runs/nothing." in said.err
    table = [line.split() for line in said.out.splitlines()]
    assert ["runs/a", "16", "2", "min", "0", "s", "2", "−", "50.0%"] in table
    assert ["runs/b", "16", "2", "min", "0", "s", "2", "−", "25.0%"] in table
    assert ["optimization.learning_rate", "0.1", "0.2"] in table
    assert "batch_size" not in said.out
    assert "run.run_dir" not in said.out
    page = (tmp_path / "runs" / "compare.html").read_text(encoding="utf-8")
    assert page.count("data-hover=") == 2  # the loss and the recall, both runs in each
    assert page.count('class="line image"') == page.count('class="line text"') == 2


def test_stages_are_compared_and_folders_without_runs_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "staged" / "first", rate=0.1, final=0.5, stage="first")
    write_run(tmp_path / "staged" / "second", rate=0.1, final=0.75, stage="second")
    stages = [{"name": name} for name in ("first", "second", "later")]
    (tmp_path / "staged" / "card.json").write_text(json.dumps({"config": {"stages": stages}}))
    assert compare.main(["staged", "--output", "page.html"]) == 0
    said = capsys.readouterr().out
    assert "staged/first" in said
    assert ["stage.stretch", "0.5", "0.75"] in [line.split() for line in said.splitlines()]
    (tmp_path / "notes.txt").write_text("")
    assert compare.main(["nowhere", "notes.txt"]) == 1
    assert "there is no run to compare" in capsys.readouterr().err
