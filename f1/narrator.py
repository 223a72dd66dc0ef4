"""Tells a person what a run does while it does it.

On a terminal the plan stands there as a graph, each call with its time running and then with what
it returned, and the answer grows below; elsewhere each thing that happens is a line.

    ●     1  flight_price(city="Lisbon")             ✓ 0.40 s  {"flight_price":231}
    │ ●   2  hotel_price(city="Lisbon", nights=3)    … 0.3 s
    ╰─┴─● 3  total_cost(flight=$1, hotel=$2)
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from contextlib import nullcontext

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from f1.errors import InvalidRequest
from f1.planning.approvals import read_verdict, show
from f1.planning.drawing import draw
from f1.planning.outcome import (
    CallTools,
    GiveUp,
    NeedsApproval,
    Outcome,
    Planned,
    Progress,
    Reply,
    report_of,
)
from f1.trace.recorder import RedactsNothing
from f1.types import (
    Approval,
    Node,
    Note,
    Plan,
    Started,
    TextDelta,
    ToolCall,
    ToolResult,
    Usage,
    Verdict,
)

_MAX_RESULT = 200  # characters of a result that are shown
_MAX_ROWS = 24  # of the plan that are shown while it runs
_REFRESHES = 8  # a second


class Narrator:
    """Of one run. Everything goes to `console`."""

    def __init__(self, console: Console):
        self.console = console
        self.asked = time.perf_counter()
        self.first: float | None = None  # when anything was heard
        self.nodes: list[Node] = []
        self.began: dict[str, float] = {}  # by node id
        self.results: dict[str, ToolResult] = {}
        self.text = ""
        self.live: Live | None = None

    def approve(self, approval: Approval) -> Verdict:
        """Asks the person at the terminal about a call. No answer is a no."""
        if self.live is not None:
            self.live.stop()
        self.console.print(f"\n[bold yellow]May this run?[/]\n{escape(show(approval))}")
        try:
            answer = self._answer(approval)
        except EOFError:
            answer = Verdict("reject", reason="nobody answered")
        if self.live is not None and self.console.is_terminal:
            self.live.start()
        return answer

    def _answer(self, approval: Approval) -> Verdict:
        while True:
            said = self.console.input("[bold]y[/]es, [bold]n[/]o, [bold]e[/]dit: ").strip().lower()
            if said in ("y", "yes"):
                return Verdict("approve")
            if said in ("n", "no"):
                return Verdict("reject", reason=self.console.input("why, for the model: ").strip())
            if said in ("e", "edit"):
                verdict = Verdict("edit", arguments=self.console.input("arguments, as JSON: "))
                try:
                    read_verdict(approval, verdict, time.time(), RedactsNothing())
                    return verdict
                except InvalidRequest as error:
                    self.console.print(f"[red]{escape(str(error))}[/]")

    def tell(self, progress: Iterable[Progress]) -> Outcome:
        """To the run's end, which it returns."""
        live = Live(
            get_renderable=self._screen,
            console=self.console,
            refresh_per_second=_REFRESHES,
            transient=True,
        )
        outcome: Outcome | None = None
        self.live = live
        with live if self.console.is_terminal else nullcontext():
            for item in progress:
                self.first = self.first or time.perf_counter()
                if isinstance(item, Reply | CallTools | NeedsApproval | Planned | GiveUp):
                    outcome = item
                else:
                    self._hear(item)
        if outcome is None:
            raise RuntimeError("the run stopped before its end")
        self._end(outcome)
        return outcome

    def _hear(self, item: Progress) -> None:
        lines = not self.console.is_terminal
        match item:
            case Node():
                self.nodes.append(item)
            case Started():
                self.began[item.node.id] = item.at
                if lines:
                    self.console.print(f"  [cyan]→[/] {escape(write_call(item.call))}")
            case ToolResult():
                self.results[item.node_id] = item
                if lines:
                    self.console.print(f"  {_mark(item)} {escape(item.call.name)} {_came_to(item)}")
            case TextDelta():
                self.text += item.text
            case Note():
                self.console.print(f"  [dim]{escape(item.text)}[/]")

    def _screen(self) -> RenderableType:
        """What stands on the terminal just now."""
        return Group(self._graph(_MAX_ROWS), Text(self.text.strip()))

    def _graph(self, max_rows: int | None = None) -> Table:
        table = Table.grid(padding=(0, 2))
        table.add_column(no_wrap=True, overflow="ellipsis")
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        nodes = tuple(self.nodes)
        rows = list(zip(draw(Plan(nodes), self.results), nodes, strict=True))
        for row, node in rows[-max_rows:] if max_rows else rows:
            table.add_row(Text(row), self._state(node))
        return table

    def _state(self, node: Node) -> str:
        if (result := self.results.get(node.id)) is not None:
            return f"{_mark(result)} {_came_to(result)}"
        if (began := self.began.get(node.id)) is not None:
            return f"[cyan]…[/] [dim]{time.perf_counter() - began:.1f} s[/]"
        return ""

    def _end(self, outcome: Outcome) -> None:
        report = report_of(outcome)
        if self.console.is_terminal or isinstance(outcome, Planned):
            self.nodes = list(report.plan.nodes)
            self.console.print(self._graph())
        self._together(report.results)
        match outcome:
            case Reply():
                text = outcome.completion.message.content.strip()
                self.console.print(f"\n[bold]Answer[/]    {escape(text)}")
            case GiveUp():
                self.console.print(f"\n[bold red]No answer:[/] {escape(outcome.why)}")
            case CallTools():
                calls = ", ".join(write_call(call) for call in outcome.calls)
                self.console.print(f"\n[bold]Left for you to run:[/] {escape(calls)}")
            case NeedsApproval():
                for approval in outcome.approvals:
                    self.console.print(
                        f"\n[bold yellow]Waits for a person:[/] {escape(show(approval))}"
                    )
                self.console.print(f"[dim]run {escape(outcome.run_id)}[/]")
            case Planned():
                self.console.print("\n[bold]Planned[/], nothing was run")
        self._times(outcome.completion.usage)

    def _together(self, results: Sequence[ToolResult]) -> None:
        """What it took that calls ran side by side."""
        wall = end = 0.0
        for begin, until in sorted((r.started, r.started + r.seconds) for r in results):
            wall += max(until - max(begin, end), 0.0)
            end = max(end, until)
        if len(results) > 1:
            in_turn = sum(result.seconds for result in results)
            self.console.print(
                f"  [dim]tools: {wall:.2f} s; one by one they take {in_turn:.2f} s[/]"
            )

    def _times(self, usage: Usage) -> None:
        total = time.perf_counter() - self.asked
        first = (self.first or time.perf_counter()) - self.asked
        self.console.print(
            f"[dim]{total:.1f} s in all, {first:.2f} s to the first event; "
            f"{usage.prompt_tokens} prompt tokens ({usage.cached_tokens} of them reused), "
            f"{usage.completion_tokens} written[/]"
        )


def write_call(call: ToolCall) -> str:
    """`flight_price(city="Lisbon")`"""
    arguments = json.loads(call.arguments)
    inside = ", ".join(
        f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in arguments.items()
    )
    return f"{call.name}({inside})"


def _mark(result: ToolResult) -> str:
    return "[red]✗[/]" if result.failed else "[green]✓[/]"


def _came_to(result: ToolResult) -> str:
    content = result.content
    shown = content if len(content) <= _MAX_RESULT else f"{content[:_MAX_RESULT]}…"
    return f"{escape(shown)} [dim]in {result.seconds:.2f} s[/]"
