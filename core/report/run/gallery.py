"""A gallery of finds: nearest images of captions in several scripts, nearest captions of images, sure mistakes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diptych.core.evaluation.retrieval import first_relevant_ranks, relevant_by_label
from diptych.core.report.charts.axes import probability
from diptych.core.report.charts.markup import Markup, caption_text, element
from diptych.core.report.charts.numbers import shown
from diptych.core.report.charts.thumbnails import Thumbnails
from diptych.core.report.language_names import language_name
from diptych.core.report.run.contents import Samples
from diptych.core.report.run.score_figures import pair_probability

# Languages of other scripts, in the order in which they are tried: Arabic, Devanagari, Japanese, Cyrillic, Thai,
# Hebrew, ...
SHOWCASE_LANGUAGES = ("ar", "hi", "ja", "uk", "th", "he", "ko", "el", "zh", "bn", "te", "fa", "de", "fr", "sw", "vi")
# Texts among which the surest mistakes are sought: more would cost more than the rest of the report.
MISTAKE_QUERIES = 5_000


@dataclass(frozen=True)
class Answer:
    """One query with its nearest items, best first, and the rank of the right one."""

    query: int
    nearest: tuple[int, ...]
    rank: int


def choose_queries(samples: Samples, *, in_main: int, in_others: int, seed: int = 0) -> list[int]:
    """Random texts: some of the main language, then one of each further language, preferring other scripts.

    The choice depends on the seed and on the data, never on the answers.
    """
    rng = np.random.default_rng(seed)
    has_image = np.isin(samples.text_labels, samples.image_labels)
    main = samples.in_language()
    main_language = samples.languages[main[0]]
    chosen = rng.permutation(main[has_image[main]])[:in_main].tolist()
    there = dict.fromkeys(samples.languages)
    others = [code for code in SHOWCASE_LANGUAGES if code in there]
    others += [code for code in there if code not in others]
    used = set(samples.text_labels[chosen].tolist())
    for code in [code for code in others if code != main_language][:in_others]:
        of_language = samples.in_language(code)
        texts = rng.permutation(of_language[has_image[of_language]]).tolist()
        fresh = [text for text in texts if int(samples.text_labels[text]) not in used] or texts
        if fresh:
            chosen.append(fresh[0])
            used.add(int(samples.text_labels[fresh[0]]))
    return chosen


def nearest_images(samples: Samples, texts: Sequence[int], *, count: int) -> list[Answer]:
    """The images of largest cosine for each text."""
    query = samples.text_embeddings[list(texts)]
    relevant = relevant_by_label(samples.text_labels[list(texts)], samples.image_labels)
    return _answers(texts, query, samples.image_embeddings, relevant, count, np.arange(len(samples.image_embeddings)))


def nearest_captions(samples: Samples, images: Sequence[int], among: np.ndarray, *, count: int) -> list[Answer]:
    """The texts of largest cosine for each image, among the texts of the indices `among`."""
    query = samples.image_embeddings[list(images)]
    relevant = relevant_by_label(samples.image_labels[list(images)], samples.text_labels[among])
    return _answers(images, query, samples.text_embeddings[among], relevant, count, among)


def sure_mistakes(samples: Samples, *, count: int) -> list[Answer]:
    """Main-language texts whose nearest image is wrong, those with the largest cosine first, of at most
    `MISTAKE_QUERIES`.
    """
    texts = samples.in_language()
    texts = texts[np.isin(samples.text_labels[texts], samples.image_labels)]
    answers = nearest_images(samples, texts[:MISTAKE_QUERIES].tolist(), count=1)
    wrong = [a for a in answers if samples.image_labels[a.nearest[0]] != samples.text_labels[a.query]]
    wrong.sort(key=lambda a: -float(samples.image_embeddings[a.nearest[0]] @ samples.text_embeddings[a.query]))
    return wrong[:count]


def image_gallery(samples: Samples, thumbnails: Thumbnails, answers: Sequence[Answer]) -> Markup:
    """Rows of a caption and its nearest images; the right one has a green frame."""
    rows = [
        element("li", _caption_head(samples, answer), _strip(samples, thumbnails, answer), class_="find")
        for answer in answers
    ]
    return element("ul", rows, class_="finds")


def compared_gallery(
    thumbnails: Thumbnails, before: tuple[Samples, Sequence[Answer]], after: tuple[Samples, Sequence[Answer]]
) -> Markup:
    """Rows of a caption and its nearest images, those before training on the left and those after it on the right."""
    rows = []
    for answers in zip(before[1], after[1], strict=True):
        sides = [
            element(
                "div",
                element("p", word, _rank(answer.rank), class_="side"),
                _strip(samples, thumbnails, answer),
            )
            for word, (samples, _), answer in zip(("before", "after"), (before, after), answers, strict=True)
        ]
        query = answers[0].query
        head = element(
            "p", caption_text(after[0].captions[query], limit=90), _chip(after[0].languages[query]), class_="query"
        )
        rows.append(element("li", head, element("div", sides, class_="two-columns")))
    return element("ul", rows, class_="compared")


def _strip(samples: Samples, thumbnails: Thumbnails, answer: Answer) -> Markup:
    """The nearest images of a caption side by side; the right one has a green frame."""
    label = samples.text_labels[answer.query]
    pictures = []
    for image in answer.nearest:
        right = samples.image_labels[image] == label
        cosine = float(samples.image_embeddings[image] @ samples.text_embeddings[answer.query])
        about = f"{'right' if right else 'not the one'}, cosine {cosine:.2f}"
        if samples.logit_bias is not None:
            about += f", p = {probability(float(pair_probability(samples, cosine)))}"
        pictures.append(thumbnails.picture(image, about, "right" if right else ""))
    return element("div", pictures, class_="strip")


def caption_gallery(
    samples: Samples, thumbnails: Thumbnails, answers: Sequence[Answer], *, with_language: bool
) -> Markup:
    """Images with their nearest captions; the right ones are marked."""
    rows = []
    for answer in answers:
        label = samples.image_labels[answer.query]
        lines = []
        for text in answer.nearest:
            right = samples.text_labels[text] == label
            lines.append(
                element(
                    "li",
                    element("span", "✓" if right else "", class_="tick-mark", aria_label="right" if right else None),
                    caption_text(samples.captions[text], limit=80),
                    _chip(samples.languages[text]) if with_language else None,
                    class_="right" if right else None,
                )
            )
        rows.append(
            element(
                "li",
                thumbnails.picture(answer.query, "query image"),
                element("div", element("ol", lines), _rank(answer.rank), class_="captions"),
                class_="described",
            )
        )
    return element("ul", rows, class_="describeds")


def mistake_gallery(samples: Samples, thumbnails: Thumbnails, answers: Sequence[Answer]) -> Markup:
    """Caption, the image that was found, and the right one beside it, with probabilities or else cosines."""
    rows = []
    for answer in answers:
        right = int(np.flatnonzero(samples.image_labels == samples.text_labels[answer.query])[0])
        parts = []
        for image, frame, word in ((answer.nearest[0], "wrong", "found"), (right, "right", "meant")):
            cosine = float(samples.image_embeddings[image] @ samples.text_embeddings[answer.query])
            score = shown(cosine, f"{cosine:.2f}")
            if samples.logit_bias is not None:
                likely = float(pair_probability(samples, cosine))
                score = shown(likely, probability(likely))
            parts.append(
                element(
                    "span",
                    thumbnails.picture(image, f"{word}, cosine {cosine:.2f}", frame),
                    element("small", word, " ", score),
                    class_="half",
                )
            )
        head = element("p", caption_text(samples.captions[answer.query], limit=80), class_="query")
        rows.append(element("li", head, element("div", parts, class_="halves"), class_="mistake"))
    return element("ul", rows, class_="mistakes")


def _answers(
    queries: Sequence[int],
    query: np.ndarray,
    gallery: np.ndarray,
    relevant: list[np.ndarray],
    count: int,
    names: np.ndarray,
) -> list[Answer]:
    # A query whose item is missing from the gallery is shown without a rank.
    known = np.array([len(right) > 0 for right in relevant], dtype=bool)
    ranks = np.zeros(len(relevant), dtype=np.int64)
    if known.any():
        ranks[known] = first_relevant_ranks(query[known], gallery, [right for right in relevant if len(right)])
    answers, count = [], min(count, len(gallery))
    for start in range(0, len(query), 256):
        scores = query[start : start + 256] @ gallery.T
        best = np.argpartition(-scores, count - 1, axis=1)[:, :count]
        order = np.take_along_axis(best, np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1), axis=1)
        for place, row in enumerate(order, start):
            answers.append(Answer(int(queries[place]), tuple(int(names[item]) for item in row), int(ranks[place])))
    return answers


def _caption_head(samples: Samples, answer: Answer) -> Markup:
    return element(
        "p",
        caption_text(samples.captions[answer.query], limit=90),
        _chip(samples.languages[answer.query]),
        _rank(answer.rank),
        class_="query",
    )


def _chip(language: str) -> Markup | None:
    return None if language == "und" else element("span", language_name(language), class_="chip")


def _rank(rank: int) -> Markup | None:
    if rank < 1:
        return None
    return element("span", "rank ", shown(rank, f"{rank:,}"), class_="rank first" if rank == 1 else "rank")
