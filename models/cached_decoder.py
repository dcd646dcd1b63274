"""The base of decoders that keep what they know of earlier tokens: places, caches, and a prompt taken at once."""

from typing import Any

import keras
from keras import ops

from diptych.models.decoding import Begun, in_precision
from diptych.models.parts.block import Block, recomputed
from diptych.models.parts.places import Places
from diptych.models.parts.rotary import angles_of


class CachedDecoder(keras.layers.Layer):
    """Token ids to features by blocks whose tokens see those before them, or a prefix all of itself.

    A subclass says how tokens are embedded (`embedded`), what stands behind the blocks (`finished`) and what features
    predict (`logits`).

    Attributes:
        blocks: in their order.
        rematerialize: whether blocks are computed again in the backward pass.
    """

    blocks: list[Block]
    rematerialize: bool

    def embedded(self, token_ids, positions=None):
        """What goes into the first block, `[..., width]`.

        Args:
            positions: int32, as many as tokens; unused where positions are inside attention.
        """
        raise NotImplementedError

    def finished(self, x):
        """Features of what the last block gives."""
        return x

    def logits(self, features):
        """Features `[..., width]` -> float32 logits `[..., tokens]` of the token behind each."""
        raise NotImplementedError

    def window(self, layer: int) -> int | None:
        """How far a block's tokens see; None for all before them."""
        return None

    def placed(self, token_ids, token_mask=None, suffix_mask=None, soft_tokens=None, soft_mask=None):
        """What goes into the blocks, `[batch, soft tokens + length, width]`, and its `Places`.

        Args:
            token_ids: int32 `[batch, length]`.
            token_mask: bool `[batch, length]`, False for padding, wherever it stands; None for no padding.
            suffix_mask: bool `[batch, length]`, False for tokens of the prefix; None for no token of it.
            soft_tokens: `[batch · pictures, tokens, width]`, embeddings that stand in front of the tokens as they are;
                those of an example's pictures follow each other.
            soft_mask: bool `[batch · pictures, tokens]`, False for padding among them; None for no padding.
        """
        everywhere = ops.ones(ops.shape(token_ids), "bool")
        count = everywhere if token_mask is None else ops.cast(token_mask, "bool")
        causal = everywhere if suffix_mask is None else ops.cast(suffix_mask, "bool")
        if soft_tokens is None:
            places = Places.of(count, causal)
            return self.embedded(token_ids, places.positions), places
        batch = ops.shape(token_ids)[0]
        soft = ops.reshape(soft_tokens, (batch, -1, soft_tokens.shape[-1]))
        exist = ops.ones(ops.shape(soft)[:2], "bool")
        if soft_mask is not None:
            exist = ops.reshape(ops.cast(soft_mask, "bool"), (batch, -1))
        count = ops.concatenate([exist, count], axis=1)
        causal = ops.concatenate([ops.zeros_like(exist), causal], axis=1)
        places = Places.of(count, causal)
        x = self.embedded(token_ids, places.positions[:, -ops.shape(token_ids)[1] :])
        return ops.concatenate([ops.cast(soft, x.dtype), x], axis=1), places

    def through(self, x, queries: Places, keys: Places, caches=None, place=0) -> tuple[Any, tuple]:
        """`[batch, tokens, width]` through all blocks, and what stands behind them.

        Args:
            queries, keys: the places of these tokens, and of all that there are to see.
            caches, place: for each block keys and values of all places, of which these tokens' are from `place` on, or,
                where it is None, behind those that there are, see `Attention.step`; None for tokens that see each other
                alone.

        Returns:
            features `[batch, tokens, width]`, and the caches with these tokens added.
        """
        windows = {self.window(layer) for layer in range(len(self.blocks))}
        masks = {window: keys.seen_from(queries, window=window) for window in windows}
        positions, attention = queries.positions, self.blocks[0].attention
        if caches is not None and attention.rotary_base is not None:
            positions = angles_of(positions, attention.head_width, base=attention.rotary_base)
        single = caches is not None and place is not None and x.shape[1] == 1
        x, kept = x[:, 0] if single else x, []  # two axes spare eager torch the reshapes between products
        for layer, block in enumerate(self.blocks):
            given = {"token_mask": masks[self.window(layer)], "positions": positions}
            if caches is not None:
                x, cache = block.step(x, caches[layer], place, **given)
                kept.append(cache)
            else:
                x = recomputed(block, x, **given) if self.rematerialize else block.call(x, **given)
        x = self.finished(x)
        return x[:, None] if single else x, tuple(kept)

    def empty_caches(self, batch, length: int) -> tuple:
        """For each block keys and values of no token yet, for `through`."""
        return tuple(block.attention.empty_cache(batch, length) for block in self.blocks)


class Prefilled:
    """A decoder that has seen prompts, and pictures in front of them, as a `diptych.models.decoding.Decoder`.

    They go through the blocks once. What it is asked to go on with is the beginning of an answer, which may be nothing.

    Args:
        prompt_ids: int32 `[batch, length]`, of at least one token.
        prompt_mask: bool `[batch, length]`, False for padding, in front or behind; None for none.
        soft_tokens: `[batch, tokens, width]`, those of all pictures of an example; None for texts alone.
        soft_mask: bool `[batch, tokens]`, False for padding among them; None for none.
        causal: whether a prompt's tokens see those before them; else all see each other, as pictures do.
    """

    start_id = 0
    """Stands for each prompt's last token, which differs."""

    def __init__(
        self, decoder: CachedDecoder, *, prompt_ids, prompt_mask=None, soft_tokens=None, soft_mask=None, causal: bool
    ):
        self._decoder, self._causal, self._soft_mask = decoder, causal, soft_mask
        self._soft = None if soft_tokens is None else ops.stop_gradient(ops.convert_to_tensor(soft_tokens))
        prompt_ids = ops.convert_to_tensor(prompt_ids, "int32")
        if prompt_mask is None:
            self._ids, self._mask = prompt_ids, ops.ones(ops.shape(prompt_ids), "bool")
        else:
            self._ids, self._mask = _padded_in_front(prompt_ids, ops.convert_to_tensor(prompt_mask, "bool"))

    @property
    def context_length(self) -> int:
        """The longest answer that training's context has places for, behind pictures and prompt."""
        return self._decoder.config.context_length - self._prefix

    @property
    def _prefix(self) -> int:
        """How many places pictures and prompt have."""
        return (0 if self._soft is None else self._soft.shape[1]) + self._ids.shape[1]

    @property
    def variables(self) -> list[keras.Variable]:
        """The decoder's."""
        return self._decoder.variables

    def begin(self, batch, length: int) -> Begun:
        """See `diptych.models.decoding.Decoder`; `batch` may be a multiple of the prompts'."""
        decoder, prompts, first = self._decoder, ops.shape(self._ids)[0], self._prefix - 1

        def prefill(soft_tokens):
            suffix = ops.full(ops.shape(self._ids), self._causal, "bool")
            x, places = decoder.placed(self._ids, self._mask, suffix, soft_tokens, self._soft_mask)
            x = ops.reshape(x, (-1, self._prefix, x.shape[-1]))  # tensorflow may have lost the number of places
            caches = decoder.empty_caches(prompts, self._prefix + length - 1)
            features, caches = decoder.through(x, places, _with_answer(places, length - 1), caches)
            return places, caches, decoder.logits(features[:, -1])

        places, caches, logits = in_precision(prefill, decoder)(self._soft)
        prompt_of = ops.arange(batch, dtype="int32") * prompts // batch

        def of_texts(x):
            return ops.take(x, prompt_of, axis=0)

        keys = _with_answer(places, length - 1).mapped(of_texts)
        caches, logits = keras.tree.map_structure(of_texts, (caches, logits))

        def next_logits(tokens, place, caches):
            query = keys.at(first + place)
            x = decoder.embedded(tokens[:, None], query.positions)
            features, caches = decoder.through(x, query, keys, caches, first + place)
            return decoder.logits(features[:, 0]), caches

        return Begun(in_precision(next_logits, decoder), caches, logits)


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
