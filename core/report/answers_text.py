"""Scores of a task's answers, as plain text."""

from collections.abc import Mapping

from diptych.core.evaluation.answering import AnswersResult
from diptych.core.evaluation.task_metrics import Judged

MODEL = "this model"


def answer_rows(result: AnswersResult) -> list[tuple[str, dict[str, Judged]]]:
    """What answers, with its metrics: the model first."""
    return [(MODEL, result["metrics"]), *result["baselines"].items()]


def answers_text(answers: Mapping[str, AnswersResult]) -> str:
    """A table for each set: the metrics, with 95% intervals, of the model and of what needs none."""
    parts = []
    for name, result in answers.items():
        rows = answer_rows(result)
        lines = [f"{name}, {result['examples']:,} examples, with 95% intervals"]
        width = max(len(what) for what, _ in rows)
        for what, metrics in rows:
            cells = "  ".join(f"{metric} {judged_text(one)}" for metric, one in metrics.items())
            lines.append(f"  {what.ljust(width)}  {cells}")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def judged_text(judged: Judged) -> str:
    """A metric and its interval: "0.812 (0.790 to 0.833)"."""
    low, high = judged["interval"]
    return f"{judged['value']:.3f} ({low:.3f} to {high:.3f})"
