"""The section that shows what the model finds."""

import numpy as np

from diptych.core.report.charts.layout import lead
from diptych.core.report.charts.markup import Markup, element, isolated, join
from diptych.core.report.charts.thumbnails import Thumbnails
from diptych.core.report.run.contents import ReportData
from diptych.core.report.run.gallery import (
    caption_gallery,
    choose_queries,
    image_gallery,
    mistake_gallery,
    nearest_captions,
    nearest_images,
    sure_mistakes,
)
from diptych.core.report.run.score_figures import matched


def finds(data: ReportData, thumbnails: Thumbnails | None) -> tuple[str, str, Markup] | None:
    """(anchor, title, content): both retrieval galleries and the surest mistakes; None without pictures."""
    samples = data.samples
    if samples is None or thumbnails is None or not np.isin(samples.text_labels, samples.image_labels).any():
        return None
    queries = choose_queries(samples, in_main=6, in_others=8)
    answers = nearest_images(samples, queries, count=8)
    parts = [
        lead(
            "What it finds",
            f"Random captions and the images nearest to them among {len(samples.image_embeddings):,} "
            f"({isolated(samples.name)}). "
            "A green frame marks the right one. The choice is random, not picked.",
        ),
        element("div", image_gallery(samples, thumbnails, answers), class_="panel"),
    ]
    images, _ = matched(samples, limit=6, seed=1)
    among = samples.in_language()
    in_main = nearest_captions(samples, images.tolist(), among, count=5)
    panels = [
        element("h3", "Image to text"),
        element("p", f"The nearest of {len(among):,} caption{'s' * (len(among) > 1)}.", class_="says"),
        caption_gallery(samples, thumbnails, in_main, with_language=False),
    ]
    if len(set(samples.languages)) > 1:
        more, _ = matched(samples, limit=9, seed=1)
        anywhere = nearest_captions(samples, more[6:].tolist(), np.arange(len(samples.captions)), count=5)
        panels += [
            element(
                "p",
                f"And of {len(samples.captions):,} captions in any language:",
                class_="says",
                style="margin:14px 0 10px",
            ),
            caption_gallery(samples, thumbnails, anywhere, with_language=True),
        ]
    parts.append(element("div", panels, class_="panel below"))
    mistakes = sure_mistakes(samples, count=8)
    if mistakes:
        score = "it" if samples.logit_bias is None else "the probability of a pair"
        panels = [
            element("h3", "Surest mistakes"),
            element("p", f"Wrong first answers of the largest cosine, with {score}.", class_="says"),
            mistake_gallery(samples, thumbnails, mistakes),
        ]
        parts.append(element("div", panels, class_="panel below"))
    return "finds", "What it finds", join(parts)
