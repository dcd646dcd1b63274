"""The section of a language model: bits a byte beside counting and compressing, and what it writes."""

from diptych.core.evaluation.language import LanguageResult
from diptych.core.report.charts.layout import lead
from diptych.core.report.charts.markup import Markup, element, join
from diptych.core.report.charts.numbers import shown
from diptych.core.report.run.contents import ReportData

MOST_WRITTEN = 600
"""Characters of a sample that are shown."""


def language(data: ReportData) -> tuple[str, str, Markup] | None:
    """What the model needs for texts that it has not seen, and samples."""
    if not data.language:
        return None
    says = "Bits for each byte of texts that were never trained on, as the vocabulary spells them; fewer are better."
    parts = [lead("Texts", says)]
    parts += [_table(name, result) for name, result in data.language.items()]
    if data.written:
        samples = [
            element("p", element("b", prompt[:MOST_WRITTEN]), " ", text[:MOST_WRITTEN]) for prompt, text in data.written
        ]
        heading = element("h3", "Samples")
        note = element("p", "The beginning was given, the rest is drawn from the model.", class_="says")
        parts.append(element("div", heading, note, samples, class_="panel below"))
    return "texts", "Texts", join(parts)


def language_tile(name: str, result: LanguageResult) -> Markup:
    """The number that stands for a language model."""
    best = min(result["baselines"].items(), key=lambda item: item[1], default=None)
    note = f"{best[0]}: {best[1]:.3f}" if best else f"perplexity {result['perplexity']:,.1f} a token"
    value = shown(result["bits_per_byte"], f"{result['bits_per_byte']:.3f}")
    title = element("dt", element("small", "Bits a byte"), name)
    return element("div", title, element("dd", value, element("span", note, class_="note")))


def _table(name: str, result: LanguageResult) -> Markup:
    rows = [("This model", result["bits_per_byte"]), *result["baselines"].items()]
    lines = [
        element("tr", element("th", label, scope="row"), element("td", shown(bits, f"{bits:.3f}"), class_="number"))
        for label, bits in rows
    ]
    perplexity = result["perplexity"]
    said = ["Perplexity ", shown(perplexity, f"{perplexity:,.2f}"), f" a token, of {result['tokens']:,}."]
    table = element("table", element("tbody", lines))
    return element("div", element("h3", name), element("p", said, class_="says"), table, class_="panel half-width")
