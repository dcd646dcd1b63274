"""CLIP's own towers, of both families, trained by recipe from a checkpoint and read by others afterwards."""

from pathlib import Path

import keras
import numpy as np
import pytest

from diptych.core.data.pixels import CLIP_MEAN, CLIP_STD, FixedSize, Normalization
from diptych.core.data.processor.processor import Processor
from diptych.core.data.tokenizers.clip_bpe import ClipTokenizer, released_vocabulary
from diptych.core.training.metrics import read_metrics
from diptych.models import (
    CLIP,
    CLIPConfig,
    CLIPResNetConfig,
    CLIPTextConfig,
    CLIPVisionConfig,
    SigLIP,
    from_preset,
)
from diptych.recipes import clip, siglip
from tests.marks import ABOVE_THE_BACKENDS
from tests.models.examples import numpy_of
from tests.recipes.photos import write_photos

SIZE = {"width": 64, "depth": 2, "mlp_dim": 80, "num_heads": 1, "embed_dim": 20}
TEXT = CLIPTextConfig(**SIZE, vocab_size=514, context_length=10)
VIT = CLIPConfig(vision=CLIPVisionConfig(**SIZE, patch_size=8, image_size=32), text=TEXT)
RESNET = CLIPConfig(
    vision=CLIPResNetConfig(stage_depths=(1, 1, 1, 1), width=8, num_heads=4, image_size=32, embed_dim=20), text=TEXT
)
PIXELS = FixedSize(
    height=32,
    width=32,
    resize="bicubic_antialias",
    shortest_edge=36,
    normalization=Normalization(mean=CLIP_MEAN, std=CLIP_STD),
)


def save(folder: Path, config: CLIPConfig, format: str) -> Path:
    CLIP(config, seed=3).save_to_preset(folder, format=format)
    tokenizer = ClipTokenizer(released_vocabulary([]), [])
    processor = Processor(pixels=PIXELS, tokenizer=tokenizer, context_length=10, clean_captions=False)
    processor.save_to_preset(folder, format="transformers" if format == "transformers" else "diptych")
    return folder


@pytest.fixture(scope="module")
def vit(tmp_path_factory) -> Path:
    return save(tmp_path_factory.mktemp("vit"), VIT, "transformers")


@pytest.fixture(scope="module")
def resnet(tmp_path_factory) -> Path:
    return save(tmp_path_factory.mktemp("resnet"), RESNET, "open_clip")


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    return write_photos(tmp_path_factory.mktemp("data") / "photos", 48)


def train(checkpoint: Path, photos: Path, folder: Path, *flags: str, recipe=clip) -> None:
    own = ("--train-data", str(photos), "--pretrained", str(checkpoint), "--run-dir", str(folder), "--no-tensorboard")
    small = ("--examples", "32", "--batch-size", "16", "--val-fraction", "0.3")
    assert recipe.main([*own, *small, *flags]) == 0


def weights(model) -> dict[str, np.ndarray]:
    return {weight.path: np.array(keras.ops.convert_to_numpy(weight.value)) for weight in model.weights}


@ABOVE_THE_BACKENDS
def test_they_learn_by_clips_loss_from_clips_pictures_and_transformers_reads_what_is_left(vit, photos, tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch = pytest.importorskip("torch", reason="torch is not installed")
    flags = (
        "--learning-rate",
        "1e-3",
        "--lock-image",
        "--lock-image-unlocked-blocks",
        "1",
        "--text-layer-decay",
        "0.7",
    )
    train(vit, photos, tmp_path, *flags, "--ema-decay", "0.5", recipe=siglip)
    model, before = from_preset(tmp_path / "model"), weights(from_preset(vit))
    moved = {path for path, value in weights(model).items() if not np.array_equal(value, before[path])}
    assert moved >= {"image/encoder/block_01/mlp/in_kernel", "image/projection/kernel", "text/encoder/norm/scale"}
    assert not any(path.startswith(("image/encoder/block_00", "image/input_norm", "image/class")) for path in moved)
    report = (tmp_path / "report.html").read_text(encoding="utf-8")
    for shown in (
        "CLIP on",
        "The same captions",
        "What it finds",
        "answers of the largest cosine, with it.",
    ):
        assert shown in report
    assert ", p = " not in report, "a softmax model gives a pair no probability"
    model.save_to_preset(tmp_path / "theirs", format="transformers")
    processors = [Processor.from_preset(folder) for folder in (tmp_path / "model", vit)]
    assert processors[0].pixels == processors[1].pixels == PIXELS
    given = {"images": sorted(photos.glob("*.png"))[:2], "texts": ["a red apple", "Café 中"]}
    inputs = processors[0](**given)
    for name, value in processors[1](**given).items():
        np.testing.assert_array_equal(inputs[name], value, err_msg=name)
    reference = transformers.CLIPModel.from_pretrained(tmp_path / "theirs").eval()
    with torch.no_grad():
        ours = {name: numpy_of(value) for name, value in model(inputs).items()}
        theirs = reference(
            pixel_values=torch.from_numpy(inputs["images"].transpose(0, 3, 1, 2).copy()),
            input_ids=torch.from_numpy(inputs["token_ids"].astype(np.int64)),
        )
    np.testing.assert_allclose(ours["image_embedding"], theirs.image_embeds.numpy(), rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(ours["text_embedding"], theirs.text_embeds.numpy(), rtol=2e-5, atol=2e-5)


@ABOVE_THE_BACKENDS
def test_the_sigmoid_loss_gives_clips_towers_a_bias_that_fits_the_batch(vit, photos, tmp_path, capsys):
    train(vit, photos, tmp_path, "--loss", "sigmoid", "--lora-rank", "2", "--learning-rate", "1e-2", "--no-report")
    model = from_preset(tmp_path / "model")
    assert isinstance(model, SigLIP)
    assert (model.config.vision, model.config.text) == (VIT.vision, VIT.text)
    assert -12 < float(numpy_of(model.logit_bias)) < 0
    assert "fresh 33 (adapters, pair_logits)" in (said := capsys.readouterr().out)
    assert "for 15 negatives a pair" in said
    for format in ("transformers", "open_clip", "big_vision"):
        with pytest.raises(ValueError, match='format="diptych"'):
            model.save_to_preset(tmp_path / "other", format=format)


def test_a_residual_tower_trains_at_another_size_and_its_statistics_move(resnet, photos, tmp_path, capsys):
    train(
        resnet,
        photos,
        tmp_path,
        "--image-size",
        "64",
        "--learning-rate",
        "1e-4",
        "--image-layer-decay",
        "0.5",
        "--no-report",
    )
    assert "resized 1 (image)" in capsys.readouterr().out
    left, given = weights(from_preset(tmp_path / "model")), weights(from_preset(resnet))
    positions = "image/attention_pool/position_embedding/embedding"
    assert (len(given[positions]), len(left[positions])) == (2, 5)
    np.testing.assert_allclose(left[positions][0], given[positions][0], atol=1e-3)
    for statistic in ("moving_mean", "moving_variance"):
        assert np.abs(left[f"image/stem/norm_1/{statistic}"] - given[f"image/stem/norm_1/{statistic}"]).max() > 1e-3
    from_preset(tmp_path / "model").save_to_preset(tmp_path / "theirs", format="open_clip")
    again = weights(from_preset(tmp_path / "theirs"))
    for path, value in left.items():
        np.testing.assert_array_equal(again[path], value, err_msg=path)


@ABOVE_THE_BACKENDS
def test_a_locked_resnet_embeds_its_pictures_once_with_the_losses_that_it_has_in_each_step(resnet, photos, tmp_path):
    """Its moving statistics stay as they are in both."""
    losses = []
    for flag in ("--embed-images-once", "--no-embed-images-once"):
        train(resnet, photos, tmp_path / flag, "--lock-image", "--learning-rate", "1e-3", flag)
        losses.append([row["loss"] for row in read_metrics(tmp_path / flag / "metrics.jsonl") if "loss" in row])
    np.testing.assert_allclose(*losses, rtol=1e-6)
