"""A run for people, on a terminal: what was asked, what the model was shown and chose between, each
call with where its values came from, and what came of it.

    $2 book_flight  ✗ refused   call 98 %, book_flight 71 % over find_flight 28 %
         flight  "SK231"       the model's own: said nowhere
         name    "Ann Lee"     the user: …one seat for «ann lee» please…

Nothing of others is markup, and nothing of it steers the terminal.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from f1.errors import NotFound
from f1.trace.entries import (
    Called,
    Ended,
    HandedOver,
    Noted,
    Origin,
    Returned,
    Shown,
    Turned,
    Written,
)
from f1.trace.story import Story, Told
from f1.trace.visible import visible
from f1.types import CallDelta, Choosing, Ref, Selected, ToolCall

_LINE = 160  # characters of a text that are shown
_AROUND = 24  # of what stands beside a span
_TOOLS = 5  # of those shown, named
_SCREEN = 600  # characters of a text that is looked at closely
_OWN = "bold red"
_WORD = re.compile(r"[^\W_]+")


def show(story: Story, console: Console) -> None:
    """The whole run."""
    _head(story, console)
    turns_told: set[int] = set()  # each stands before its calls, which are written before it ends
    last = {turn.number: turn for turn in story.turns}
    for written in story.written:
        match written.entry:
            case Shown() as shown:
                console.print(_step(story, written, shown))
            case Turned(number=number) if number not in turns_told:
                turns_told.add(number)
                console.print(_turn(story, last[number]))
            case Called(node=node):
                told = story.calls[node.id]
                if told.turn is not None and told.turn.number not in turns_told:
                    turns_told.add(told.turn.number)
                    console.print(_turn(story, told.turn))
                _call(story, told, console)
            case Noted(text=text):
                console.print(Text(f"  note: {_line(text)}", "dim"))
            case HandedOver(calls=calls):
                names = ", ".join(visible(call.name) for call in calls)
                console.print(Text(f"  handed to the caller: {names}", "cyan"))
            case Returned():
                console.print(Text(f"  the caller came back, {_after(story, written)}", "cyan"))
            case Ended() as ended:
                _end(ended, console)
    if story.ended is None:
        standing = {"running": "it runs, or was interrupted", "waiting": "it waits"}
        told_so = standing.get(story.row.status, "it broke off")
        console.print(Text(f"no end is written: {told_so}", "yellow"))


def why(story: Story, node_id: str, console: Console) -> None:
    """All that led to one call, and what became of it. Raises NotFound."""
    told = story.calls.get(node_id.removeprefix("$"))
    if told is None:
        there = ", ".join(f"${name}" for name in story.calls) or "none"
        raise NotFound(f"no call {node_id[:100]!r} in this run; there are: {there}", param="why")
    _head(story, console)
    console.print(_heading(told, "", theirs=story.is_turn))
    for line in _led_to(story, told):
        console.print(Padding(line, (0, 0, 0, 4)))
    _arguments(story, told, console, _SCREEN)
    for line in _became(story, told, _SCREEN):
        console.print(Padding(line, (0, 0, 0, 4)))
    _verdict(story, told, console)


# --- parts ---------------------------------------------------------------------------------------


def _head(story: Story, console: Console) -> None:
    began, ended = story.began, story.ended
    read, reused, wrote = story.tokens
    about = story.row.about
    ending = ended.ending if ended is not None else story.row.status
    models = sorted(set(began.models.values())) if began is not None else []
    strategy = str(about.get("strategy", began.request.run.strategy if began else ""))
    head = Text(f"run {visible(story.row.id)}", "bold")
    console.print(head.append(f"  {ending}{_took(story)}", "not bold"))
    tokens = f"{len(story.turns)} turns, {read} tokens read ({reused} reused), {wrote} written"
    parts = [", ".join(map(visible, models)), visible(strategy), tokens]
    console.print(Text(" · ".join(filter(None, parts)), "dim"))
    if began is not None and began.forked_from:
        console.print(Text(f"forked from {visible(began.forked_from)}", "dim"))
    if began is not None:
        asked = [m.content for m in began.request.messages if m.role == "user"]
        console.print(Text(_line(asked[-1] if asked else "", _SCREEN), "italic"))


def _took(story: Story) -> str:
    """From the first entry to the end, where that is clearly more than what the last request took:
    one before it left the run, which waited then or was interrupted."""
    if story.ended is None:
        return ""
    seconds, whole = story.ended.seconds, story.since(story.written[-1])
    if whole - seconds < max(1.0, 0.1 * whole):
        return f" in {seconds:.2f} s"
    return f" after {_seconds(whole)}, {_seconds(seconds)} of it in the last request"


def _seconds(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"


def _step(story: Story, written: Written, shown: Shown) -> Text:
    text = Text(f"step {shown.step}", "bold").append(f"  {_after(story, written)}", "not bold dim")
    num_tools = shown.num_tools or len(shown.tools)
    if num_tools:
        text.append(f"  {len(shown.tools)} of {num_tools} tools", "not bold")
        if shown.selected and len(shown.tools) < num_tools:
            text.append(": " + _selected(shown.selected), "not bold dim")
    if shown.dropped:
        text.append(f"  {shown.dropped} messages did not fit", "yellow")
    return text


def _selected(selected: Sequence[Selected]) -> str:
    best = sorted(selected, key=lambda each: -each.score)
    more = f", +{len(best) - _TOOLS}" if len(best) > _TOOLS else ""
    return ", ".join(map(_scored, best[:_TOOLS])) + more


def _scored(tool: Selected) -> str:
    return f"{visible(tool.name)} {tool.score:.2f} {tool.why}"


def _turn(story: Story, turn: Turned) -> Text:
    usage = turn.usage
    first = "" if turn.first is None else f", first after {turn.first:.2f} s"
    text = Text(f"  {turn.role} ", "dim").append(
        f"{turn.seconds:.2f} s{first}, {usage.prompt_tokens} read ({usage.cached_tokens} reused), "
        f"{usage.completion_tokens} written"
    )
    if not turn.whole:
        text.append("  interrupted", "yellow")
    for of, call in _not_made(story):
        if of.number == turn.number:
            written = f"{call.name}({call.arguments})"
            text.append(f"\n    written, and not called: {_line(written)}", "yellow")
    no_call = [c for way in turn.choosing for c in way if c.taken == "text"]
    for choosing in no_call[:1]:
        text.append(f"  {_chosen(choosing)}")
    return text


def _heading(told: Told, indent: str = "  ", *, theirs: bool = False) -> Text:
    result = told.result
    text = Text(f"{indent}${visible(told.node.id)} {visible(told.node.tool)}", "bold")
    if result is None:
        text.append("" if theirs else "  not done", "yellow")
    elif result.failed:
        text.append(f"  ✗ {result.failed}", "red")
    else:
        text.append("  ✓", "green")
    if result is not None and result.tries:
        more = f" in {result.tries} tries" if result.tries > 1 else ""
        text.append(f" {result.seconds:.2f} s{more}", "not bold")
    if told.choosing:
        text.append("   " + ", ".join(map(_chosen, told.choosing)), "not bold dim")
    return text


def _call(story: Story, told: Told, console: Console) -> None:
    console.print(_heading(told, theirs=story.is_turn))
    _arguments(story, told, console, _LINE // 2)
    for line in _became(story, told, _LINE):
        console.print(Padding(line, (0, 0, 0, 4)))


def _chosen(choosing: Choosing) -> str:
    taken = f"{visible(choosing.taken)} {_share(choosing.logprob)}"
    if choosing.second and choosing.second_logprob is not None:
        taken += f" over {visible(choosing.second)} {_share(choosing.second_logprob)}"
    if choosing.masked_mass is not None and choosing.masked_mass >= 0.005:
        taken += f" ({choosing.masked_mass:.0%} not allowed)"
    return taken


def _share(logprob: float) -> str:
    share = math.exp(min(logprob, 0.0))
    return f"{share:.0%}" if share >= 0.1 else f"{share:.1%}"


def _arguments(story: Story, told: Told, console: Console, most: int) -> None:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    for path, value, origin in _values(told):
        source = Text("not known", "dim") if origin is None else _origin(story, origin, value)
        if origin is not None and origin.source == "model" and _was_given(story, told):
            source = Text("the plan that was given", "cyan")
        table.add_row(visible(path), _line(_value(value), most), source)
    if table.row_count:
        console.print(Padding(table, (0, 0, 0, 6)))


def _was_given(story: Story, told: Told) -> bool:
    """It stood in a plan that came with the request."""
    given = story.began is not None and story.began.request.run.plan is not None
    return given and told.turn is None


def _values(told: Told) -> Iterator[tuple[str, Any, Origin | None]]:
    """At the leaves, in order, as origins are; those are of none or of all."""
    leaves, origins = list(_leaves(told.node.arguments, "")), told.called.origins
    for index, (path, value) in enumerate(leaves):
        yield path, value, origins[index] if len(origins) == len(leaves) else None


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _leaves(inner, f"{path}[{index}]")
    else:
        yield path, value


def _value(value: Any) -> str:
    if isinstance(value, Ref):
        dot = "." if value.path and value.path[0] != "[" else ""
        return f"${value.id}{dot}{value.path}"
    return json.dumps(value, ensure_ascii=False)


def _origin(story: Story, origin: Origin, value: Any) -> Text:
    text = _where(story, origin, value)
    if isinstance(value, str) and origin.text and origin.source not in ("reference", "person"):
        said = set(_WORD.findall(origin.text.casefold()))
        more = "".join(word for word in _WORD.findall(value.casefold()) if word not in said)
        if more and more not in "".join(said):  # spaced in another way it is the same
            text.append("; the rest is its own", _OWN)
    return text


def _where(story: Story, origin: Origin, value: Any) -> Text:
    said = origin.text or (value if isinstance(value, str) else json.dumps(value, default=str))
    match origin.source:
        case "user" | "system" | "assistant":
            names = {"user": "the user", "system": "the system message", "assistant": "F1 before"}
            return Text(f"{names[origin.source]}: ").append_text(_quoted(story, origin, said))
        case "result" | "reference":
            return _returned(story, origin, value)
        case "schema":
            return Text(
                "the schema's default" if origin.field == "default" else "the schema's list"
            )
        case "person":
            return Text("a person's edit", "cyan")
    if isinstance(value, bool) or value is None:
        return Text("the model's own", "dim")
    return Text("the model's own: said nowhere", _OWN)


def _returned(story: Story, origin: Origin, value: Any) -> Text:
    told = story.calls.get(value.id) if isinstance(value, Ref) else None
    told = told or story.told_by(origin.call_id)
    if told is None:
        name = next(
            (c.name for m in story.said for c in m.tool_calls if c.id == origin.call_id), "a tool"
        )
        where = f"{visible(name)}, before the run"
    else:
        where = f"${visible(told.node.id)} {visible(told.node.tool)}"
    text = Text(f"{where} ─▶ {visible(origin.field) or 'its text'}", "green")
    if origin.source == "result" and origin.text and origin.text != value:
        text.append(f": «{_line(origin.text, _LINE // 2)}»", "not green")
    return text


def _quoted(story: Story, origin: Origin, said: str) -> Text:
    """What stood there, and around it."""
    texts = [m.content for m in story.said if m.role == origin.source and said in m.content]
    if not texts:
        return Text(f"«{_line(said)}»")
    content = texts[-1]
    start = origin.start if origin.start is not None else -1
    if content[start : origin.end] != said:
        start = content.find(said)
    end = start + len(said)
    before, behind = content[max(start - _AROUND, 0) : start], content[end : end + _AROUND]
    text = Text("…" if start > _AROUND else "").append(_line(before))
    text.append(f"«{_line(said)}»", "bold").append(_line(behind))
    return text.append("…" if end + _AROUND < len(content) else "")


def _became(story: Story, told: Told, most: int) -> Iterator[Text]:
    if told.approval is not None:
        yield Text(f"asked a person: {_line(told.approval.why)}", "cyan")
    if told.decided is not None:
        verdict = told.decided.verdict
        more = _line(verdict.reason or verdict.arguments)
        who = f" by {visible(told.decided.who)}" if told.decided.who else ""
        yield Text(f"{verdict.kind}{who}{': ' if more else ''}{more}", "cyan")
    for again in told.launched[1:]:
        yield Text(f"interrupted, and launched again {_after(story, again)}", "yellow")
    result = told.result
    if result is None:
        if told.launched:
            yield Text(
                f"launched {_after(story, told.launched[-1])}, no result is written", "yellow"
            )
        return
    if json.loads(result.call.arguments) != dict(told.node.arguments):
        yield Text(f"ran with {_line(result.call.arguments, most)}", "dim")
    marks = [name for name in ("cut", "shared") if getattr(result, name)]
    head = Text("─▶ ", "red" if result.failed else "green")
    yield head.append(_line(result.content, most), "default").append(
        f"  ({', '.join(marks)})" if marks else ""
    )


def _led_to(story: Story, told: Told) -> Iterator[Text]:
    """What the model was shown, and what it had to choose between."""
    step = told.called.step
    shown = next((s for _, s in story.each(Shown) if s.step == step), None)
    turn = told.turn
    if turn is None:
        given = "; it stood in the plan that was given" if _was_given(story, told) else ""
        yield Text(f"step {step}: no turn of a model is known to have written it{given}")
    else:
        yield Text(
            f"step {step}, turn {turn.number + 1} of the {visible(turn.role)}, {turn.seconds:.2f} s"
        )
    if shown is not None:
        best = sorted(shown.selected, key=lambda each: -each.score)
        place = next((i for i, each in enumerate(best, 1) if each.name == told.node.tool), None)
        text = Text(f"shown {len(shown.tools)} of {shown.num_tools or len(shown.tools)} tools")
        if place is not None and len(shown.tools) < shown.num_tools:
            text.append(f"; it came {place}. ({_scored(best[place - 1])})")
        others = [name for name in shown.tools if name != told.node.tool]
        yield text.append(f"; beside it {_names(others)}" if others else "")
    for choosing in told.choosing:
        what = "to call or not: " if choosing.what == "call" else "which tool: "
        yield Text(what).append(_chosen(choosing), "bold")
    if turn is not None and not told.choosing:
        yield Text(f"which tool: {_forced(turn)}")
    for earlier_turn, call in _not_made(story):
        if call.name == told.node.tool and (turn is None or earlier_turn.number <= turn.number):
            arguments = _line(call.arguments, _LINE)
            yield Text(
                f"before, in turn {earlier_turn.number + 1}, not called: {arguments}", "yellow"
            )
    for _, noted in story.each(Noted):
        if told.node.tool in noted.text:
            yield Text(f"note: {_line(noted.text)}", "dim")
    before = [t for t in story.calls.values() if t.called.step < step and t.result is not None]
    for earlier in before[-3:]:
        result = earlier.result
        content = result.content if result is not None else ""
        name = f"${visible(earlier.node.id)} {visible(earlier.node.tool)}"
        yield Text(f"it had read {name} ─▶ {_line(content, _LINE)}", "dim")


def _forced(turn: Turned) -> str:
    choice = turn.asked.get("tool_choice")
    mode = choice.get("mode") if isinstance(choice, Mapping) else None
    if isinstance(choice, Mapping) and mode == "named":
        return f"{visible(str(choice.get('name')))} was demanded, nothing was left to choose"
    return "some call was demanded" if mode == "required" else "no decision is recorded"


def _not_made(story: Story) -> Iterator[tuple[Turned, ToolCall]]:
    """Calls that were written, and are no nodes of the run."""
    made = {told.node.call_id for told in story.calls.values()}
    for turn in story.turns:
        for event in turn.events:
            if isinstance(event, CallDelta) and event.call.id not in made:
                yield turn, event.call


def _verdict(story: Story, told: Told, console: Console) -> None:
    """The findings, in a line or two."""
    own = (
        []
        if _was_given(story, told)
        else [
            path
            for path, value, origin in _values(told)
            if origin is not None
            and origin.source == "model"
            and not isinstance(value, bool | None)
        ]
    )
    if own:
        values = "value" if len(own) == 1 else "values"
        names = ", ".join(map(visible, own))
        console.print(Text(f"{len(own)} {values} nobody said and nothing returned: {names}", _OWN))
    close = [c for c in told.choosing if (c.second_logprob or -math.inf) > c.logprob - 1.0]
    for choosing in close:
        told_so = f"a close choice: {visible(choosing.taken)}, nearly {visible(choosing.second)}"
        console.print(Text(told_so, _OWN))
    users = [t for t in story.calls.values() if told.node.id in _needs(t)]
    if users:
        names = ", ".join(f"${visible(t.node.id)} {visible(t.node.tool)}" for t in users)
        console.print(Text(f"its result went into {names}", "yellow"))


def _needs(told: Told) -> set[str]:
    """Nodes whose results its values came from."""
    leaves = _leaves(told.node.arguments, "")
    return {leaf.id for _, leaf in leaves if isinstance(leaf, Ref)} | set(told.node.after)


def _end(ended: Ended, console: Console) -> None:
    if ended.error:
        console.print(Text(f"failed: {_line(ended.error, _SCREEN)}", "red"))
    style = "bold" if ended.ending == "answered" else "bold yellow"
    console.print(Text(f"{ended.ending}: ", style).append(_line(ended.text, _SCREEN), "not bold"))


def _after(story: Story, written: Written) -> str:
    return f"+{story.since(written):.2f} s"


def _names(names: Iterable[str]) -> str:
    some = list(names)
    more = f", +{len(some) - _TOOLS}" if len(some) > _TOOLS else ""
    return ", ".join(map(visible, some[:_TOOLS])) + more


def _line(text: str, most: int = _LINE) -> str:
    """On one line, and not longer."""
    shown = visible(text[:most].replace("\n", " ⏎ "))
    return shown if len(text) <= most else f"{shown}…"
