"""A PaliGemma judged on questions whose answers are known: VQA, charts, documents, captions, referring expressions.

Command:   python -m recipes.judge_answers --model FOLDER --data test.jsonl --metric exact vqa
VQAv2:     python -m recipes.judge_answers --model FOLDER --data v2_OpenEnded_mscoco_val2014_questions.json
RefCOCO:   python -m recipes.judge_answers --model FOLDER --data "refcoco/refs(unc).p#testA"
Captions:  python -m recipes.judge_answers --model FOLDER --data captions_val2017.json --beams 2

The questions are lines of JSON, {"image": "1.jpg", "prefix": "answer en what is it?", "suffix": "a cat"}, with
"answers" in place of "suffix" where there are several, or a data set as it is downloaded, or a folder with one:
docs/paligemma.md lists the layouts, which are told apart by what the files hold. Prints a line for each metric and
writes --output. Answers are kept beside it as they come: stop it whenever you like, the same command goes on.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from diptych.core.data.ledger import reasons_with_names
from diptych.core.evaluation.answer_metrics import answer_score
from diptych.core.files.json_objects import write_json
from diptych.core.report.ledger_text import tell_left_out
from diptych.core.training.signals import StopSignals
from diptych.engine.command_line import parse
from diptych.engine.failures import exit_status, stoppable
from diptych.engine.flags import check_least

FORMAT, VERSION = "diptych-answers", 1


@dataclass(frozen=True, kw_only=True)
class JudgeAnswers:
    """Which model is asked what, and how its answers are compared."""

    model: str = ""
    """A PaliGemma with its processor: a folder, or hf://owner/name."""
    data: str = ""
    """Questions with their answers: a file of lines, a data set's files, or a folder; or pictures with captions."""
    prompt: str = "caption en"
    """What is asked about pictures with captions."""
    metric: tuple[Literal["exact", "vqa", "okvqa", "relaxed", "anls", "boxes", "exact_or_box", "cider"], ...] = ()
    """One or several; by default as the data set is judged, and otherwise exact."""
    lower_case: bool = False
    """Compare in lower case, where the data set does not say so itself, as DocVQA and ChartQA do."""
    steps: int = 64
    """Tokens of an answer, at most."""
    beams: int | None = None
    """Search for the most probable answers with so many beams; by default the likeliest tokens are taken."""
    dtype: str | None = None
    """"bfloat16" for weights of half the memory, "int8" for a quarter; by default float32."""
    batch_size: int = 8
    """Examples that the model takes at a time."""
    output: Path = Path("runs/judge_answers/results.json")
    """Results; the answers are kept beside it, as .jsonl."""

    def __post_init__(self):
        check_least(self, steps=1, batch_size=1, beams=1)


def main(arguments: list[str] | None = None) -> int:
    """Judges; returns the exit status."""
    options = parse(JudgeAnswers(), arguments, program="python -m recipes.judge_answers", description=__doc__)

    def imported_and_judged() -> int:
        from diptych.engine.answering import Answerer

        return stoppable(lambda stop: judge_answers(options, Answerer.open, stop))

    return exit_status(imported_and_judged, options)


def judge_answers(options: JudgeAnswers, open_answerer: Callable[..., Any], stop: StopSignals) -> int:
    """Everything after the command line. `open_answerer` is `Answerer.open`."""
    from diptych.engine.datasets.questions import judged_questions
    from diptych.engine.judging.header import header
    from diptych.engine.judging.kept_answers import kept_answers

    if not options.model or not options.data:
        raise ValueError("nothing to judge: give --model FOLDER --data test.jsonl.")
    source = judged_questions(options.data, prompt=options.prompt)
    numbers = {len(question.images) for question in source.questions}
    if len(numbers) > 1:
        raise ValueError(
            f"{options.data} has questions about {' and '.join(map(str, sorted(numbers)))} pictures, expected as "
            "many in each. Put those of unequal numbers into files of their own."
        )
    with stop.leaving_at_once():
        answerer = open_answerer(options.model, dtype=options.dtype, pictures=max(numbers))
        told = kept_answers(
            answerer,
            source,
            options.output.with_suffix(".jsonl"),
            model=options.model,
            steps=options.steps,
            beams=options.beams,
            dtype=options.dtype,
            batch_size=options.batch_size,
            stop=stop,
        )
    places = sorted(told)
    if not places:
        reasons = reasons_with_names(source.ledger.skipped.values())
        raise ValueError(f"none of {len(source):,} questions could be asked: {reasons}.")
    answers = [told[place] for place in places]
    truths = [source.questions[place].answers for place in places]
    results, each = [], {}
    lower_case = options.lower_case or source.judged.lower_case
    for metric in options.metric or source.judged.metrics:
        score, each[metric] = answer_score(metric, answers, truths, lower_case=lower_case)
        low, high = score["interval"]
        print(f"{metric}: {score['value']:.4f} ({low:.4f} to {high:.4f}) of {score['questions']:,} questions")
        results.append(score)
    listed = [
        {
            "question": place + 1,
            "prompt": source.questions[place].prompt,
            "answer": answer,
            "truths": list(source.questions[place].answers),
            **{metric: float(scores[number]) for metric, scores in each.items()},
        }
        for number, (place, answer) in enumerate(zip(places, answers, strict=True))
    ]
    write_json(options.output, {**header(FORMAT, VERSION, options), "results": results, "answers": listed})
    tell_left_out([source.ledger])
    print(f"Results: {options.output}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
