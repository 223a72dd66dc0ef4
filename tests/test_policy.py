"""What may run: rules against a slow matcher of their own words, and what f1.toml says of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from f1.config import ApprovalOptions, read_config
from f1.errors import InvalidRequest
from f1.tools.policy import STRICTNESS, AllowAll, Condition, Rule, Rules, Taint
from f1.tools.spec import Annotations, ToolSpec
from f1.types import Tool

# --- a matcher that is slow, and written from the words of the documentation ----------------------


def glob_fits(glob: str, name: str) -> bool:
    if not glob or not name:
        return glob.strip("*") == name
    if glob[0] == "*":
        return glob_fits(glob[1:], name) or glob_fits(glob, name[1:])
    return glob[0] in (name[0], "?") and glob_fits(glob[1:], name[1:])


def all_values(value: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """With the keys on the way; a key is a value of the object that it is in."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield keys, key
            yield from all_values(inner, (*keys, key))
    elif isinstance(value, list):
        for inner in value:
            yield from all_values(inner, keys)
    else:
        yield keys, value


def condition_holds(condition: Condition, arguments: Mapping[str, Any]) -> bool:
    there = [
        value
        for keys, value in all_values(dict(arguments))
        if condition.path == "*"
        or any(".".join(keys[:n]) == condition.path for n in range(1, len(keys) + 1))
    ]
    texts = [v if isinstance(v, str) else {True: "true", False: "false"}.get(v, str(v)) if
             isinstance(v, bool) else str(v) for v in there]  # fmt: skip
    wanted = condition.value
    match condition.test:
        case "is":
            return any(type(v) is type(wanted) and v == wanted for v in there)
        case "is_not":
            return not there or any(type(v) is not type(wanted) or v != wanted for v in there)
        case "contains":
            return any(re.search(wanted, text) for text in texts)
        case "outside":
            return not there or not all(re.fullmatch(wanted, text) for text in texts)


def rule_holds(rule: Rule, spec: ToolSpec, arguments: Mapping[str, Any], taint: Taint) -> bool:
    says = spec.annotations
    facts = {
        "read_only": says.read_only,
        "destructive": says.destructive and not says.read_only,
        "egress": says.egress,
    }
    paths = set(taint.copied)
    if rule.taint in ("unsaid", "after"):
        paths |= set(taint.unsaid)
    if rule.taint == "after" and taint.after:
        paths.add("")
    if rule.taint_in:
        inside = {p for p in paths for t in rule.taint_in if re.split(r"[.\[]", p)[0] == t}
        paths = inside | (paths & {""})
    return (
        (rule.tools is None or any(glob_fits(glob, spec.name) for glob in rule.tools))
        and all(facts[name] == value for name, value in rule.annotations.items())
        and all(condition_holds(condition, arguments) for condition in rule.arguments)
        and (rule.taint is None or bool(paths))
    )


# --- rules and calls out of few letters, so that they meet ----------------------------------------

NAMES = st.sampled_from(["send", "send_mail", "read", "mail", "a"])
KEYS = st.sampled_from(["a", "b", "a.b", "c"])
PATHS = st.sampled_from(["a", "b", "a.b", "a.c", "a.b.c", "c", "*"])
SCALARS = st.one_of(st.sampled_from(["", "x", "xy", "a", "a\nx"]), st.integers(0, 2), st.booleans())
VALUES = st.recursive(
    SCALARS, lambda v: st.one_of(st.lists(v, max_size=2), st.dictionaries(KEYS, v, max_size=2)),
    max_leaves=5,
)  # fmt: skip
PATTERNS = st.sampled_from(["x", "^x", "x|a", "[a-z]+", "", "x.*", "tru", "1"])
CONDITIONS = st.one_of(
    st.builds(Condition, PATHS, st.sampled_from(["is", "is_not"]), SCALARS),
    st.builds(Condition, PATHS, st.sampled_from(["contains", "outside"]), PATTERNS),
)
FLAGS = st.dictionaries(st.sampled_from(["read_only", "destructive", "egress"]), st.booleans())
TAINTED = st.dictionaries(st.sampled_from(["a", "a[0]", "b.c", "ab"]), st.just("read"), max_size=2)
TAINTS = st.builds(
    Taint,
    TAINTED,
    TAINTED.flatmap(lambda t: st.sampled_from([t, t | {"": "read"}])),
    st.sampled_from(["", "read"]),
)
RULES = st.builds(
    Rule,
    st.sampled_from(STRICTNESS),
    st.just("policy[0]"),
    st.none() | st.lists(st.sampled_from(["send*", "*mail", "rea?", "*", "x"])).map(tuple),
    FLAGS,
    st.lists(CONDITIONS, max_size=2).map(tuple),
    st.sampled_from([None, "copied", "unsaid", "after"]),
    st.sampled_from([(), ("a",), ("b",)]),
)
SPECS = st.builds(
    lambda name, flags: ToolSpec(Tool(name), annotations=Annotations(**flags)), NAMES, FLAGS
)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(RULES, max_size=4), st.sampled_from(STRICTNESS), SPECS,
    st.dictionaries(KEYS, VALUES, max_size=3), TAINTS,
)  # fmt: skip
def test_the_strictest_rule_that_matches_counts(
    rules: list[Rule], unmatched: Any, spec: ToolSpec, arguments: dict[str, Any], taint: Taint
) -> None:
    named = tuple(replace(rule, name=f"policy[{i}]") for i, rule in enumerate(rules))
    ruling = Rules(named, unmatched).ruling(spec, arguments, taint)
    actions = [r.action for r in named if rule_holds(r, spec, arguments, taint)] or [unmatched]
    assert ruling.action == max(actions, key=STRICTNESS.index)
    if ruling.rule:
        (rule,) = (r for r in named if r.name == ruling.rule)
        assert rule.action == ruling.action
        assert rule_holds(rule, spec, arguments, taint)
    # The order of rules is of no account, and every rule is part of the version.
    backwards = Rules(named[::-1], unmatched)
    assert backwards.ruling(spec, arguments, taint).action == ruling.action
    assert len({Rules(named[:n], unmatched).version for n in range(len(named) + 1)}) > len(named)


SEND = ToolSpec(Tool("send_mail"))
OURS = Condition("to", "outside", r".*@example\.org")


@pytest.mark.parametrize(
    "to",
    [
        "eve@evil.example", "ann@example.org.evil.example", "eve@evil.example\nann@example.org",
        ["ann@example.org", "eve@evil.example"], {"address": "eve@evil.example"}, "", 7, None,
    ],
)  # fmt: skip
def test_no_value_slips_past_what_the_whole_has_to_be(to: object) -> None:
    rules = Rules((Rule("ask", "policy[0]", arguments=(OURS,)),))
    assert rules.ruling(SEND, {"to": to}).action == "ask"
    assert rules.ruling(SEND, {}).action == "ask"
    assert rules.ruling(SEND, {"to": "ann@example.org"}).action == "allow"
    assert rules.ruling(SEND, {"to": ["ann@example.org", "bob@example.org"]}).action == "allow"


def test_what_is_easily_taken_for_something_else() -> None:
    one, either = Condition("n", "is", 1), Condition("to", "outside", "a|b")
    assert one.holds({"n": 1.0})
    assert not one.holds({"n": True})
    assert not Condition("n", "is", value=False).holds({"n": 0})
    assert either.holds({"to": "ax"})
    assert either.holds({"to": "xb"})
    assert not either.holds({"to": "b"})
    destroys = Rules((Rule("deny", "policy[0]", annotations={"destructive": True}),))
    assert destroys.ruling(SEND, {}).action == "deny"
    looks = ToolSpec(Tool("look"), annotations=Annotations(read_only=True))
    assert destroys.ruling(looks, {}).action == "allow"


def test_a_ruling_says_what_is_behind_it() -> None:
    rules = Rules((Rule("ask", "policy[0]", taint="unsaid"), Rule("deny", "policy[1]", ("x",))))
    ruling = rules.ruling(SEND, {"to": "x"}, Taint({"to": "read_page"}, {"": "search"}))
    assert ruling.rule == "policy[0]"
    assert "'to'" in ruling.why
    assert "read_page" in ruling.why
    assert "search" in ruling.why
    assert rules.ruling(SEND, {"to": "x"}).rule == ""
    told = Rules((Rule("deny", "policy[0]", why="not on Sundays"),)).ruling(SEND, {})
    assert told.why == "not on Sundays"
    assert Rules((), "deny").ruling(SEND, {}).action == "deny"


# --- f1.toml -------------------------------------------------------------------------------------

TOOLS = """
[models.small]
model = "smollm2-135m"
[tools.send_mail]
[tools.read_page]
[toolsets.web]
tools = ["read_page"]
"""


def read(folder: Path, text: str) -> Any:
    path = folder / "f1.toml"
    path.write_text(TOOLS + text)
    return read_config(path)


def test_rules_are_read(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        """
        [[policy]]
        action = "deny"
        tools = ["send_*"]
        toolsets = ["web"]
        annotations = {egress = true}
        taint = "unsaid"
        taint_in = ["to"]
        why = "no"
        [policy.arguments]
        to = {outside = '.*@example\\.org'}
        "items.n" = {is = 3}
        [approvals]
        unmatched = "ask"
        approvers = ["alice"]
        seconds = 60
        """,
    )
    conditions = (OURS, Condition("items.n", "is", 3))
    rule = Rule(
        "deny", "policy[0]", ("send_*", "read_page"), {"egress": True}, conditions, "unsaid",
        ("to",), "no",
    )  # fmt: skip
    assert config.policy == Rules((rule,), "ask")
    assert config.approvals == ApprovalOptions(("alice",), 60)
    github = "[mcp.github]\ncommand = ['x']\n[[policy]]\naction = 'ask'\n"
    (rule,) = read(tmp_path, github + "toolsets = ['github']\ntools = ['github__x']").policy.rules
    assert rule.tools == ("github__x", "github__*")
    own = read(tmp_path, "")  # a function of who asks
    own.file.write_text(f"{TOOLS}[[policy]]\naction = 'ask'\ntools = ['mine']")
    assert read_config(own.file, ["mine"]).policy.rules[0].tools == ("mine",)
    with pytest.raises(InvalidRequest, match="names no tool: 'mine'"):
        read_config(own.file)
    plain = read(tmp_path, "")
    assert plain.policy == AllowAll()
    assert plain.approvals.approvers is None
    assert read(tmp_path, "[approvals]\napprovers = []").approvals.approvers == ()


@pytest.mark.parametrize(
    ("text", "param", "told"),
    [
        ("[policy]\naction = 'ask'", "policy", "under a [[policy]] of its own"),
        ("[[policy]]", "policy[0].action", "is missing: allow, ask or deny"),
        ("[[policy]]\naction = 'warn'", "policy[0].action", "one of allow, ask, deny"),
        *[
            (f"[[policy]]\naction = 'ask'\n[[policy]]\naction = 'ask'\n{text}", *expected)
            for text, *expected in (
                ("tools = ['send_mial']", "policy[1].tools", "did you mean 'send_mail'?"),
                ("tools = ['snd_*']", "policy[1].tools", "names no tool: 'snd_*'"),
                ("tools = []", "policy[1].tools", "a list of one text or more"),
                ("toolsets = ['wed']", "policy[1].toolsets", "did you mean 'web'?"),
                ("tool = 'x'", "policy[1].tool", "did you mean 'tools'?"),
                ("annotations = {egres = true}", "policy[1].annotations.egres", "mean 'egress'?"),
                ("annotations = {egress = 1}", "policy[1].annotations.egress", "true or false"),
                ("arguments = {to = 'x'}", "policy[1].arguments.to", "must be a table"),
                ("arguments = {to = {}}", "policy[1].arguments.to", "one of is, is_not"),
                ("arguments = {to = {contains = '('}}", "policy[1].arguments.to.contains", "RE2"),
                ("arguments = {to = {is = [1]}}", "policy[1].arguments.to.is", "a text, a number"),
                ("taint = 'all'", "policy[1].taint", "one of copied, unsaid, after"),
                ("taint_in = ['to']", "policy[1].taint_in", "`taint` has to say what"),
            )
        ],
        ("[approvals]\napprovers = 'alice'", "approvals.approvers", "a list of texts"),
        ("[approvals]\nunmatched = 'no'", "approvals.unmatched", "one of allow, ask, deny"),
        ("[approvals]\nseconds = 0", "approvals.seconds", "a number of seconds"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(tmp_path: Path, text: str, param: str, told: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read(tmp_path, text)
    assert refused.value.param == param
    assert told in refused.value.message
    assert refused.value.message.startswith(str(tmp_path / "f1.toml"))


def test_the_rules_of_the_example_ask_where_a_page_may_have_spoken() -> None:
    config = read_config(Path(__file__).parent.parent / "examples" / "f1.toml")
    page = Taint({}, {"to": "read_page"}, "read_page")
    looks = ToolSpec(Tool("look"), annotations=Annotations(read_only=True, egress=False))
    for spec, taint, action in (
        (SEND, page, "ask"),
        (SEND, Taint(after="read_page"), "allow"),
        (ToolSpec(Tool("get"), annotations=Annotations(read_only=True)), page, "ask"),
        (looks, page, "allow"),
    ):
        assert config.policy.ruling(spec, {"to": "x"}, taint).action == action
    booking = ToolSpec(Tool("book_flight"))
    assert config.policy.ruling(booking, {"to": "Mordor"}).action == "deny"
