"""Text to words that can be looked up, and a request to its clauses."""

from __future__ import annotations

import re
from functools import lru_cache

_RUN = re.compile(r"[^\W_]+")
_JOINT = re.compile(
    r"(?<=[a-z])(?=[A-Z])|(?<=[A-Za-z])(?=[0-9])|(?<=[0-9])(?=[A-Za-z])|(?<=[A-Z])(?=[A-Z][a-z])"
)
# Scripts that put no space between words: looked up by pairs of characters.
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]+")
# What ends one wish and may begin another.
_CLAUSE = re.compile(
    r"[.;:?!\n]+(?=\s|$)|,|[\u3002\uff1b\uff1f\uff01\uff0c\u3001]|\b(?:and|then|also|plus|afterwards|finally|next|but|or)\b",
    re.IGNORECASE,
)
COMMON = frozenset(
    "a about also am an and any are as at be been but by can could did do does for from get"
    " give had has have he her him his how i if in into is it its let like may me my need of"
    " on or our please she should so tell that the their them then there these they this to up"
    " us use using want was we were what when where which who will with would you your".split()
)
_ENDINGS = (
    "ations", "ation", "ators", "ator", "ating", "ated", "ates", "ate",
    "ions", "ion", "ings", "ing", "ers", "er", "ors", "or", "ments", "ment",
    "ies", "ied", "ed", "es", "ly", "al", "s", "e", "y",
)  # fmt: skip
_SHORTEST = 3  # letters that an ending leaves


def parts(text: str) -> list[str]:
    """ "getUserID_v2" is ["get", "User", "ID", "v", "2"]."""
    return [part for run in _RUN.findall(text) for part in _JOINT.split(run)]


def words(text: str) -> list[str]:
    """The stems of all words in order."""
    found = []
    for run in _RUN.findall(text):
        if run.isascii():
            found += [stem(part.lower()) for part in _JOINT.split(run)]
        elif _UNSPACED.search(run):
            found += [run[i : i + 2] for i in range(max(len(run) - 1, 1))]
        else:
            found.append(stem(run.lower()))
    return found


def asked_words(text: str) -> list[str]:
    """The words of a request without those that every request has."""
    spoken = " ".join(run for run in _RUN.findall(text) if run.lower() not in COMMON)
    return words(spoken)


def clauses(text: str) -> list[str]:
    """The parts of a request that may each be a wish of its own."""
    return [part for part in (p.strip() for p in _CLAUSE.split(text)) if part]


@lru_cache(65536)
def stem(word: str) -> str:
    """Crude on purpose: "calculate", "calculation" and "calculator" are one word, and words that
    are not the same seldom become so. (Lovins 1968: one ending, the longest.)"""
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= _SHORTEST:
            word = word[: -len(ending)]
            break
    doubled = len(word) > _SHORTEST and word[-1] == word[-2] and word[-1] not in "aeiousl"
    return word[:-1] if doubled else word
