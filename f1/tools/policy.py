"""What may run: the operator's rules, asked right before a call runs, with the very arguments.

    [[policy]]                       # f1.toml; the strictest of the rules that match counts
    action = "ask"
    tools = ["send_*", "delete_*"]
    taint = "unsaid"                 # and only if the user did not say it so

A rule matches where all that it says holds; one that says nothing but an action matches every call.
Calls that no rule matches are `unmatched`. No rule is the tool's own or the model's: annotations
count as the operator has set them, and no tool can reach the rules.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from hashlib import sha256
from typing import Any, Literal, Protocol

from f1.calling.validating import matches
from f1.tools.spec import Annotations, ToolSpec

Action = Literal["allow", "ask", "deny"]
STRICTNESS: tuple[Action, ...] = ("allow", "ask", "deny")
TaintKind = Literal["copied", "unsaid", "after"]
Test = Literal["is", "is_not", "contains", "outside"]


@dataclass(frozen=True, slots=True)
class Ruling:
    """`why` is for a person, and for the model where the action is "deny"."""

    action: Action = "allow"
    rule: str = ""  # which, as the file has it
    why: str = ""


@dataclass(frozen=True, slots=True)
class Taint:
    """What of a call may be the doing of what tools returned, and not the user's. Paths in its
    arguments, and which tool's result it was; the path "" is that it is called at all.

    copied   the value stands in the result, also in part, or a reference put it in
    unsaid   the model had read the result, and the user did not say the value whole; this holds
             whatever the model did to it: said it in other words, encoded it, added it up
    after    the model had read the result: it may have chosen among what the user did say
    """

    copied: Mapping[str, str] = field(default_factory=dict)
    unsaid: Mapping[str, str] = field(default_factory=dict)
    after: str = ""  # a tool's name

    def found(self, kind: TaintKind) -> dict[str, str]:
        """Each kind has those before it in it."""
        unsaid = self.unsaid if kind != "copied" else {}
        after = {"": self.after} if kind == "after" and self.after else {}
        return {**after, **unsaid, **self.copied}


CLEAN = Taint()


class Policy(Protocol):
    @property
    def version(self) -> str:
        """A digest of all rules: what was approved under others is asked again."""

    def ruling(
        self, spec: ToolSpec, arguments: Mapping[str, Any], taint: Taint = CLEAN
    ) -> Ruling: ...


@dataclass(frozen=True, slots=True)
class AllowAll:
    """Where nobody has set rules."""

    version: str = ""

    def ruling(self, spec: ToolSpec, arguments: Mapping[str, Any], taint: Taint = CLEAN) -> Ruling:
        return Ruling()


@dataclass(frozen=True, slots=True)
class Condition:
    """On the values at a path, and below it. It holds if it does of one of them; the negative ones
    hold also where there is none. `is` and `outside` are of the whole value, `contains` of a part
    of it; those two take patterns of RE2, and numbers are matched as JSON has them."""

    path: str  # "to", "items.price": of every item; "*": anywhere
    test: Test
    value: Any

    def holds(self, arguments: Mapping[str, Any]) -> bool:
        values = list(_leaves(arguments) if self.path == "*" else _at(arguments, self.path))
        if self.test in ("is_not", "outside") and not values:
            return True
        return any(map(self._holds, values))

    def _holds(self, value: Any) -> bool:
        match self.test:
            case "is":
                return _same(value, self.value)
            case "is_not":
                return not _same(value, self.value)
            case "contains":
                return matches(self.value, _text(value))
            case "outside":
                return not matches(rf"\A(?:{self.value})\z", _text(value))


@dataclass(frozen=True, slots=True)
class Rule:
    """`tools`: globs of names, one of which has to fit; those of toolsets are among them."""

    action: Action
    name: str  # as the file has it: "policy[2]"
    tools: tuple[str, ...] | None = None
    annotations: Mapping[str, bool] = field(default_factory=dict)
    arguments: tuple[Condition, ...] = ()
    taint: TaintKind | None = None
    taint_in: tuple[str, ...] = ()  # paths; none: all
    why: str = ""  # the operator's words

    def match(
        self, spec: ToolSpec, arguments: Mapping[str, Any], taint: Taint
    ) -> Mapping[str, str] | None:
        """None where it does not; otherwise what is tainted, of that which the rule looks at."""
        if self.tools is not None and not any(fnmatchcase(spec.name, n) for n in self.tools):
            return None
        if any(_has(spec.annotations, n) != value for n, value in self.annotations.items()):
            return None
        if not all(condition.holds(arguments) for condition in self.arguments):
            return None
        if self.taint is None:
            return {}
        return {p: t for p, t in taint.found(self.taint).items() if self._looks_at(p)} or None

    def _looks_at(self, path: str) -> bool:
        below = [(f"{p}.", f"{p}[") for p in self.taint_in]
        inside = path in self.taint_in or any(path.startswith(start) for start in below)
        return inside or not path or not self.taint_in


@dataclass(frozen=True)
class Rules:
    """The strictest rule that matches counts: deny, then ask, then allow."""

    rules: tuple[Rule, ...]
    unmatched: Action = "allow"

    @cached_property
    def version(self) -> str:
        said = [self.unmatched, *(asdict(rule) for rule in self.rules)]
        return sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()

    def ruling(self, spec: ToolSpec, arguments: Mapping[str, Any], taint: Taint = CLEAN) -> Ruling:
        found: Ruling | None = None
        for rule in self.rules:
            if found is not None and _strictness(rule.action) <= _strictness(found.action):
                continue
            tainted = rule.match(spec, arguments, taint)
            if tainted is not None:
                found = Ruling(rule.action, rule.name, rule.why or _why(rule, tainted))
        return found or Ruling(self.unmatched, "", "no rule allows it")


def _has(annotations: Annotations, name: str) -> bool:
    """What only looks destroys nothing, whatever the default is."""
    looks = name == "destructive" and annotations.read_only
    return bool(getattr(annotations, name)) and not looks


def _strictness(action: Action) -> int:
    return STRICTNESS.index(action)


def _why(rule: Rule, tainted: Mapping[str, str]) -> str:
    told = {"ask": "a person has to allow it", "deny": "the operator's rules deny it"}
    parts = [
        f"'{path}' may be the doing of what {tool} returned"
        if path
        else f"what {tool} returned may be why it is called"
        for path, tool in tainted.items()
    ]
    return ": ".join([told.get(rule.action, "allowed"), *filter(None, ["; ".join(parts)])])


# --- values at a path ----------------------------------------------------------------------------


def _at(value: Any, path: str) -> Iterator[Any]:
    """Leaves at the path and below. Lists are gone through; keys may have dots in them."""
    if isinstance(value, list | tuple):
        for item in value:
            yield from _at(item, path)
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            if key == path:
                yield from _leaves(inner)
            elif path.startswith(f"{key}."):
                yield from _at(inner, path[len(key) + 1 :])


def _leaves(value: Any) -> Iterator[Any]:
    """Texts, numbers, true, false and null; of objects, their keys too: they are as free as what is
    behind them."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield key
            yield from _leaves(inner)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _same(value: Any, other: Any) -> bool:
    """As JSON has it: 1 is 1.0, and not true."""
    return isinstance(value, bool) == isinstance(other, bool) and bool(value == other)
