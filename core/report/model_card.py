"""The model card of a trained model: a README.md in the form of the Hugging Face hub, of what its run knows.

The metadata come first (https://huggingface.co/docs/hub/model-cards), then sentences. What the run does not know is
left out, or said to be unknown.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import diptych
from diptych.core.evaluation.judged import Evaluated
from diptych.core.report.card_markup import as_code, fenced, in_text, yaml
from diptych.core.report.card_scores import RETRIEVAL, Score, judged_scores, languages_of, run_scores
from diptych.core.report.charts.numbers import compact, significant
from diptych.core.report.run.header import command_text
from diptych.core.training.card import Card, plain
from diptych.core.training.results import Scores

MODEL_CARD = "README.md"
HUB = "hf://"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What is said of a kind of model.

    Attributes:
        describes: in the first sentence, a noun with its article.
        task: on the hub, its pipeline_tag.
        tags: further words for the hub's search.
        use: three lines of Python, with {address}.
    """

    describes: str
    task: str
    tags: tuple[str, ...]
    use: str


_TOWERS = (
    "from diptych import Processor, from_preset\n\n"
    'model, processor = from_preset("{address}"), Processor.from_preset("{address}")\n'
    'outputs = model(processor(images=["picture.jpg"], texts=["a red apple"]))  # image_embedding, text_embedding'
)
_PAIR = Kind(
    describes="a pair of towers, one for images and one for texts, trained by SigLIP's sigmoid loss",
    task="zero-shot-image-classification",
    tags=("siglip", "image-text-retrieval"),
    use=_TOWERS,
)
_CLIP = Kind(
    describes="a pair of towers, one for images and one for texts, trained by CLIP's softmax loss",
    task=_PAIR.task,
    tags=("clip", "image-text-retrieval"),
    use=_TOWERS,
)
_KINDS: Mapping[str, Kind] = {
    "classification": Kind(
        describes="a classifier of images",
        task="image-classification",
        tags=("vit",),
        use="from diptych import ImageClassifier\n\n"
        'model = ImageClassifier.from_preset("{address}")\n'
        'print(model.classify(["picture.jpg"], top_k=3))',
    ),
    "language": Kind(
        describes="a language model",
        task="text-generation",
        tags=("gpt",),
        use="from diptych import from_preset\n\n"
        'model = from_preset("{address}")  # its vocabulary lies beside its weights\n'
        "token_ids = model.generate([[1, 2, 3]], steps=20)",
    ),
    "answering": Kind(
        describes="a model that answers a task on texts",
        task="text-classification",
        tags=("gpt",),
        use='from diptych import from_preset\n\nmodel = from_preset("{address}")',
    ),
    "suffix": Kind(
        describes="a PaliGemma, which answers prompts about pictures",
        task="image-text-to-text",
        tags=("paligemma",),
        use="from diptych.engine.answering import Answerer\n\n"
        'answerer = Answerer.open("{address}")  # docs/paligemma.md says how to ask it',
    ),
}
"""By a term of the objective that nothing else has; what has none of them is a pair of towers."""


@dataclass(frozen=True, kw_only=True)
class Stated:
    """What a run cannot know, and the person says.

    Attributes:
        name: of the model, the title.
        address: where it will be found, "hf://owner/name"; None for a folder.
        license: of its weights, under the hub's name ("apache-2.0"); None for one that is not stated.
        datasets: of the hub that it was trained on ("owner/name").
        picture: a file beside the card that shows what the model finds for captions, a row each, if there is one.
        captions: of its rows.
    """

    name: str
    address: str | None = None
    license: str | None = None
    datasets: tuple[str, ...] = ()
    picture: str | None = None
    captions: tuple[str, ...] = ()


def model_card(card: Card, scores: Scores, stated: Stated, *, judged: Evaluated | None = None) -> str:
    """A README.md, whose last line, a comment, tells whether somebody edited it (`is_unedited`).

    Args:
        card: of the run's stage (`card.json`).
        scores: of the same stage (`results.json`).
        stated: what the person adds.
        judged: what `recipes.evaluate` found of the same model, if it was asked.
    """
    kind, found = _kind(card), run_scores(scores)
    further = judged_scores(judged) if judged else []
    sections = [
        f"# {in_text(stated.name)}",
        _what_it_is(card, kind),
        _picture(stated) if stated.picture else None,
        _section("Use", f"```python\n{kind.use.format(address=stated.address or 'path/to/this/folder')}\n```")
        + f"\n\ndiptych {diptych.__version__} wrote it. On jax, torch and tensorflow it gives the same.",
        _section("Data", _data(card)),
        _section("Recipe", _recipe(card, scores)),
        _section("Results", _results(found, "By the held-out data of the run.")) if found else None,
        _section("Evaluation", _results(further, "By `recipes.evaluate`.")) if further else None,
        _section("Limits", _limits(scores, found + further)),
        _section("Licence", _licence(card, stated)),
    ]
    metadata = _metadata(card, kind, stated, found + further)
    text = "\n\n".join(section for section in sections if section)
    return _sealed(f"---\n{yaml(metadata)}\n---\n\n{text}\n")


def _kind(card: Card) -> Kind:
    losses = {term for stage in _stages(card) for term in stage.get("losses", {})}
    named = next((kind for term, kind in _KINDS.items() if term in losses), None)
    return named or (_CLIP if _config(card, "optimization", "loss") == "softmax" else _PAIR)


def _metadata(card: Card, kind: Kind, stated: Stated, scores: Sequence[Score]) -> dict[str, Any]:
    begun = [_config(card, "model", name) for name in ("pretrained", "pretrained_image", "pretrained_text")]
    bases = [str(name).removeprefix(HUB).partition("@")[0] for name in begun if str(name).startswith(HUB)]
    metadata: dict[str, Any] = {
        "license": stated.license,
        "library_name": "diptych",
        "pipeline_tag": kind.task,
        "tags": ["keras", *kind.tags],
        "language": list(dict.fromkeys(re.split("[-_]", code)[0].lower() for code in languages_of(scores))),
        "datasets": list(stated.datasets),
        "base_model": list(dict.fromkeys(bases)),
        "model-index": [{"name": stated.name, "results": _index(scores)}] if _index(scores) else [],
    }
    return {name: value for name, value in metadata.items() if value}


def _index(scores: Sequence[Score]) -> list[dict[str, Any]]:
    """The headlines in the hub's form, a result for each set and language."""
    results: dict[tuple[str, str], dict[str, Any]] = {}
    for score in scores:
        if not score.headline or not math.isfinite(score.value):
            continue
        slug = re.sub(r"[^\w]+", "-", score.data.lower()).strip("-") or "data"
        known = results.setdefault(
            (score.task, score.measured),
            {
                "task": {"type": score.task},
                "dataset": {"name": score.measured, "type": slug},
                "metrics": [],
            },
        )
        if score.metric in (metric["type"] for metric in known["metrics"]):
            continue  # judged by the run and beside it
        metric: dict[str, Any] = {"type": score.metric, "name": score.metric, "value": score.value}
        if score.interval and all(map(math.isfinite, score.interval)):
            metric["args"] = {"interval_95": [float(bound) for bound in score.interval]}
        known["metrics"].append(metric)
    return list(results.values())


def _what_it_is(card: Card, kind: Kind) -> str:
    sentences = []
    parameters = card.get("parameters")
    size = f" It has {compact(parameters)} parameters." if parameters else ""
    sentences.append(f"This is {kind.describes}.{size}")
    vision, text = (_inner(card, "model", part) for part in ("vision", "text"))
    if side := vision.get("image_size"):
        sentences.append(f"Pictures become squares of {side} pixels, in patches of {vision.get('patch_size')}.")
    elif most := vision.get("max_num_patches"):
        sentences.append(f"Pictures keep their proportions, in at most {most} patches of {vision.get('patch_size')}.")
    if length := text.get("context_length"):
        sentences.append(f"Texts have at most {length} tokens, of a vocabulary of {text.get('vocab_size', 0):,}.")
    begun = [_config(card, "model", name) for name in ("pretrained", "pretrained_image", "pretrained_text")]
    if begun := [str(name) for name in begun if name]:
        sentences.append(f"Training began from {_and([as_code(name) for name in begun])}.")
    elif _inner(card, "config", "model"):
        sentences.append("Training began from fresh weights.")
    return " ".join(sentences)


def _picture(stated: Stated) -> str:
    rows = [f"{number}. {in_text(caption)}" for number, caption in enumerate(stated.captions, 1)]
    says = "Captions drawn at random, a row each, and the held-out pictures that the model finds first for them; the "
    return "\n".join([f"![What the model finds]({stated.picture})", "", says + "right ones are framed.", "", *rows])


def _data(card: Card) -> str:
    data = card.get("data") or {}
    said = data.get("said")
    train_data = _config(card, "data", "train_data")
    known = (
        f"It was trained on {as_code(train_data)}." if train_data else "The run does not say what it was trained on."
    )
    sentences = [f"{in_text(said)}." if said else known]
    seen, planned = card.get("examples_seen"), card.get("examples_planned")
    if seen:
        early = f", of {planned:,} that were planned" if planned and planned != seen else ""
        sentences.append(f"Training saw {seen:,} examples{early}.")
    if share := _config(card, "data", "english_share"):
        sentences.append(f"{100 * share:.3g}% of the captions were drawn in English.")
    if _config(card, "data", "augment"):
        sentences.append("Pictures were zoomed, shifted, turned and recoloured at random.")
    return " ".join(sentences)


def _recipe(card: Card, scores: Scores) -> str:
    optimization = _inner(card, "config", "optimization")
    stage = _stages(card)[0] if len(_stages(card)) == 1 else card.get("stage", {})
    rows = [
        ("backend", card.get("backend")),
        ("device", (card.get("device") or "CPU") if "device" in card else None),
        ("losses", ", ".join(f"{name} × {weight:g}" for name, weight in stage.get("losses", {}).items())),
        *((name.replace("_", " "), optimization.get(name)) for name in _OPTIMIZATION),
        ("precision", _config(card, "model", "precision")),
        ("seed", card.get("seed")),
        ("best evaluation", _best(scores)),
        ("begun", card.get("start_time")),
        ("restarts", len(card["restarts"]) if "restarts" in card else None),
        ("versions", ", ".join(f"{name} {number}" for name, number in card.get("versions", {}).items() if number)),
        ("commit", _commit(card)),
    ]
    told = [(name, f"{value:,}" if isinstance(value, int) else value) for name, value in rows]
    lines = [f"| {name} | {in_text(value)} |" for name, value in told if value not in (None, "", {}, [])]
    config = json.dumps(plain(card.get("config", {})), indent=2, ensure_ascii=False)
    return (
        f"```text\n{fenced(command_text(card) or 'its command is not known')}\n```\n\n"
        + "\n".join(["| | |", "|---|---|", *lines])
        + f"\n\n<details><summary>Every option</summary>\n\n```json\n{fenced(config)}\n```\n\n</details>"
    )


_OPTIMIZATION = (
    *("examples", "batch_size", "optimizer", "learning_rate", "weight_decay", "schedule", "warmup_examples"),
    *("grad_clip_norm", "ema_decay"),
)


def _best(scores: Scores) -> str | None:
    best = scores.get("best")
    return f"{best['by']} {significant(best['value'], 4)} after {best['examples']:,} examples" if best else None


def _commit(card: Card) -> str | None:
    git = card.get("git")
    return f"{git['commit'][:12]}{', with changes' if git.get('dirty') else ''}" if git else None


def _results(scores: Sequence[Score], by: str) -> str:
    retrieval = any(score.task == RETRIEVAL for score in scores)
    says = " Captions look for their pictures, where nothing else is said." if retrieval else ""
    parts = [f"{by}{says}", _table([score for score in scores if score.headline])]
    if rest := [score for score in scores if not score.headline]:
        parts.append(f"<details><summary>Each language</summary>\n\n{_table(rest)}\n\n</details>")
    return "\n\n".join(parts)


def _table(scores: Sequence[Score]) -> str:
    lines = ["| measured on | metric | value | 95% interval | chance | over |", "|---|---|---|---|---|---|"]
    for score in scores:
        within = " to ".join(score.shown(bound) for bound in score.interval) if score.interval else ""
        chance = score.shown(score.chance) if score.chance is not None else ""
        cells = (in_text(score.measured), score.metric, score.shown(score.value), within, chance, score.examples)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _limits(scores: Scores, found: Sequence[Score]) -> str:
    sentences = [f"- {in_text(warning)}" for warning in scores.get("warnings", ())]
    if scores.get("stopped_early"):
        sentences.append("- Training ended early, because nothing got better for some evaluations.")
    if found:
        sentences.append("- It was judged on the sets above and on nothing else. On other pictures it may do worse.")
    else:
        sentences.append("- No score of it is known.")
    codes = languages_of(found)
    if codes:
        sentences.append(f"- Texts were judged in {len(codes)} language{'s' * (len(codes) > 1)}: {', '.join(codes)}.")
    sentences.append(
        "- What it learned from data with people it may repeat about them. Nothing here measures that; "
        "`recipes.fairness` does."
    )
    return "\n".join(sentences)


def _licence(card: Card, stated: Stated) -> str:
    data = (card.get("data") or {}).get("licence")
    said = (
        f"The weights are under {in_text(stated.license)}."
        if stated.license
        else "No licence was stated for these weights, which permits nothing: ask who published them."
    )
    return f"{said} {in_text(data)}" if data else said


def _section(title: str, content: str) -> str:
    return f"## {title}\n\n{content}"


def _stages(card: Card) -> list[Mapping[str, Any]]:
    return [card["stage"]] if card.get("stage") else list(_inner(card, "config").get("stages", ()))


def _inner(card: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    for name in names:
        card = card.get(name) or {}
        if not isinstance(card, Mapping):
            return {}
    return card


def _config(card: Card, group: str, name: str) -> Any:
    return _inner(card, "config", group).get(name)


def _and(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def is_unedited(text: str) -> bool:
    """Whether a card is as `model_card` wrote it, so that one of today may take its place."""
    found = _SEAL.search(text)
    return found is not None and found[1] == _digest(text[: found.start()])


def _sealed(text: str) -> str:
    return f"{text}\n<!-- As written by diptych: {_digest(text)} -->\n"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


_SEAL = re.compile(r"\n<!-- As written by diptych: ([0-9a-f]{16}) -->\n\Z")
