"""The beginning of what commands store of their results."""

from diptych import backends
from diptych.core.evaluation.judged import Header, JudgedModel
from diptych.core.training.card import plain, versions
from diptych.engine.embedding.stored_embeddings import StoredEmbeddings


def header(format: str, version: int, options: object) -> Header:
    """Of results in a format, that a command with these options found here."""
    return {
        "format": format,
        "version": version,
        "options": plain(options),
        "backend": backends.name(),
        "device": backends.device_name(),
        "versions": versions(backends.name()),
    }


def judged_model(name: str, store: StoredEmbeddings) -> JudgedModel:
    """The model behind stored embeddings, as results name it."""
    encoder = store.encoder
    return {
        "name": name,
        "fingerprint": store.fingerprint,
        "parameters": int(encoder.model.count_params()),
        "dim": encoder.dim,
        "logit_scale": encoder.logit_scale,
        "logit_bias": encoder.logit_bias,
    }
