"""The model card beside a run's model: written at the end of a stage, and anew with what a person states."""

from pathlib import Path

from diptych.core.evaluation.judged import Evaluated
from diptych.core.report.model_card import MODEL_CARD, Stated, is_unedited, model_card
from diptych.core.training.card import Card
from diptych.core.training.results import Scores, read_results
from diptych.core.training.run_folder import RunFolder


def write_model_card(stage: Path, card: Card, scores: Scores) -> None:
    """Puts a README.md beside the model of a stage that has ended, unless somebody has edited the one that is there.

    Args:
        stage: the folder of the run, or of one of its stages; its model lies in `model/`.
        card: of the stage.
        scores: what it scored.
    """
    path = stage / "model" / MODEL_CARD
    if not path.exists() or is_unedited(path.read_text(encoding="utf-8")):
        path.write_text(model_card(card, scores, Stated(name=stage.resolve().name)), encoding="utf-8")


def stated_card(model: Path, stated: Stated, judged: Evaluated | None = None) -> str:
    """The README.md of a model that goes elsewhere: the edited one that lies beside it, or one of what its run knows
    and the person states.

    Args:
        model: `model/` or `best/` of a stage, or another folder of a checkpoint. What the stage scored is its last
            model's, and left out for its best.

    Raises:
        ValueError: for a folder of no run that has no README.md, and for statements where one was edited.
    """
    path = model / MODEL_CARD
    kept = path.read_text(encoding="utf-8") if path.is_file() else None
    card = RunFolder(model.parent).read_card() if (model.parent / "card.json").is_file() else None
    if kept is not None and (card is None or not is_unedited(kept)):
        if stated.license or stated.datasets or stated.picture or judged:
            raise ValueError(
                f"{path} was not written by diptych, or was edited since, and is uploaded as it is: write licence, "
                "datasets and scores into it, or move it away to have one made of what the run knows."
            )
        return kept
    if card is None:
        raise ValueError(
            f"{model} has no {MODEL_CARD} and belongs to no run of which one could be made. Write one that says what "
            "the model is, what it was trained on and who may use it."
        )
    results = RunFolder(model.parent).results
    ended = model.name == "model" and results.is_file()
    scores = next(iter(read_results(results).values())) if ended else {}
    return model_card(card, scores, stated, judged=judged)
