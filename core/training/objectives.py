"""Objectives: what a step minimises, as a weighted sum of named terms.

A term that compares examples with each other, as a contrastive loss does, works in two halves: it embeds a batch, and
turns the embeddings of all its examples into a loss. So a step can embed a large batch in pieces and still contrast
every pair of it. A term whose examples are independent of each other needs no such care: its loss is the mean over the
pieces.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import keras
from keras import ops

from diptych.core.data.pixels import Normalization
from diptych.core.training.whole_batch import seen_through, whole_batch

Tensors = dict[str, Any]
"""Tensors of the framework that Keras runs, by name; the names are those of whoever makes them."""


class Mean(NamedTuple):
    """A mean over the examples that count, as two means over all: of a batch in pieces each is the mean over these.

    Attributes:
        total: of what counts, 0 for an example that does not.
        share: of the examples that count.
    """

    total: Any
    share: Any


class Loss(NamedTuple):
    """Of a term or of an objective.

    Attributes:
        value: float32 scalar.
        logs: scalars worth logging, by name; of a term's independent examples each is a mean over all, or a `Mean` over
            some, which a total has divided.
        updates: new values of untrained variables, by their names; they are taken up after the optimizer's step.
    """

    value: Any
    logs: Tensors = {}
    updates: Tensors = {}


class Seen:
    """A batch, and what a model makes of it: computed when a term first asks for it, and shared by all terms.

    Nothing is locked meanwhile (as Python's `cached_property` does before 3.12): replicas of tensorflow are traced in
    threads that wait for each other.

    Args:
        model: with `image_features` and `text_features` (`diptych.models.two_towers.TwoTowers`), or with `predicting`
            (`diptych.models.language_model.TextPredictor`), where a term asks for them.
        batch: its fields, on the device.
    """

    def __init__(self, model, batch: Tensors):
        self.model, self.batch = model, batch
        self._once: dict[str, Any] = {}

    def once(self, name: str, compute: Callable[[], Any]) -> Any:
        """What `compute` gives, for the first term that asks for it by this name and for all that follow."""
        if name not in self._once:
            self._once[name] = compute()
        return self._once[name]

    @property
    def image(self) -> Tensors:
        """The image tower's {"pooled", "tokens", "mask"}; of pictures that are embedded already, "pooled" alone."""
        return self.once("image", self._image)

    @property
    def captions(self) -> "Captions":
        """The texts, as one list."""
        return self.once("captions", lambda: Captions(self.batch["text"]))

    @property
    def text(self) -> Tensors:
        """The text tower's {"pooled", "tokens"} of the list of texts."""
        return self.once("text", lambda: self.model.text_features(self.captions.token_ids, training=True))

    def _predicting(self) -> Any:
        pictures = image_inputs(self.batch, normalization_of(self.model)) if "image" in self.batch else {}
        return self.model.predicting({**self.batch, **texts_of(self.batch), **pictures})

    def _image(self) -> Tensors:
        if "image_features" in self.batch:
            return {"pooled": self.batch["image_features"]}
        return self.model.image_features(image_inputs(self.batch, normalization_of(self.model)), training=True)

    @property
    def predicting(self) -> Any:
        """What predicts the tokens of the batch's texts, as one list, in which several texts of an example follow each
        other (`diptych.models.language_model.Predicting`).
        """
        return self.once("predicting", self._predicting)


class Term:
    """One loss of an objective; subclasses say what it is of.

    Attributes:
        independent: whether the loss is a mean over examples that do not look at each other.
        distributed: whether the loss of a term that compares examples meets those of other processes by itself;
            otherwise it is given what all of them embedded.
        variables: untrained Keras variables that a step changes, such as the centre of a teacher's outputs, by name.
        fixed: weights that are read besides the model's and never change.
    """

    independent: bool = False
    distributed: bool = False
    variables: Mapping[str, keras.Variable] = {}
    fixed: tuple = ()

    def embed(self, seen: Seen) -> Tensors:
        """Tensors that describe a piece of a batch, by name; the first axis of each counts examples, and those of
        pieces are joined.
        """
        raise NotImplementedError

    def loss(self, model, embedded: Tensors) -> Loss:
        """The loss of all that was embedded. What it updates of independent examples must be a mean over them, too."""
        raise NotImplementedError


class Objective:
    """Σ weight · term: what steps minimise (`diptych.backends.train_step`).

    Args:
        terms: by name; names stand in logs and checkpoints.
        weights: by the same names; 1 where none is given.

    Raises:
        ValueError: for no terms, or weights of other names.
    """

    def __init__(self, terms: Mapping[str, Term], weights: Mapping[str, float] | None = None):
        weights = dict.fromkeys(terms, 1.0) if weights is None else weights
        if not terms or terms.keys() != weights.keys():
            raise ValueError(
                f"An objective needs terms, each with a weight: got the terms {', '.join(terms) or 'none'} and weights "
                f"for {', '.join(weights) or 'none'}."
            )
        self.terms, self.weights = dict(terms), dict(weights)
        self.variables = {name: variable for term in terms.values() for name, variable in term.variables.items()}
        self.fixed = tuple(weight for term in terms.values() for weight in term.fixed)

    @property
    def compares(self) -> bool:
        """Whether a term compares examples, so that the pieces of a batch must meet."""
        return not all(term.independent for term in self.terms.values())

    def seeing(self, other) -> AbstractContextManager:
        """Within it the terms, and the layers of the model, learn from `other` of the rows that are not at hand (see
        `whole_batch`).
        """
        return seen_through(other)

    def prepare(self, model, batch: Tensors) -> Tensors:
        """The batch to train on, without gradients: by default the one given."""
        return batch

    def embed(self, model, batch: Tensors) -> Tensors:
        """What the terms that compare examples describe a batch by, each tensor by "term/name"."""
        return self._embedded(Seen(model, batch), [name for name, term in self.terms.items() if not term.independent])

    def forward(self, model, batch: Tensors) -> tuple[Tensors, dict[str, Loss]]:
        """`embed`, and the losses of the terms whose examples are independent, by term."""
        seen = Seen(model, batch)
        compared = self._embedded(seen, [name for name, term in self.terms.items() if not term.independent])
        own = {name: term.loss(model, term.embed(seen)) for name, term in self.terms.items() if term.independent}
        return compared, own

    def losses(self, model, embedded: Tensors) -> dict[str, Loss]:
        """The losses of the terms that compare examples, by term, of what `embed` gave for all of a batch."""
        by_term: dict[str, Tensors] = {}
        for path, tensor in embedded.items():
            term, _, name = path.partition("/")
            whole = tensor if self.terms[term].distributed else whole_batch().gathered(tensor)
            by_term.setdefault(term, {})[name] = whole
        return {name: self.terms[name].loss(model, tensors) for name, tensors in by_term.items()}

    def total(self, losses: Mapping[str, Loss]) -> Loss:
        """The weighted sum of the terms' losses, with "NAME_loss" of each beside its own logs."""
        losses = {name: losses[name] for name in self.terms if name in losses}
        value = sum(self.weights[name] * loss.value for name, loss in losses.items())
        logs = {key: _divided(log) for loss in losses.values() for key, log in loss.logs.items()}
        logs |= {f"{name}_loss": loss.value for name, loss in losses.items()}
        return Loss(value, logs, {key: new for loss in losses.values() for key, new in loss.updates.items()})

    def _embedded(self, seen: Seen, names: list[str]) -> Tensors:
        return {f"{name}/{key}": x for name in names for key, x in self.terms[name].embed(seen).items()}


def _divided(log):
    return ops.divide_no_nan(log.total, log.share) if isinstance(log, Mean) else log


class Captions:
    """Token ids int32 `[n, length]` or `[n, captions, length]` as one list of texts, and what was computed of them by
    image again.
    """

    def __init__(self, text):
        self.images, self.captions = text.shape[0], 1 if len(text.shape) == 2 else text.shape[1]
        self.token_ids = ops.reshape(text, (self.images * self.captions, text.shape[-1]))

    def by_image(self, embeddings):
        """`[n · captions, dim]` -> `[n, captions, dim]`."""
        return ops.reshape(embeddings, (self.images, self.captions, embeddings.shape[-1]))


TEXT_FIELDS = ("token_ids", "token_mask", "token_weights", "suffix_mask", "dropout_seeds")
"""Fields of texts that a language model reads; "token_ids" has a text an example `[n, length]`, or several
`[n, texts, length]`, and so have the others.
"""


def texts_of(batch: Tensors) -> Tensors:
    """A batch's fields of texts as one list of texts each: "token_ids" int32 `[n · texts, length]`."""
    several = len(batch["token_ids"].shape) == 3
    fields = {name: batch[name] for name in TEXT_FIELDS if name in batch}
    return {name: ops.reshape(x, (-1, *x.shape[2:])) for name, x in fields.items()} if several else fields


PLAIN = Normalization()
"""What brings bytes to -1..1, as SigLIP's towers take them."""


def normalization_of(model) -> Normalization:
    """What a model wants of a batch's bytes: its own `normalization`; for a model without one -1..1."""
    return getattr(model, "normalization", PLAIN)


def to_model_range(images, normalization: Normalization = PLAIN):
    """uint8 pixels 0..255 -> float32, by default in [-1, 1]; batches travel as bytes and are converted on the device.

    images: `[..., values]`, whose last axis has red, green and blue, again and again where it holds whole patches.
    """
    pixels = ops.cast(images, "float32")
    if normalization == PLAIN:
        return pixels / 127.5 - 1.0
    slope, offset = (ops.convert_to_tensor(part) for part in normalization.line(pixels.shape[-1]))
    return pixels * slope - offset


IMAGE_FIELDS = ("image", "patches", "spatial_shapes")
"""The fields of a batch that `image_inputs` reads, those of them that it has."""


def image_inputs(batch: Tensors, normalization: Normalization = PLAIN) -> Tensors:
    """The image tower's inputs, by name, from a batch's bytes."""
    if "patches" in batch:
        patches = to_model_range(batch["patches"], normalization)
        return {"patches": patches, "spatial_shapes": batch["spatial_shapes"]}
    return {"images": to_model_range(batch["image"], normalization)}
