"""Scores of written answers against given ones: exact match, VQA accuracy, relaxed accuracy, ANLS.

Each is a number from 0 to 1 of one answer, computed as big_vision's evaluators of PaliGemma do.
"""

import re
from collections.abc import Sequence

import numpy as np

RELATIVE_ERROR = 0.05
EDITED_SHARE = 0.5
AGREEING = 3

_CONTRACTIONS = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've
o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're
there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've
when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't
wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_REPLACED = {
    # Of each contraction the spellings that lack one of its apostrophes; the one after is VQA's own mistake.
    **{
        word[:at] + word[at + 1 :]: word
        for word in _CONTRACTIONS.split()
        for at, mark in enumerate(word)
        if mark == "'"
    },
    "somebody'd": "somebodyd",
    **{word: str(number) for number, word in enumerate(_NUMBERS)},
    "none": "0",
}
_ARTICLES = frozenset(("a", "an", "the"))
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_DIGIT_COMMA = re.compile(r"\d,\d")
_FULL_STOP = re.compile(r"\.(?!\d)")


def exact_match(answer: str, truth: str, *, lower_case: bool = False) -> float:
    """Whether the answer is the true one, character by character."""
    return float(answer.lower() == truth.lower() if lower_case else answer == truth)


def vqa_normalized(text: str) -> str:
    """A text as VQA compares it: without punctuation and articles, in lower case, contractions with their apostrophes,
    numbers to ten as digits.

    Faults of the official code are part of the measure: in a text in which a comma stands between two digits all marks
    are deleted, while elsewhere those that touch no space become spaces; and a full stop before no digit is deleted,
    also behind one.
    """
    has_digit_comma = _DIGIT_COMMA.search(text) is not None
    found = text
    for mark in _PUNCTUATION:
        touches_space = f"{mark} " in text or f" {mark}" in text
        found = found.replace(mark, "" if has_digit_comma or touches_space else " ")
    words = _FULL_STOP.sub("", found).lower().split()
    return " ".join(_REPLACED.get(word, word) for word in words if word not in _ARTICLES)


def vqa_accuracy(answer: str, truths: Sequence[str]) -> float:
    """VQA's accuracy: the mean, over the people who were asked, of min(1, matches among the others / 3).

    Texts are normalised (`vqa_normalized`) only where people disagree, as in the official code.

    Args:
        truths: what people answered, ten in VQAv2.

    Raises:
        ValueError: for fewer than two, of whom none is left to agree with.

    Reference: Antol et al. 2015, arXiv 1505.00468; visualqa.org/evaluation.
    """
    _check(truths, least=2)
    answer, others = _stripped(answer), [_stripped(truth) for truth in truths]
    if len(set(others)) > 1:
        answer, others = vqa_normalized(answer), [vqa_normalized(truth) for truth in others]
    matches = np.array([answer == truth for truth in others])
    return float(np.mean([min(1.0, (matches.sum() - match) / AGREEING) for match in matches]))


def plain_vqa_accuracy(answer: str, truths: Sequence[str], *, lower_case: bool = False) -> float:
    """min(1, matches / 3) without normalising, as OK-VQA and A-OKVQA are judged; raises ValueError for no true
    answer.
    """
    _check(truths)
    return min(1.0, sum(exact_match(answer, truth, lower_case=lower_case) for truth in truths) / AGREEING)


def relaxed_match(
    answer: str, truth: str, *, relative_error: float = RELATIVE_ERROR, lower_case: bool = False
) -> float:
    """Whether a number is within 5% of the true one, "%" being a hundredth; what is no number, and zero, must match.

    Reference: Masry et al. 2022 (ChartQA), arXiv 2203.10244, section 5.1.
    """
    number, true_number = _number(answer), _number(truth)
    if number is not None and true_number:
        return float(abs(number - true_number) / abs(true_number) <= relative_error)
    return exact_match(answer, truth, lower_case=lower_case)


def anls(answer: str, truths: Sequence[str], *, lower_case: bool = False, edited: float = EDITED_SHARE) -> float:
    """Average normalised Levenshtein similarity: 1 - edits / length of the longer, or 0 where that share of edits is
    `edited` or more; the best over the true answers.

    Raises:
        ValueError: for no true answer.

    Reference: Biten et al. 2019, arXiv 1907.00490, equation 1; DocVQA.
    """
    _check(truths)
    if lower_case:
        answer, truths = answer.lower(), [truth.lower() for truth in truths]
    return max(_similarity(answer, truth, edited) for truth in truths)


def edit_distance(first: str, second: str) -> int:
    """The fewest insertions, deletions and substitutions of characters that make one text the other."""
    row = list(range(len(second) + 1))
    for place, character in enumerate(first, 1):
        before, row[0] = row[0], place
        for other_place, other in enumerate(second, 1):
            before, row[other_place] = (
                row[other_place],
                min(row[other_place] + 1, row[other_place - 1] + 1, before + (character != other)),
            )
    return row[-1]


def _similarity(answer: str, truth: str, edited: float) -> float:
    if not truth:
        return float(not answer)
    share = edit_distance(answer, truth) / max(len(answer), len(truth))
    return 1 - share if share < edited else 0.0


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def _stripped(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _check(truths: Sequence[str], *, least: int = 1) -> None:
    if isinstance(truths, str) or len(truths) < least:
        advice = " Where one person answered, judge by exact or okvqa." if least > 1 else ""
        raise ValueError(f"true answers must be a list of {least} or more texts, got {truths!r:.60}.{advice}")
