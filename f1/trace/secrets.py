"""What a secret looks like: by the name of its field, by its own shape, by what stands before it.

    "client_secret": …       names       whatever the value
    sk-proj-…  eyJ….eyJ….…   shapes      wherever they stand
    password is …  ?token=…  contexts    if the value looks like one
    c2stcHJvai0…             encoded     if any of these is inside

Texts are searched with RE2: time grows with their length alone, whatever is in them.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote

import re2

MAX_DEPTH = 4  # of encodings in encodings, and of JSON in JSON's texts


Known = Callable[[str], "Iterable[Span]"]


class Span(NamedTuple):
    """Characters `start` to `end` of a text are a secret."""

    start: int
    end: int
    kind: str


# --- names ---------------------------------------------------------------------------------------

_HUMP = re.compile(r"([a-z0-9])([A-Z])")
_BETWEEN = re.compile(r"[^a-z0-9]+")
_NAMED = re.compile(
    r".*(?:password|passwd|passphrase|apikey|(?:access|auth|refresh|session|api)token)"
    r"|(?:.*_)?(?:passcode|pwd|secret|token|authorization|cookie|credentials?|(?:api|secret|private|access|account|auth|signing|encryption|ssh"
    r"|subscription|master|shared|session|service)_?key|connection_string|code_verifier)"
    r"|auth|otp|jwt|bearer"
)
# Tokens that open nothing: of texts, of pages.
_HARMLESS = re.compile(
    r"(?:.*_)?(?:page|next|prev|previous|continuation|cursor|sync|eos|bos|pad|unk|sep|cls|mask|stop"
    r"|end|start|begin|special|per|first|last|max|min|num|prompt|completion|input|output|cached"
    r"|reasoning|total|each|ms_per|of)_token"
)


@lru_cache(maxsize=4096)
def words_of(name: str) -> str:
    """ "X-Api-Key", "xApiKey" → "x_api_key"."""
    return _BETWEEN.sub("_", _HUMP.sub(r"\1_\2", name[:100]).lower()).strip("_")


@lru_cache(maxsize=4096)
def is_secret_name(name: str) -> bool:
    """A field of this name holds a secret, in anybody's JSON, headers or environment."""
    words = words_of(name)
    return _NAMED.fullmatch(words) is not None and _HARMLESS.fullmatch(words) is None


# --- shapes --------------------------------------------------------------------------------------

# The first of a kind that matches counts; in a group is what is hidden, where that is not all.
_SHAPES = (
    ("private_key", r"(?s:-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----.*?"
                    r"(?:-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----|\z))"),
    ("jwt", r"\beyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*){2,4}"),
    ("anthropic_key", r"\bsk-ant-[A-Za-z0-9_-]{8,}"),
    ("stripe_key", r"\b[srp]k_(?:live|test)_[A-Za-z0-9]{10,}|\bwhsec_[A-Za-z0-9+/=]{16,}"),
    ("github_token", r"\bgh[pousr]_[A-Za-z0-9]{20,}|\bgithub_pat_[A-Za-z0-9_]{20,}"),
    ("gitlab_token", r"\bgl(?:pat|dt|rt|cbt|ptt)-[A-Za-z0-9_-]{16,}"),
    ("slack_token", r"\bxox[a-z]-[A-Za-z0-9-]{8,}|\bxapp-[A-Za-z0-9-]{16,}"),
    ("slack_hook", r"hooks\.slack\.com/(?:services|workflows)/[A-Za-z0-9/_-]{16,}"),
    ("google_key", r"\bAIza[A-Za-z0-9_-]{30,}|\bya29\.[A-Za-z0-9_-]{16,}"
                   r"|\bGOCSPX-[A-Za-z0-9_-]{20,}"),
    ("aws_key", r"\b(?:AKIA|ASIA|AIDA|AROA)[A-Z0-9]{16}\b"),
    ("api_token", r"\bhf_[A-Za-z0-9]{24,}|\bnpm_[A-Za-z0-9]{30,}|\bpypi-[A-Za-z0-9_-]{32,}"
                  r"|\bSG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}|\bdo[opr]_v1_[a-f0-9]{40,}"
                  r"|\b(?:gsk|xai|sess|shpat|shpss|r8|nvapi|pplx|dckr_pat|lin_api|ntn)[_-][A-Za-z0-9_-]{24,}"
                  r"|\bAGE-SECRET-KEY-1[A-Z0-9]{30,}|\b[0-9]{8,10}:AA[A-Za-z0-9_-]{32,}"),
)  # fmt: skip
_NAME = (
    r"pass(?:word|wd|phrase|code)|\bpwd|secret|token|api[ _-]?key|credentials?"
    r"|(?:private|access|account|auth|signing|encryption|ssh|subscription|master|shared|session)"
    r"[ _-]?key"
)
_QUOTED = r"""\\*"[^"\\\r\n]+|\\*'[^'\\\r\n]+"""
_BARE = r"[^\s\"'\\<]+"
# What stands before them makes them secrets, if they look like one (`_seems`).
_CONTEXTS = (
    ("api_key", r"\bsk-(?:proj-|svcacct-|admin-|or-v1-)?[A-Za-z0-9_-]{16,}"),
    ("f1_key", r"\bf1-[A-Za-z0-9_-]{32,}"),
    ("url_password", r"://[^\s/:@\"'\\]*:([^\s/@\"'\\]+)@"),
    ("parameter", r"(?i:[?&;](?:[a-z0-9_-]*(?:token|secret|password|passwd|signature"
                  r"|api_?-?key|access_?-?key)|key|sig|auth)=([^&\s\"'\\#;]+))"),
    ("header", r"(?i:\b(?:proxy-)?authorization|\b(?:set-)?cookie|\bx-[a-z-]*(?:key|token|secret))"
               r"\\*[\"']?\s*[:=]\s*\\*[\"']?([^\s\"'\\][^\r\n\"'\\]*)"),
    ("bearer", r"(?i:\b(?:bearer|basic))\s+([A-Za-z0-9._~+/=-]{8,})"),
    ("assigned", r"(?i:[a-z0-9_.-]*(?:" + _NAME + r"))\\*[\"']?\]?\s*(?::=|=>|==?|:|>)\s*("
                 + _QUOTED + "|" + _BARE + ")"),
    ("told", r"(?i:[a-z0-9_.-]*(?:" + _NAME + r")(?:\s+(?:for|of|to)\s+\S{1,64})?"
             r"\s+(?:is|was|=)[:\s]\s*)(" + _QUOTED + "|" + _BARE + ")"),
    ("option", r"(?i:--?[a-z0-9-]*(?:" + _NAME + r"))\s+(" + _QUOTED + "|" + _BARE + ")"),
    ("key", r"(?i:\bkey)\\*[\"']?\s*[:=]\s*(" + _QUOTED + "|" + _BARE + ")"),
)  # fmt: skip
_KINDS = [kind for kind, _ in (*_SHAPES, *_CONTEXTS)]
_ANY = re2.compile(
    "|".join(
        [f"({pattern})" for _, pattern in _SHAPES]
        # Each of these has its place and, inside, that of its value.
        + [f"({p if '(' in p.replace('(?', '') else f'({p})'})" for _, p in _CONTEXTS]
    )
)
_VALUE_FROM = len(_SHAPES) + 1  # the first context's group
_ENCODED = re2.compile(
    r"[A-Za-z0-9+/_-]{20,}(?:(?:\r?\n|\\n)[A-Za-z0-9+/_-]+)*={0,2}"
    r"|[^\s\"'\\<>%]*(?:%[0-9A-Fa-f]{2}[^\s\"'\\<>%]*)+"
)
_READABLE = re.compile(rb"[\t\n\r -~]{10}")
_FORTY = re2.compile(r"[A-Za-z0-9+/]{40,}")
_NEAR_AWS = re2.compile(r"(?i)\baws|\b(?:AKIA|ASIA)[A-Z0-9]{16}")
# Any text or JSON with a secret in it has one of these, or a run with one inside. Looser than the
# above: in JSON a line's end is spelled with an `n`, which is a letter of a word to them.
_MAYBE = re2.compile(
    r"(?i:passw|passphrase|passcode|pwd|secret|token(?:[^a-z_]|\z)|cookie(?:[^a-z]|\z)|authorization"
    r"|credential|\b(?:jwt|otp|auth|bearer)\b|bearer(?:\s|\\[nrt])|basic(?:\s|\\[nrt])"
    r"|code_?verifier|connection.?string|(?:api|private|access|account|auth|signing|encryption|ssh"
    r"|subscription|master|shared|session|service)[^a-z0-9]*key"
    r"|key\\*[\"']?\s*[:=]\s*\\*[\"']?[a-z0-9+/_=-]{16}"
    r"|[?&;](?:key|sig|signature|auth)=|(?:\b|\\n)aws)"
    r"|-----BEGIN |eyJ[A-Za-z0-9_-]|sk-|[srp]k_(?:live|test)_|whsec_|gh[pousr]_|github_pat_"
    r"|gl(?:pat|dt|rt|cbt|ptt)-|xox[a-z]-|xapp-|hooks\.slack|AIza|ya29\.|GOCSPX-|AKIA|ASIA|AIDA|AROA"
    r"|hf_|npm_|pypi-|SG\.|do[opr]_v1|(?:gsk|xai|sess|shpat|shpss|r8|nvapi|pplx|dckr_pat|lin_api|ntn)[_-]"
    r"|AGE-SECRET|:AA|f1-[A-Za-z0-9_-]{32}|://[^\s/:@\"'\\]*:[^\s/@\"'\\]+@|\\u00|\\/|%[0-9A-F]{2}"
)
_CUT = re2.compile(
    r"(\b(?:sk-(?:ant|proj|svcacct)-|gh[pousr]_|github_pat_|AKIA|ASIA|xox[a-z]-|AIza|eyJ|"
    r"[srp]k_live_|glpat-|hf_)[A-Za-z0-9_.-]*)(?:\z|… \(cut: )"
)
_TELLING = re.compile(r"_(?:is|was|for|of|to)(?:_|\Z)")
_TRAILING = ".,;:!?)]}>*`"
_PLAIN = frozenset(
    "none null true false undefined required optional string missing invalid incorrect wrong "
    "expired correct empty unset the your here below above redacted hidden secret password token "
    "bearer basic must should cannot yes not str text field value example changeme hunter".split()
)
_CODE = re.compile(r"[$({<%\[]|[A-Za-z_.]+\(|os\.|self\.|process\.env|\*{3}|\.{3}|…|x{4}", re.I)


def find(text: str, known: Known = lambda text: (), depth: int = 0) -> list[Span]:
    """Where secrets are, in order; none overlaps another. `known`: further ones in a text, which
    are looked for in what is encoded, too."""
    found = [*_plainly(text), *_cut(text), *_of_aws(text), *known(text)]
    if depth < MAX_DEPTH:
        found += _inside(text, known, depth)
    return apart(found)


def is_clean(text: str, known: Known = lambda text: ()) -> bool:
    """For sure, without looking closely: nothing in it is a secret, be it as text or as JSON. False
    says little."""
    return _MAYBE.search(text) is None and not any(_inside(text, known, 0))


def _plainly(text: str) -> Iterator[Span]:
    for match in _ANY.finditer(text):
        group, kind = _which(match)
        start, end = match.span(group)
        if group < _VALUE_FROM:
            yield Span(start, end, kind)
            continue
        start, end = match.span(group + 1)
        value = text[start:end].lstrip("\\\"'")
        quoted = len(value) < end - start
        value = value if quoted else value.rstrip(_TRAILING)
        before = text[match.start() : start]
        if _SEEMS[kind](before, value, quoted):
            end = end if quoted else start + len(value)
            yield Span(end - len(value), end, kind)


def _which(match: re2._Match[str]) -> tuple[int, str]:
    """The group that matched, and its kind: behind the shapes each has its value's beside it."""
    last = match.lastindex or 0
    if last < _VALUE_FROM:
        return last, _KINDS[last - 1]
    nth = (last - _VALUE_FROM) // 2
    return _VALUE_FROM + 2 * nth, _KINDS[_VALUE_FROM - 1 + nth]


def _cut(text: str) -> Iterator[Span]:
    """The beginning of one, where a text was cut off."""
    for match in _CUT.finditer(text):
        yield Span(match.start(1), match.end(1), "cut")


def _of_aws(text: str) -> Iterator[Span]:
    """Forty letters without any mark, beside what says whose they are."""
    for match in _FORTY.finditer(text) if _NEAR_AWS.search(text) else ():
        value = match.group(0)
        cases = sum(map(str.isupper, value)), sum(map(str.islower, value))
        if len(value) == 40 and min(cases) >= 6 and any(map(str.isdigit, value)):
            yield Span(match.start(), match.end(), "aws_secret")


def _inside(text: str, known: Known, depth: int) -> Iterator[Span]:
    """Runs of base64, or with percent signs, that have a secret in them."""
    for match in _ENCODED.finditer(text) if len(text) >= 20 else ():
        run = match.group(0)
        if "%" in run:
            if find(unquote(run), known, depth + 1):
                yield Span(match.start(), match.end(), "encoded")
        elif not run.islower() and any(find(plain, known, depth + 1) for plain in decoded(run)):
            yield Span(match.start(), match.end(), "encoded")


def decoded(run: str) -> Iterator[str]:
    """What a run of base64's letters may say: it begins anywhere in the first four."""
    letters = run.replace("\r", "").replace("\\n", "").replace("\n", "").rstrip("=")
    letters = letters.replace("-", "+").replace("_", "/")
    for skip in range(4):
        part = letters[skip:]
        part = part[: len(part) - 1] if len(part) % 4 == 1 else part
        data = binascii.a2b_base64(part + "=" * (-len(part) % 4))
        if _READABLE.search(data):
            yield data.decode("latin-1")


def base64_of(data: bytes) -> Iterator[str]:
    """What of base64's letters is the same whatever stands around the data, at each of the three
    places where it may begin; in both alphabets."""
    for before in range(3):
        letters = binascii.b2a_base64(b"\0" * before + data, newline=False).decode().rstrip("=")
        skip = (0, 2, 3)[before]
        cut = 0 if (before + len(data)) % 3 == 0 else 1
        same = letters[skip : len(letters) - cut]
        if len(same) >= 8:
            yield same
            yield same.replace("+", "-").replace("/", "_")


def apart(found: list[Span]) -> list[Span]:
    found.sort(key=lambda span: (span.start, -span.end))
    apart: list[Span] = []
    for span in found:
        if apart and span.start < apart[-1].end:
            if span.end > apart[-1].end:
                apart[-1] = apart[-1]._replace(end=span.end)
        else:
            apart.append(span)
    return apart


# --- does a value look like one ------------------------------------------------------------------


def seems_random(value: str, least: int = 8) -> bool:
    """Letters and digits mixed, or upper and lower case in the middle of a word: no word."""
    if len(value) < least:
        return False
    value = value[:1000]  # enough to tell by
    digits = sum(c.isdigit() for c in value)
    letters = sum(c.isalpha() for c in value)
    mixed = not (value.islower() or value.isupper() or value.istitle())
    return (digits > 0 and letters > 0) or digits >= 12 or (mixed and letters >= 16)


def _assigned(before: str, value: str, quoted: bool) -> bool:
    """`before`: the name, and what is between it and the value."""
    if len(value) < 4 or value.lower() in _PLAIN or _CODE.match(value):
        return False
    words = _name_in(before)
    if not is_secret_name(words):
        return False
    if "pass" in words or "pwd" in words:
        return quoted or not value.isalpha() or "=" in before or len(value) >= 6
    if quoted and "_" in words:
        return len(value) >= 8
    return seems_random(value, 6) or (len(value) >= 16 and " " not in value)


def _told(before: str, value: str, quoted: bool) -> bool:
    if len(value) < 4 or value.lower() in _PLAIN or not is_secret_name(_name_in(before)):
        return False
    return quoted or seems_random(value, 6) or (len(value) >= 6 and not value.isalpha())


def _name_in(before: str) -> str:
    """ "--db-password=", "password for bob is " → "db_password", "password"."""
    words = words_of(before)
    return _TELLING.split(words)[0]


def _plain_value(before: str, value: str, quoted: bool) -> bool:
    return len(value) >= 4 and value.lower() not in _PLAIN and not value.startswith(("$", "{", "<"))


_SEEMS: dict[str, Callable[[str, str, bool], bool]] = {
    "api_key": lambda _, value, quoted: seems_random(value),
    "f1_key": lambda _, value, quoted: seems_random(value, 32),
    "url_password": _plain_value,
    "parameter": _plain_value,
    "header": _plain_value,
    "bearer": lambda _, value, quoted: seems_random(value),
    "assigned": _assigned,
    "told": _told,
    "option": _assigned,
    "key": lambda _, value, quoted: seems_random(value, 16) and " " not in value,
}
