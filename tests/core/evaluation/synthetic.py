"""A small run that never was: coloured squares, captions in five scripts, embeddings that partly agree."""

import numpy as np

from diptych.core.evaluation.multilingual import recall_by_language
from diptych.core.evaluation.zero_shot import zero_shot
from diptych.core.report.run import ReportData, Samples
from diptych.core.report.run.contents import Earlier

WORDS = {"en": "square", "de": "Quadrat", "ar": "مربع", "he": "ריבוע", "ja": "四角", "hi": "वर्ग"}
HOSTILE = '</title><script>alert("1")</script><img src=x onerror=alert(2)> & \' \u202e\x00\ud800'
CLASSES = ("red", "green & blue", "<b>grey</b>")


def samples(images: int = 40, *, noise: float = 0.8, seed: int = 0) -> Samples:
    """One caption a language for each image; the first caption of all is hostile."""
    rng = np.random.default_rng(seed)
    meaning = rng.normal(size=(images, 16))
    labels = np.tile(np.arange(images), len(WORDS))
    captions = [f"{word} {number}" for word in WORDS.values() for number in range(images)]
    captions[0] = HOSTILE
    return Samples(
        image_embeddings=_unit(meaning + noise * rng.normal(size=meaning.shape) + 0.5),
        text_embeddings=_unit(meaning[labels] + noise * rng.normal(size=(len(labels), 16)) - 0.5),
        image_labels=np.arange(images),
        text_labels=labels,
        captions=tuple(captions),
        languages=tuple(np.repeat(list(WORDS), images).tolist()),
        thumbnails=np.broadcast_to(
            rng.integers(0, 255, size=(images, 1, 1, 3), dtype=np.uint8), (images, 16, 16, 3)
        ).copy(),
        logit_scale=12.0,
        logit_bias=-7.0,
        batch_size=32,
        name="squares",
    )


def metrics(steps: int = 120) -> list[dict]:
    """Rows as a run writes them, with a step that was not finite, a missing field and a resumed part."""
    rows: list[dict] = []
    for step in range(1, steps + 1):
        share = step / steps
        rows.append(
            {
                "step": step,
                "examples": 32 * step,
                "loss": float("nan") if step == 50 else 9.0 * step**-0.4,
                "learning_rate": 1e-3 * (1 - share),
                "logit_scale": 10.0 + 2.0 * share,
                "logit_bias": -5.0 - 2.0 * share,
                "gradient_norm": 1.0 / step,
                "examples_per_second": 100.0,
                "seconds": 0.32 * step,
            }
        )
        if step % 30 == 0:
            rows.append({"step": step, "examples": 32 * step, "evaluation": {"recall@1/en": 0.3 * share, "loss": 3.0}})
    del rows[3]["logit_bias"]
    return rows


def report_data() -> ReportData:
    """Every part filled."""
    embedded, worse = samples(), samples(noise=1.5)
    retrieval = recall_by_language(
        embedded.image_embeddings,
        embedded.text_embeddings,
        embedded.image_labels,
        embedded.text_labels,
        embedded.languages,
        image_to_text=True,
    )
    labels = np.arange(40) % 3
    answers = np.where(np.arange(40) < 30, labels, 0)
    return ReportData(
        title="Squares <i>in</i> six languages",
        card={
            "command": "python -m recipes.siglip --note '<script>'",
            "backend": "jax",
            "implementation": "reference",
            "device": "cpu",
            "seed": 7,
            "parameters": 1_234_567,
            "flops_per_step": 2.5e9,
            "utilisation": 0.42,
            "wall_seconds": 588.4,
            "versions": {"keras": "3.15.1", "jax": None},
            "git": {"commit": "0123456789abcdef", "dirty": True},
            "config": {"image": {"width": 96}, "betas": [0.9, 0.95], "stages": [{"examples": 3840}], "label": None},
        },
        metrics=metrics(),
        retrieval={"New drawings": retrieval},
        zero_shot={"colours": zero_shot(np.eye(3)[answers], labels, CLASSES)},
        samples=embedded,
        before=Earlier(
            image_embeddings=worse.image_embeddings,
            text_embeddings=worse.text_embeddings,
            logit_scale=9.0,
            logit_bias=-6.0,
        ),
        changes={"recall@1/en": (0.25, 0.5), "loss": (2.5, 2.125), f"{HOSTILE}, recall@1": (0.75, 0.625)},
        skipped={"image_truncated": 3, "caption_empty": 5},
        examples_read=3848,
        captions_judged=3840,
        captions_clipped=12,
    )


def _unit(array: np.ndarray) -> np.ndarray:
    return (array / np.linalg.norm(array, axis=-1, keepdims=True)).astype(np.float32)
