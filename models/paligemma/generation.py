"""Answers about pictures: a PaliGemma as generation asks for a decoder (see `diptych.models.generation`).

Pictures and prompts go through the blocks once. Then each token is asked for with what the caches hold of them.
"""

import keras
from keras import ops

from diptych.models.decoding import InPrecision
from diptych.models.gemma.decoder import GemmaDecoder
from diptych.models.gemma.places import Places
from diptych.models.generation import BatchGenerator


class Answering:
    """Gemma's decoder that has seen pictures and prompts, as a `diptych.models.decoding.Decoder`.

    What it is asked to go on with is the beginning of an answer, which may be nothing.

    Args:
        soft_tokens: `[batch, tokens, width]`, those of all pictures of an example.
        soft_mask: bool `[batch, tokens]`, False for padding among them; None for none.
        prompt_ids: int32 `[batch, length]`.
        prompt_mask: bool `[batch, length]`, False for padding, in front or behind; None for none.
    """

    start_id = 0
    """Stands for each prompt's last token, which differs."""

    def __init__(self, decoder: GemmaDecoder, soft_tokens, soft_mask=None, *, prompt_ids, prompt_mask=None):
        self._decoder = decoder
        self._soft, self._soft_mask = ops.stop_gradient(ops.convert_to_tensor(soft_tokens)), soft_mask
        prompt_ids = ops.convert_to_tensor(prompt_ids, "int32")
        mask = ops.ones(ops.shape(prompt_ids), "bool") if prompt_mask is None else prompt_mask
        self._ids, self._mask = _padded_in_front(prompt_ids, ops.convert_to_tensor(mask, "bool"))

    @property
    def context_length(self) -> int:
        """The longest answer that training's context has places for, behind pictures and prompt."""
        return self._decoder.config.context_length - self._prefix

    @property
    def _prefix(self) -> int:
        """How many places pictures and prompt have."""
        return self._soft.shape[1] + self._ids.shape[1]

    @property
    def variables(self) -> list[keras.Variable]:
        """The decoder's."""
        return self._decoder.variables

    def begin(self, batch, length: int):
        """See `diptych.models.decoding.Decoder`; `batch` may be a multiple of the prompts'.

        The first token that is asked about is the prompt's last, which has already gone into the caches: it goes
        through the blocks again alone, which gives it the keys and values that it has, and the answer's first logits.
        """
        decoder, prompts, first = self._decoder, ops.shape(self._ids)[0], self._prefix - 1

        def prefill(soft_tokens):
            prefix = ops.zeros(ops.shape(self._ids), "bool")
            x, places = decoder.placed(self._ids, self._mask, prefix, soft_tokens, self._soft_mask)
            x = ops.reshape(x, (-1, self._prefix, x.shape[-1]))  # tensorflow may have lost the number of places
            caches = decoder.empty_caches(prompts, self._prefix + length - 1)
            return places, decoder.through(x, places, _with_answer(places, length - 1), caches)[1]

        places, caches = InPrecision(prefill, decoder)(self._soft)
        prompt_of = ops.arange(batch, dtype="int32") * prompts // batch

        def of_texts(x):
            return ops.take(x, prompt_of, axis=0)

        caches = keras.tree.map_structure(of_texts, caches)
        keys, last = _with_answer(places, length - 1).mapped(of_texts), of_texts(self._ids[:, -1])

        def next_logits(tokens, place, caches):
            tokens = ops.where(place == 0, last, tokens)
            query = keys.at(first + place)
            features, caches = decoder.through(decoder.embedded(tokens[:, None]), query, keys, caches, first + place)
            return decoder.logits(features[:, 0]), caches

        return InPrecision(next_logits, decoder), caches


@keras.saving.register_keras_serializable("diptych")
class AnswerGenerator(BatchGenerator):
    """`PaliGemma.generate` for one batch after another.

    >>> generator = AnswerGenerator(model, steps=32)
    >>> generator.predict_on_batch({"images": images, "token_ids": prompts, "token_mask": mask})

    A batch has the model's pictures, token_ids, token_mask and, for draws, noise.
    """

    def written(self, batch):
        pictures = {name: x for name, x in batch.items() if name not in ("token_ids", "token_mask", "noise")}
        noise = {"noise": batch["noise"]} if "noise" in batch else {}
        return self.model.generate(pictures, batch["token_ids"], batch["token_mask"], **noise, **self.choices)


def _padded_in_front(ids, mask):
    """The same texts with their padding in front, so that the last token of each is in the last column."""
    length = ids.shape[1]
    order = ops.argsort(ops.cast(mask, "int32") * length + ops.arange(length, dtype="int32")[None, :], axis=1)
    return ops.take_along_axis(ids, order, axis=1), ops.take_along_axis(mask, order, axis=1)


def _with_answer(places: Places, tokens: int) -> Places:
    """The places of a prefix, and behind it those of an answer's tokens."""
    if not tokens:
        return places
    steps = ops.arange(1, tokens + 1, dtype="int32")[None, :]
    answer = Places(
        positions=places.positions[:, -1:] + steps,
        ranks=places.ranks[:, -1:] + steps,
        count=ops.ones((ops.shape(places.positions)[0], tokens), "bool"),
    )
    return places.followed_by(answer)
