"""The page of dense features: segmentation, depth, neighbours and located phrases, with pictures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self, TypedDict, cast

from diptych.core.evaluation.depth_probe import DepthProbeResult
from diptych.core.evaluation.localization import LocalizationResult
from diptych.core.evaluation.neighbours import NeighboursResult
from diptych.core.evaluation.segmentation_probe import SegmentationProbeResult
from diptych.core.evaluation.segmentation_scores import ClassIou
from diptych.core.report import box_gallery, patch_pictures, segmentation_pictures
from diptych.core.report.charts.layout import lead
from diptych.core.report.charts.markup import Markup, element, join
from diptych.core.report.charts.numbers import percent, shown, significant
from diptych.core.report.charts.sheet import bar, sheet

STYLE = """
.wide-table td:first-child,.wide-table th:first-child{padding-right:24px;min-width:7.5em}
.wide-table thead th{color:var(--muted);font-weight:450;white-space:nowrap}
.wide-table th.number,.wide-table td.number{padding-left:16px}
ul.class-bars{list-style:none;margin:0;padding:0;display:grid;gap:8px 26px;
  grid-template-columns:repeat(auto-fill,minmax(170px,1fr));font-size:13.5px}
.class-bars li{display:grid;grid-template-columns:minmax(0,1fr) auto;gap:2px 8px}
.class-bars .bar-of{grid-column:1/-1}
.class-bars data,.class-bars small{color:var(--muted);font-size:12.5px}
"""


class DenseResults(TypedDict, total=False):
    """What frozen features tell, each kind by the name of the set, JSON-ready; any kind may be missing."""

    segmentation: dict[str, SegmentationProbeResult]
    depth: dict[str, DepthProbeResult]
    neighbours: dict[str, NeighboursResult]
    localization: dict[str, LocalizationResult]


def of_all_kinds(results: DenseResults) -> dict[str, dict[str, dict[str, Any]]]:
    """The same value, for whoever treats all kinds alike: kind -> name of the set -> numbers."""
    return cast(dict[str, dict[str, dict[str, Any]]], results)


@dataclass(frozen=True, kw_only=True)
class DensePictures:
    """What the page shows; an empty part is left out."""

    patches: Sequence[patch_pictures.PatchPicture] = ()
    segmentation: Sequence[segmentation_pictures.SegmentationPicture] = ()
    class_names: Sequence[str] = ()  # of `segmentation`
    located: Sequence[box_gallery.Located] = ()

    def beside(self, others: Self) -> Self:
        """These pictures, and those of others in parts that are empty here."""
        parts = {part.name: getattr(self, part.name) or getattr(others, part.name) for part in fields(self)}
        return type(self)(**parts)


def dense_page(
    results: DenseResults,
    pictures: DensePictures | None = None,
    *,
    title: str = "Dense and localization",
    summary: str = "What the features of patches tell, frozen, and where phrases were found.",
) -> str:
    """An HTML document that loads nothing and runs nothing.

    Args:
        results: of any kinds.
        pictures: what is shown of them.
        title: the headline.
        summary: the sentence under it.

    Raises:
        ValueError: a kind of result that is none of these.
    """
    return sheet(title, [summary], dense_sections(results, pictures))


def dense_sections(results: DenseResults, pictures: DensePictures | None = None) -> list[Markup]:
    """The sections of `dense_page`, for a page that shows more; they bring their style with them."""
    kinds = DenseResults.__annotations__
    unknown = sorted(set(results) - set(kinds))
    if unknown:
        raise ValueError(f"results must be of {', '.join(kinds)}, got {', '.join(unknown)}.")
    pictures = pictures or DensePictures()
    style = STYLE + box_gallery.STYLE + patch_pictures.STYLE + segmentation_pictures.STYLE
    sections = []
    if pictures.patches:
        says = (
            "The first three principal components of the patches' features as red, green and blue: patches that the "
            "model finds alike have one colour in all pictures."
        )
        sections.append(join([lead("Features of patches", says), patch_pictures.patch_figure(pictures.patches)]))
    if (segmented := results.get("segmentation", {})) or pictures.segmentation:
        sections.append(_segmentation(segmented, pictures))
    if depths := results.get("depth"):
        sections.append(_depth(depths))
    if classified := results.get("neighbours"):
        sections.append(_neighbours(classified))
    if (found := results.get("localization", {})) or pictures.located:
        sections.append(_localization(found, pictures))
    first = Markup(element("style", Markup(style)))
    return [Markup(first + sections[0]), *sections[1:]] if sections else []


def _segmentation(results: Mapping[str, SegmentationProbeResult], pictures: DensePictures) -> Markup:
    header = ("set", "mean IoU", "95%", "pixel accuracy", "largest class", "classes", "images")
    rows = [
        (
            f"{name}{', with the pooled vector' if result.get('pooled') else ''}",
            _share(result["mean_iou"]),
            _within(result["interval"], percent),
            _share(result["pixel_accuracy"]),
            _share(result["chance"]),
            f"{result['classes']:,}",
            f"{result['images']:,}",
        )
        for name, result in results.items()
    ]
    says = (
        "A linear layer on frozen features of patches, its logits interpolated to the pixels. "
        "The largest class: what answering it everywhere would reach."
    )
    parts = [lead("Segmentation", says), _table(header, rows)]
    parts += [_class_bars(name, result["per_class"]) for name, result in results.items()]
    if pictures.segmentation:
        figure = segmentation_pictures.segmentation_figure(pictures.segmentation, pictures.class_names)
        parts.append(_panel("Pictures", figure))
    return join(parts)


def _depth(results: Mapping[str, DepthProbeResult]) -> Markup:
    header = (
        "set",
        "RMSE, metres",
        "95%",
        "mean of the images'",
        "relative error",
        "within 25%",
        "mean depth",
        "images",
    )
    rows = [
        (
            f"{name}{', with the pooled vector' if result.get('pooled') else ''}",
            shown(result["rmse"], significant(result["rmse"])),
            _within(result["interval"], significant),
            shown(result["rmse_by_image"], significant(result["rmse_by_image"])),
            _share(result["abs_rel"]),
            _share(result["delta1"]),
            shown(result["chance"], significant(result["chance"])),
            f"{result['images']:,}",
        )
        for name, result in results.items()
    ]
    says = (
        "A linear map of frozen features of patches to depth. "
        "Smaller errors are better; the mean depth: the RMSE of answering it everywhere."
    )
    return join([lead("Depth", says), _table(header, rows)])


def _neighbours(results: Mapping[str, NeighboursResult]) -> Markup:
    header = ("set", "top-1", "95%", "mean of classes", "largest class", "neighbours", "classes", "images")
    rows = [
        (
            name,
            _share(result["accuracy"]),
            _within(result["interval"], percent),
            _share(result["mean_class_accuracy"]),
            _share(result["chance"]),
            f"{result['k']:,}",
            f"{len(result['class_names']):,}",
            f"{result['images']:,}",
        )
        for name, result in results.items()
    ]
    says = "The classes of the most similar training images vote, the nearer the louder; nothing is trained."
    return join([lead("Nearest neighbours", says), _table(header, rows)])


def _localization(results: Mapping[str, LocalizationResult], pictures: DensePictures) -> Markup:
    header = ("set", "accuracy", "95%", "at IoU", "mean IoU", "95%", "no box", "phrases")
    rows = [
        (
            name,
            _share(result["accuracy"]),
            _within(result["interval"], percent),
            f"{result['threshold']:g}",
            _share(result["mean_iou"]),
            _within(result["mean_iou_interval"], percent),
            f"{result['unparsable']:,}",
            f"{result['phrases']:,}",
        )
        for name, result in results.items()
    ]
    says = (
        "A phrase is right where the predicted box overlaps the true one by the given intersection over union. "
        "An answer that is no box is wrong."
    )
    parts = [lead("Localization", says), _table(header, rows)]
    if pictures.located:
        parts.append(_panel("Phrases and boxes", box_gallery.box_gallery(pictures.located)))
    return join(parts)


def _class_bars(name: str, per_class: Sequence[ClassIou]) -> Markup:
    known = [(row["iou"], row["class"]) for row in per_class if row["iou"] is not None]
    found = sorted(known, key=lambda each: -each[0])
    items = [
        element("li", element("span", class_name), shown(iou, percent(iou)), bar(iou)) for iou, class_name in found
    ]
    absent = len(per_class) - len(found)
    says = f"{absent:,} classes occur neither in the truth nor in the answers." if absent else None
    return _panel(f"IoU by class, {name}", element("ul", items, class_="class-bars"), says)


def _panel(title: str, content: Markup, says: str | None = None) -> Markup:
    return element(
        "div",
        element("h3", title),
        element("p", says, class_="says") if says else None,
        element("div", content, style="margin-top:10px"),
        class_="panel below",
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> Markup | None:
    if not rows:
        return None
    head = element("tr", [element("th", name, class_="number" if place else None) for place, name in enumerate(header)])
    lines = [
        element("tr", [element("td", cell, class_="number" if place else None) for place, cell in enumerate(row)])
        for row in rows
    ]
    table = element("table", element("thead", head), element("tbody", lines), class_="wide-table")
    return element("div", element("div", table, class_="scroll"), class_="panel")


def _share(value: float) -> Markup:
    return shown(value, percent(value))


def _within(bounds: Sequence[float], written: Callable[[float], str]) -> str:
    return f"{written(bounds[0])} to {written(bounds[1])}"
