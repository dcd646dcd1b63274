"""A vocabulary of pair merges learned from one's own texts (Sennrich et al. 2016, algorithm 1)."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from heapq import heapify, heappop, heappush

from diptych.core.data.tokenizers.gpt_bpe import END_OF_LINE, UNKNOWN, GptTokenizer
from diptych.core.data.tokenizers.gpt_words import NEWLINE, Way, words_of
from diptych.core.data.tokenizers.pair_merges import END_OF_WORD, merged_pair

Pair = tuple[str, str]


def train_gpt_tokenizer(texts: Iterable[str], *, merges: int, way: Way = "paper", least_count: int = 1) -> GptTokenizer:
    """A tokenizer whose vocabulary is laid out as GPT-1's: the unknown token, characters by how often they occur, the
    same as ends of words, the merges in order, and the end of a line.

    Each merge takes the pair that stands side by side most often in all words, and of several the one that comes first
    in the alphabet: the same texts give the same vocabulary. Merges end early where no pair stands twice.

    Args:
        texts: of any length; each is looked at once.
        merges: how many at most.
        way: see `GptTokenizer`.
        least_count: how often a character must occur to be of the vocabulary.

    Raises:
        ValueError: for texts without a word.
    """
    if merges < 0 or least_count < 1:
        raise ValueError(f"merges must be at least 0 and least_count at least 1, got {merges} and {least_count}.")
    words = Counter(word for text in texts for word in words_of(text, way) if word != NEWLINE)
    if not words:
        raise ValueError("There is no word in these texts, and a vocabulary is learned from words. Give other texts.")
    counts: Counter[str] = Counter()
    for word, count in words.items():
        for character in word:
            counts[character] += count
    known = [one for one, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])) if count >= least_count]
    learned = _learned(words, set(known), merges)
    tokens = [UNKNOWN, *known, *(one + END_OF_WORD for one in known), *map("".join, learned), END_OF_LINE]
    # Two merges may come to the same token, such as "a" + "bc" and "ab" + "c": it has one id.
    vocabulary = {token: place for place, token in enumerate(dict.fromkeys(tokens))}
    return GptTokenizer(vocabulary, learned, way=way)


def _learned(words: Counter[str], known: set[str], merges: int) -> list[Pair]:
    spelled = [[*word[:-1], word[-1] + END_OF_WORD] for word in words]
    numbers = list(words.values())
    counts: Counter[Pair] = Counter()
    places: defaultdict[Pair, set[int]] = defaultdict(set)
    for place, pieces in enumerate(spelled):
        for pair in _pairs(pieces, known):
            counts[pair] += numbers[place]
            places[pair].add(place)
    queue = [(-count, pair) for pair, count in counts.items()]
    heapify(queue)
    learned: list[Pair] = []
    while queue and len(learned) < merges:
        negative, best = heappop(queue)
        if counts[best] != -negative:
            continue  # its count has changed since, and it stands in the queue with the new one
        if counts[best] < 2:
            break
        learned.append(best)
        known.add("".join(best))
        changed: set[Pair] = set()
        for place in sorted(places.pop(best)):
            before, spelled[place] = spelled[place], merged_pair(spelled[place], best)
            for pieces, sign in ((before, -1), (spelled[place], 1)):
                for pair in _pairs(pieces, known):
                    counts[pair] += sign * numbers[place]
                    (places[pair].add if sign > 0 else places[pair].discard)(place)
                    changed.add(pair)
        for pair in changed:
            heappush(queue, (-counts[pair], pair))
    return learned


def _pairs(pieces: list[str], known: set[str]) -> Iterator[Pair]:
    """The pairs of a word, but those of characters that are too rare."""
    for pair in zip(pieces[:-1], pieces[1:], strict=True):
        if all(piece.removesuffix(END_OF_WORD) in known or piece in known for piece in pair):
            yield pair
