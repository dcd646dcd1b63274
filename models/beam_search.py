"""The most probable text that a beam of several finds (Lowerre 1976; with ended beams kept, as Wu et al. 2016)."""

import keras
from keras import ops

from diptych.models.decoding import Decoder, Prompts, constant

_NEVER = -1e30


def search_beams(
    decoder: Decoder,
    prompt_ids,
    *,
    steps: int,
    beams: int,
    prompt_lengths=None,
    eos_id: int | None = 1,
    length_penalty: float = 1.0,
):
    """The best continuations that are found of each text, int32 `[batch, beams, steps]` with 0 behind the end, and
    their scores, float32 `[batch, beams]`, the best first.

    Of all continuations of its beams by one token, a text keeps the `beams` with the highest sums of log-probabilities.
    A beam that has ended competes with its sum as it is. The score at the end is sum / tokens^length_penalty, the
    end-of-text counted; with a penalty of 0 it is the sum. Of equal sums any may be kept.

    Args:
        decoder, prompt_ids, steps, prompt_lengths, eos_id: of `diptych.models.generation.continue_prompts`.
        beams: of each text; 1 finds the likeliest token at each place.

    Raises:
        ValueError: as `continue_prompts`; and for fewer than one beam.
    """
    if beams < 1:
        raise ValueError(f"beams must be at least 1, got {beams}.")
    prompts = Prompts(decoder, prompt_ids, prompt_lengths, steps)
    batch = ops.shape(prompt_ids)[0]
    beam_numbers = ops.arange(beams, dtype="int32")[None, :]
    first_rows = ops.arange(batch, dtype="int32")[:, None] * beams

    def best_of(logits, scores, ended):
        """The beams `[batch, beams]` that go on, their next tokens and sums."""
        vocabulary = logits.shape[1]
        of_tokens = ops.reshape(ops.log_softmax(ops.cast(logits, "float32"), axis=-1), (-1, beams, vocabulary))
        # An ended beam has one continuation: padding, which is certain.
        padding = ops.where(ops.arange(vocabulary) == 0, 0.0, _NEVER)
        sums = scores[:, :, None] + ops.where(ended[:, :, None], padding, of_tokens)
        sums, found = ops.top_k(ops.reshape(sums, (-1, beams * vocabulary)), beams)
        found = ops.cast(found, "int32")
        return found // vocabulary, found % vocabulary, sums

    def goes_on(place, tokens, scores, ended, lengths, caches):
        return ops.logical_and(place < prompts.places, ops.logical_not(ops.all(ended)))

    def step(place, tokens, scores, ended, lengths, caches):
        logits, caches = begun.next_logits(ops.take(tokens, place, axis=1), place, caches)
        return written(logits, place, tokens, scores, ended, lengths, caches)

    def written(logits, place, tokens, scores, ended, lengths, caches):
        beam, token, sums = best_of(logits, scores, ended)
        number = prompts.number(place)[:, None]
        given = number < 0
        beam, scores = ops.where(given, beam_numbers, beam), ops.where(given, scores, sums)
        rows = ops.reshape(first_rows + beam, (-1,))
        tokens, caches = keras.tree.map_structure(lambda each: ops.take(each, rows, axis=0), (tokens, caches))
        ended, lengths = (ops.take_along_axis(each, beam, axis=1) for each in (ended, lengths))
        lengths = lengths + ops.cast(ops.logical_not(ops.logical_or(given, ended)), "int32")
        token = ops.where(given, ops.reshape(ops.take(tokens, place + 1, axis=1), (-1, beams)), token)
        last = number == steps - 1
        if eos_id is not None:
            last = ops.logical_or(last, ops.logical_and(ops.logical_not(given), token == eos_id))
        tokens = ops.slice_update(tokens, (0, place + 1), ops.reshape(token, (-1, 1)))
        return place + 1, tokens, scores, ops.logical_or(ended, last), lengths, caches

    # All beams of a text begin alike, so that one of them may go on.
    scores = ops.broadcast_to(ops.where(beam_numbers == 0, 0.0, _NEVER), (batch, beams))
    with constant(decoder.variables):
        begun = decoder.begin(batch * beams, prompts.places)
        start = (
            ops.zeros((), "int32"),
            prompts.of_beams(beams).tokens,
            scores,
            ops.zeros((batch, beams), "bool"),
            ops.zeros((batch, beams), "int32"),
            begun.caches,
        )
        if begun.first is not None:
            start = written(begun.first, *start)
        _, tokens, scores, _, lengths, _ = ops.while_loop(goes_on, step, start)
    scores = scores / ops.power(ops.cast(ops.maximum(lengths, 1), "float32"), length_penalty)
    order = ops.argsort(-scores, axis=1)
    rows = ops.reshape(first_rows + ops.cast(order, "int32"), (-1,))
    tokens = prompts.of_beams(beams).chosen(ops.take(tokens, rows, axis=0))
    return ops.reshape(tokens, (-1, beams, steps)), ops.take_along_axis(scores, order, axis=1)
