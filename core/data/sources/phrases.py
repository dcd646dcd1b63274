"""Phrases to look for in a picture: the n-grams of its captions, and things that many pictures show."""

import re

LONGEST_NGRAM = 10

# Function words of English: articles, pronouns, prepositions, conjunctions, auxiliaries.
_STOP_WORDS = (
    "a an the this that these those some any each every no not and or but nor so if than then as of at by for from in "
    "into on onto to up down out off over under with without within between near next about after before during "
    "through is are was were be been being am do does did has have had having can could will would shall should may "
    "might must i you he she it we they me him her us them my your his its our their mine yours who whom whose which "
    "what when where why how there here very just only also too more most other such own same both all few many much "
    "one s t"
)
_CATEGORIES = (
    "person, man, woman, child, face, hand, dog, cat, bird, horse, cow, sheep, pig, fish, butterfly, bear, elephant, "
    "insect, flower, tree, plant, leaf, fruit, apple, banana, orange, vegetable, bread, cake, pizza, sandwich, ice "
    "cream, egg, cheese, bottle, cup, glass, bowl, plate, spoon, fork, knife, pot, chair, table, sofa, bed, lamp, "
    "door, window, curtain, clock, mirror, shelf, box, basket, bag, suitcase, umbrella, hat, shoe, shirt, dress, "
    "jacket, trousers, glasses, watch, ring, necklace, book, newspaper, pen, pencil, scissors, computer, keyboard, "
    "screen, phone, camera, television, radio, guitar, piano, drum, ball, racket, ski, skateboard, bicycle, "
    "motorcycle, car, bus, truck, train, tram, aeroplane, helicopter, boat, ship, rocket, wheel, traffic light, "
    "traffic sign, flag, bench, house, building, church, bridge, tower, tent, road, fence, mountain, river, sea, "
    "beach, cloud, sun, moon, star, fire, snow, hammer, key, candle, balloon, doll, toy, gift, heart, money, medal, "
    "trophy"
)
STOP_WORDS = frozenset(_STOP_WORDS.split())
CATEGORIES = tuple(_CATEGORIES.split(", "))

_CLAUSES = re.compile(
    r"[.,;:!?\u2026\u3001\u3002\uff01\uff0c\uff1a\uff1b\uff1f()\[\]{}\"\u201c\u201d\u00ab\u00bb|/\\]+"
)
_JOINERS = "\u200c\u200d"
_EDGES = "'\u2019`-\u2013\u2014_*#@&+=<>~^$%"


def ngrams(caption: str, *, longest: int = LONGEST_NGRAM) -> list[str]:
    """All runs of 1 to `longest` words of a caption, in lower case, each once, in the order in which they begin.

    Words end at white space and runs at punctuation; runs of STOP_WORDS alone are left out. Scripts without spaces give
    whole clauses.
    """
    found: dict[str, None] = {}
    for clause in _CLAUSES.split(caption.lower()):
        words = [word for word in (part.strip(_EDGES) for part in clause.split()) if word.strip(_JOINERS)]
        for begin in range(len(words)):
            for end in range(begin + 1, min(begin + longest, len(words)) + 1):
                if not STOP_WORDS.issuperset(words[begin:end]):
                    found[" ".join(words[begin:end])] = None
    return list(found)
