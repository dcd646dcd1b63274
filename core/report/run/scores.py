"""The section about the pairwise scores."""

from diptych.core.evaluation.calibration import calibrate
from diptych.core.report.charts.layout import NARROW, lead, legend_figure
from diptych.core.report.charts.markup import Markup, element, join
from diptych.core.report.charts.numbers import percent, shown, significant
from diptych.core.report.charts.thumbnails import Thumbnails
from diptych.core.report.run.contents import ReportData
from diptych.core.report.run.matrix import similarity_matrix
from diptych.core.report.run.score_figures import clouds_figure, histogram_figure, matched, reliability_figure


def scores(data: ReportData, thumbnails: Thumbnails | None) -> tuple[str, str, Markup] | None:
    """(anchor, title, content): similarity matrix, logits, reliability and clouds; None without embeddings of a
    pair, and for a softmax model, which gives a pair no probability.
    """
    samples = data.samples
    if samples is None or thumbnails is None or samples.logit_bias is None:
        return None
    images, texts = matched(samples, limit=24, seed=2)
    if not len(images):
        return None
    measured = calibrate(
        samples.image_embeddings,
        samples.text_embeddings[samples.in_language()],
        samples.image_labels,
        samples.text_labels[samples.in_language()],
        logit_scale=samples.logit_scale,
        logit_bias=samples.logit_bias,
        batch_size=samples.batch_size,
    )
    clouds, cloud_numbers = clouds_figure(samples, width=NARROW, height=300)
    reliability, size = measured["reliability"], measured["batch_size"]
    unseen = any(row["share"] == 0 for row in reliability["bins"])
    matrix = element(
        "figure",
        element("h3", "Similarity"),
        element("p", "Random pairs: each row a caption, each column an image, its own on the diagonal.", class_="says"),
        element("div", similarity_matrix(samples, thumbnails, images, texts, cell=24, names=164), class_="wide"),
        element(
            "div", similarity_matrix(samples, thumbnails, images[:10], texts[:10], cell=24, names=112), class_="narrow"
        ),
        class_="panel wide2",
    )
    numbers = [
        ("Scale t", samples.logit_scale, significant(samples.logit_scale), "factor of the cosines"),
        ("Bias b", samples.logit_bias, significant(samples.logit_bias), "added to the scaled cosines"),
        ("Mean cosine of pairs", cloud_numbers["pair_cosine"], f"{cloud_numbers['pair_cosine']:.3f}", samples.name),
        (
            "AUC",
            measured["auc"],
            f"{measured['auc']:.4f}" if measured["auc"] is not None else "–",
            "a pair scores above a non-pair",
        ),
        (
            "Calibration error",
            reliability["ece"],
            percent(reliability["ece"]),
            f"base rate {percent(reliability['base_rate'])}",
        ),
        (
            "Modality gap",
            cloud_numbers["gap"],
            f"{cloud_numbers['gap']:.3f}",
            "distance between the mean image and the mean caption",
        ),
    ]
    listed = [
        element("div", element("dt", name), element("dd", shown(value, text), element("p", says, class_="says")))
        for name, value, text, says in numbers
        if value is not None
    ]
    panels = [
        matrix,
        element(
            "div",
            element("h3", "In numbers"),
            element("p", "Of this evaluation set.", class_="says"),
            element("dl", listed, class_="numbers"),
            class_="panel",
        ),
        legend_figure(
            "Logits",
            [("pair", "pairs"), ("other", "non-pairs")],
            histogram_figure(measured["histograms"], width=NARROW, height=300),
            f"All cells of random grids of {size} by {size}. The dashed line is a probability of one half.",
        ),
        legend_figure(
            "Reliability",
            [("pair", "measured"), *([("dotted", "at most, no pair seen")] if unseen else [])],
            reliability_figure(reliability, width=NARROW, height=300),
            f"On the dashed line a probability is true. In a grid of {size} only one cell in {size} is a pair, so both "
            "axes are even in log-odds.",
        ),
        legend_figure(
            "Two clouds",
            [("image", "images"), ("text", "captions")],
            clouds,
            f"Pairs are joined. The plane holds {percent(cloud_numbers['variance'])} of the variance.",
        ),
    ]
    heading = lead("Scores", "Is the probability that the model gives to a pair a true one?")
    return "scores", "Scores", join([heading, element("div", panels, class_="grid-of")])
