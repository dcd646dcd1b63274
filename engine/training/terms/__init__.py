"""The terms that stages can weigh, by name; a run may be given more (`engine.training.run.run`)."""

from collections.abc import Mapping

from diptych.engine.training.terms.answering import Answering
from diptych.engine.training.terms.captioning import Captioning
from diptych.engine.training.terms.classification import Classification
from diptych.engine.training.terms.contrastive import Contrastive
from diptych.engine.training.terms.distillation import Distillation
from diptych.engine.training.terms.language import Language
from diptych.engine.training.terms.masked_prediction import MaskedPrediction
from diptych.engine.training.terms.stage_term import StageTerm
from diptych.engine.training.terms.suffix import Suffix

TERMS: Mapping[str, type[StageTerm]] = {
    "contrastive": Contrastive,
    "captioning": Captioning,
    "distillation": Distillation,
    "masked_prediction": MaskedPrediction,
    "classification": Classification,
    "answering": Answering,
    "language": Language,
    "suffix": Suffix,
}
