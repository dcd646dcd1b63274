"""Every line of docs/migration.md is run, in order: ours on this backend, and transformers' where it is installed."""

import importlib.util
import io
import os
import re
import shlex
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diptych.core.data.emoji import TOKENIZER_PATH
from diptych.core.data.pixels import FixedSize
from diptych.core.data.processor.processor import Processor
from diptych.core.data.tokenizers.open import open_tokenizer
from diptych.models import SigLIP, SigLIPConfig, TextConfig, VisionConfig
from tests.core.data.sources.content import add_member
from tests.marks import ABOVE_THE_BACKENDS
from tests.models.examples import numpy_of
from tests.tree import ROOT

DOCUMENT = (ROOT / "docs" / "migration.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `(?P<theirs>.+?)` \| `(?P<ours>.+?)` \|$", re.M)
SECTIONS = ["transformers", "open_clip", "keras-hub", "big_vision"]


def rows(section: str) -> list[tuple[str, str]]:
    """The (theirs, ours) of a section's table."""
    text = DOCUMENT.partition(f"## From {section}\n")[2].partition("\n## ")[0]
    return [(row["theirs"].replace(r"\|", "|"), row["ours"].replace(r"\|", "|")) for row in ROW.finditer(text)]


@pytest.fixture
def names(tmp_path) -> dict:
    """What the lines of the document may speak of."""
    vision = VisionConfig(width=16, depth=1, mlp_dim=24, num_heads=2, patch_size=4, image_size=16)
    tokenizer = open_tokenizer(TOKENIZER_PATH)
    text = TextConfig(
        width=12, depth=1, mlp_dim=20, num_heads=3, vocab_size=tokenizer.vocab_size, context_length=16, embed_dim=16
    )
    model = SigLIP(SigLIPConfig(vision=vision, text=text))
    processor = Processor(pixels=FixedSize(height=16, width=16), tokenizer=tokenizer, context_length=16)
    folder, target = tmp_path / "folder", tmp_path / "target"
    model.save_to_preset(folder)
    processor.save_to_preset(folder, format="transformers")
    model.save_to_preset(target, format="big_vision")
    encoded = io.BytesIO()
    Image.new("RGB", (8, 8)).save(encoded, "JPEG")
    with tarfile.open(tmp_path / "shards.tar", "w") as tar:
        for number in range(200):  # of which some are held out
            add_member(tar, f"{number}.txt", b"a cat")
            add_member(tar, f"{number}.jpg", encoded.getvalue())
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), "uint8"))
    (program,) = re.findall(r"```python\n(.+?)```", DOCUMENT, re.S)
    imported: dict = {}
    exec(program, imported)
    batch = processor(texts=["a cat"], images=[picture])
    given = {"folder": str(folder), "target": str(target), "picture": picture, "model": model, "processor": processor}
    return imported | given | {"inputs": batch, "outputs": model(batch)}


def _run(line: str, names: dict, folder: Path) -> None:
    if not line.startswith("python -m "):
        exec(line, names)
        return
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, *shlex.split(line)[1:]], cwd=folder, env=environment, check=True)


@pytest.mark.parametrize("section", SECTIONS)
@ABOVE_THE_BACKENDS
def test_every_line_of_ours_runs(section, names, tmp_path):
    lines = [ours for _, ours in rows(section)]
    assert len(lines) >= 5
    for line in lines:
        _run(line, names, tmp_path)


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="transformers is not installed")
@ABOVE_THE_BACKENDS
def test_every_line_of_transformers_runs_and_means_the_same(names, tmp_path):
    import torch
    from transformers import AutoModel, AutoProcessor

    theirs = names | {"AutoModel": AutoModel, "AutoProcessor": AutoProcessor}
    both = rows("transformers")
    assert both[4][0] == "outputs.image_embeds"
    with torch.no_grad():
        for line, _ in both:
            exec(line, theirs)
    for _, line in both[:4]:
        exec(line, names)
    for name, ours in (("image_embeds", "image_embedding"), ("text_embeds", "text_embedding")):
        got = numpy_of(names["outputs"][ours])
        np.testing.assert_allclose(got, getattr(theirs["outputs"], name).numpy(), rtol=2e-5, atol=2e-5)
