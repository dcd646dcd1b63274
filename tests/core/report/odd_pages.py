"""Pages of small and odd data: two classes, six pairs, one language, a thousand classes, names from right to left.

    python -m tests.core.report.odd_pages FOLDER

writes them, to be looked at: at 1100 and at 390 pixels, in the light and in the dark.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from diptych.core.evaluation.classification import classification
from diptych.core.evaluation.few_shot import few_shot
from diptych.core.evaluation.grouped import grouped_accuracy
from diptych.core.evaluation.multilingual import MEAN, recall_by_language
from diptych.core.report.evaluation_page import evaluation_page
from diptych.core.report.fairness_page import fairness_page
from diptych.core.report.run.contents import ReportData, Samples, WrongAnswers
from diptych.core.report.run.page import render
from diptych.core.report.search_page import Answered, Hit, search_page

RIGHT_TO_LEFT = ("قطة رمادية تنام على الأريكة (٣)", "כלב חום רץ על החוף, 2024", "گربه", "חתול")
CJK = ("三毛猫がソファで眠っている写真", "海邊奔跑的棕色小狗", "고양이", "犬")
LONG = "a very long name of a class that nobody would choose but somebody has: Pneumonoultramicroscopic"
ODD = (*RIGHT_TO_LEFT, *CJK, LONG, "<b>bold</b> & 'quoted'", "😀 smile", "x")


def samples(pairs: int, captions: Sequence[str], languages: Sequence[str], *, seed: int = 0) -> Samples:
    """A caption and a language for each of so many pictures, in turn."""
    rng = np.random.default_rng(seed)
    meaning = rng.normal(size=(pairs, 8))
    pictures = rng.integers(0, 255, (pairs, 1, 1, 3), dtype=np.uint8)
    return Samples(
        image_embeddings=_unit(meaning + 0.5 * rng.normal(size=meaning.shape)),
        text_embeddings=_unit(meaning + 0.5 * rng.normal(size=meaning.shape)),
        image_labels=np.arange(pairs),
        text_labels=np.arange(pairs),
        captions=[captions[place % len(captions)] for place in range(pairs)],
        languages=[languages[place % len(languages)] for place in range(pairs)],
        thumbnails=np.broadcast_to(pictures, (pairs, 32, 32, 3)).copy(),
        logit_scale=10.0,
        logit_bias=-6.0,
        batch_size=6,
        name="Held-out pairs",
    )


def recalls(embedded: Samples) -> dict:
    """As a run judges them."""
    found = recall_by_language(
        embedded.image_embeddings,
        embedded.text_embeddings,
        embedded.image_labels,
        embedded.text_labels,
        embedded.languages,
        image_to_text=True,
    )
    if len(set(embedded.languages)) == 1:
        found.pop(MEAN)
    return found


def classified(names: Sequence[str], images: int, *, right: float = 0.7, seed: int = 0) -> dict:
    """Scores of so many images of these classes."""
    rng = np.random.default_rng(seed)
    labels = np.arange(images) % len(names)
    answers = np.where(rng.random(images) < right, labels, rng.integers(0, len(names), images))
    scores = np.eye(len(names))[answers] * 3 + rng.random((images, len(names)))
    return classification(scores, labels, list(names), logit_bias=None)


def names(count: int) -> list[str]:
    """So many odd names, all different."""
    return [f"{ODD[place % len(ODD)]}{' ' + str(place) if place >= len(ODD) else ''}" for place in range(count)]


def rows(steps: int) -> list[dict]:
    """Metrics of a run of so many steps, with an evaluation at the end."""
    found: list[dict] = [
        {"step": step, "examples": 6 * step, "loss": 3.0 / step, "learning_rate": 1e-3, "logit_scale": 10.0}
        for step in range(1, steps + 1)
    ]
    return [*found, {"step": steps, "examples": 6 * steps, "evaluation": {"recall@1/und": 0.5, "loss": 2.0}}]


def wrong(of: Sequence[str]) -> WrongAnswers:
    """Surest wrong answers of these classes."""
    count = len(of)
    return WrongAnswers(
        thumbnails=np.full((count, 32, 32, 3), 120, np.uint8),
        keys=[f"תמונות/{name}.jpg" for name in of],
        truths=list(of),
        answers=[*of[1:], of[0]],
        probabilities=[0.9] * count,
        of_truths=[0.0004] * count,
        count=count,
    )


def run_pages() -> dict[str, str]:
    """Reports of training, by name."""
    six = samples(6, ("a cat", "a dog"), ("und",))
    mixed = samples(40, ODD, ("ar", "he", "fa", "ja", "zh", "ko", "de", "en", "sw", "x-klingon"))
    one = samples(30, CJK, ("ja",))
    card = {
        "backend": "jax",
        "parameters": 1_800_000,
        "examples_seen": 60,
        "config": {"data": {"train": "תמונות/حيوانات"}},
    }
    pages = {
        "six_pairs": ReportData(
            title="SigLIP on photos",
            card=card,
            metrics=rows(2),
            retrieval={"Held-out pairs": recalls(six)},
            zero_shot={"cat or dog": classified(("cat", "dog"), 6)},
            samples=six,
            skipped={"image_format": 1},
            examples_read=12,
        ),
        "one_step": ReportData(
            title="SigLIP on one batch", card=card, metrics=rows(1), samples=samples(1, ("x",), ("und",))
        ),
        "one_language": ReportData(
            title="SigLIP on 写真", card=card, metrics=rows(30), retrieval={"写真": recalls(one)}, samples=one
        ),
        "right_to_left": ReportData(
            title="SigLIP על תמונות עם שם ארוך מאוד של תיקייה/تصاویر/动物图片",
            card=card,
            metrics=rows(30),
            retrieval={"صور جديدة": recalls(mixed), "新しい写真": recalls(mixed)},
            zero_shot={"فئات, صور جديدة": classified(ODD, 60)},
            samples=mixed,
        ),
        "two_classes": ReportData(
            title="Classifier of two", card=card, metrics=rows(4), classified={"pets": classified(("חתול", "כלב"), 4)}
        ),
        "odd_classes": ReportData(
            title="Classifier of odd names",
            card=card,
            metrics=rows(30),
            classified={"حيوانات": classified(ODD, 200)},
            wrong=wrong(ODD[:8]),
        ),
        "thousand_classes": ReportData(
            title="Classifier of a thousand",
            card=card,
            metrics=rows(30),
            classified={"everything": classified(names(1_000), 3_000)},
            wrong=wrong(names(40)[20:26]),
        ),
    }
    return {f"run_{name}": render(data) for name, data in pages.items()}


def evaluation_pages() -> dict[str, str]:
    """Pages of judged models, by name."""
    six, mixed = samples(6, ("a cat",), ("und",)), samples(40, ODD, ("ar", "he", "ja", "zh", "en"))
    thousand = names(1_000)
    pages = {
        "six_pairs": (evaluation(_retrieval("תמונות", six), _zero_shot("pets", ("cat", "dog"), 6)), six),
        "odd_names": (
            evaluation(_retrieval("صور جديدة", mixed), _zero_shot("动物", ODD, 120), _few_shot("动物", ODD)),
            mixed,
        ),
        "thousand_classes": (
            evaluation(_zero_shot("everything", thousand, 2_000), _few_shot("some", thousand[:60])),
            None,
        ),
    }
    return {f"evaluation_{name}": evaluation_page(f"Judged: {name}", *one) for name, one in pages.items()}


def evaluation(*results: dict) -> dict:
    """An evaluation around results."""
    model = {"name": "runs/תמונות", "parameters": 1_800_000, "fingerprint": "0" * 64, "dim": 128}
    return {
        "format": "diptych-evaluation",
        "version": 1,
        "options": {"data": ["תמונות"]},
        "model": model | {"logit_scale": 10.0, "logit_bias": None},
        "backend": "jax",
        "device": None,
        "versions": {},
        "results": list(results),
    }


def _retrieval(name: str, embedded: Samples) -> dict:
    found = recalls(embedded)
    ways = [one["image_to_text"] for code, one in found.items() if code != MEAN]
    return {
        "dataset": name,
        "set": name,
        "task": "zeroshot_retrieval",
        "data": _data(len(embedded.image_labels), texts=len(embedded.captions), skipped_texts={}),
        "metrics": {
            f"{way}_retrieval_{k}": float(np.mean([one[k] for one in ways]))
            for way in ("text", "image")
            for k in ("recall@1", "recall@5")
        },
        "intervals": {},
        "details": {"by_language": found},
    }


def _data(images: int, **more: object) -> dict:
    return {"fingerprint": "0", "records": images, "images": images, "skipped_images": {}, **more}


def _zero_shot(name: str, of: Sequence[str], images: int) -> dict:
    details = classified(of, images)
    return {
        "dataset": name,
        "set": name,
        "task": "zeroshot_classification",
        "data": _data(images, classes=len(of)),
        "metrics": {"acc1": details["accuracy"], "mean_per_class_recall": details["mean_class_accuracy"]},
        "intervals": {"acc1": details["interval"]},
        "details": details,
    }


def _few_shot(name: str, of: Sequence[str]) -> dict:
    rng = np.random.default_rng(0)
    labels = np.arange(2 * len(of)) % len(of)
    features = rng.normal(size=(len(of), 8))[labels] + 0.3 * rng.normal(size=(len(labels), 8))
    half = len(of)
    details = few_shot(features[:half], labels[:half], features[half:], labels[half:], list(of), shots=1)
    return {
        "dataset": name,
        "set": name,
        "task": "linear_probe",
        "data": _data(half, classes=len(of)),
        "metrics": {"lp_acc1": details["accuracy"], "lp_mean_per_class_recall": details["mean_class_accuracy"]},
        "intervals": {"lp_acc1": details["interval"]},
        "details": details,
    }


def search_pages() -> dict[str, str]:
    """Galleries of searches, by name."""
    picture = np.full((128, 96, 3), 150, np.uint8)
    hits = [
        Hit(
            cosine=0.3 - 0.05 * place,
            pair_probability=0.9 / (1 + place),
            caption=caption,
            language=language,
            where=f"תמונות/{'ארוך' * 12}/{place}.jpg",
            picture=picture if place % 2 else None,
        )
        for place, (caption, language) in enumerate(
            zip(ODD, ("ar", "he", "fa", "he", "ja", "zh", "ko", "ja"), strict=False)
        )
    ]
    answers = [Answered(text=text, hits=hits) for text in (RIGHT_TO_LEFT[0], CJK[0], LONG * 3)]
    nothing = Answered(text="", hits=[])
    return {
        "search_odd": search_page("Found in صور", "6 pictures of תמונות were searched.", [*answers, nothing]),
        "search_one": search_page("Found", "1 picture was searched.", [Answered(text="a cat", hits=hits[:1])]),
        "search_captions": search_page("Captions", "12 captions were searched.", answers[:2], captions=True),
    }


def fairness_pages() -> dict[str, str]:
    """Pages of evenness, by name."""
    rng = np.random.default_rng(0)
    grouped = [
        grouped_accuracy("منطقة", rng.random(300) < 0.6, [ODD[place % 9] for place in range(300)]),
        grouped_accuracy("income", np.ones(6, bool), ["אא", "בב"] * 3, fewest=2),
        grouped_accuracy("none right", np.zeros(6, bool), ["a", "b"] * 3, fewest=2),
        grouped_accuracy("many", rng.random(2_000) < 0.6, [f"{CJK[1]} {place % 60}" for place in range(2_000)]),
    ]
    data = _data(300)
    few = {
        "set": "תמונות",
        "data": data,
        "zero_shot": {"accuracy": 0.6, "interval": [0.5, 0.7], "classes": 2},
        "by_group": [one for one in grouped if one],
        "representation": [
            {"images": 6, "bias": 0.5, "interval": [0.5, 0.5], "texts": [RIGHT_TO_LEFT[0], CJK[0]]},
            {"images": 6, "bias": -0.1, "interval": [-0.4, 0.2], "texts": [LONG, "b"]},
        ],
        "association": {
            "images_a": 3,
            "images_b": 3,
            "per_label": [0.5, 0.0, -0.2, 0.1],
            "mean": 0.2,
            "largest": 0.5,
            "label_names": list(ODD[:4]),
        },
        "people": ["נשים", "男性"],
    }
    return {"fairness_odd": fairness_page(evaluation(few))}


def pages() -> dict[str, str]:
    """All of them, HTML by name."""
    return run_pages() | evaluation_pages() | search_pages() | fairness_pages()


def _unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, page in pages().items():
        (folder / f"{name}.html").write_text(page, encoding="utf-8", errors="surrogatepass")
        print(folder / f"{name}.html")
