"""Runs in a table, and what differs between two of them."""

from __future__ import annotations

import time

from rich.console import Console
from rich.table import Table
from rich.text import Text

from f1.store.runs import RunRow, Status
from f1.trace.compare import compare
from f1.trace.sources import Source
from f1.trace.story import Story
from f1.trace.visible import visible

_PAGE = 100
_SIDE = 400  # of each side of a difference
_MOST = 20  # differences that are shown


def list_rows(
    source: Source,
    limit: int,
    status: Status | None,
    session_id: str | None,
    failed: bool,
    console: Console,
) -> None:
    """Those that began last first; whose they are, where they are not all of one tenant."""
    rows: list[RunRow] = []
    before = None
    while len(rows) < limit:
        page = source.page(_PAGE, before, session_id, status)
        rows += [row for row in page if not failed or _went_wrong(row)][: limit - len(rows)]
        if len(page) < _PAGE or page[-1].began == before:
            break
        before = page[-1].began
    several = len({row.tenant for row in rows}) > 1
    table = Table(box=None, pad_edge=False)
    for name in (
        "run",
        *(["tenant"] if several else []),
        "began",
        "status",
        "calls",
        "tokens",
        "s",
    ):
        table.add_column(name, no_wrap=True)
    table.add_column("asked")  # it gives way where the terminal is narrow
    for row in rows:
        run, *rest = _cells(row)
        table.add_row(run, *([Text(visible(row.tenant), no_wrap=True)] if several else []), *rest)
    console.print(table)


def _went_wrong(row: RunRow) -> bool:
    ending = row.about.get("ending", "answered" if row.status != "ended" else "")
    return bool(row.about.get("failed")) or ending not in ("answered", "planned", "client_calls")


def _cells(row: RunRow) -> list[Text]:
    about = row.about
    began = time.strftime("%m-%d %H:%M:%S", time.localtime(row.began))
    ending = str(about.get("ending") or row.status) if row.status == "ended" else row.status
    calls = f"{about.get('calls', '')}" + (f" ({f} failed)" if (f := about.get("failed")) else "")
    seconds = about.get("seconds")
    took = f"{seconds:.1f}" if isinstance(seconds, int | float) else ""
    question = str(about.get("question", ""))
    cells = [row.id, began, ending, calls, str(about.get("completion_tokens", "")), took, question]
    return [
        Text(visible(cell.replace("\n", " ⏎ ")), no_wrap=True, overflow="ellipsis")
        for cell in cells
    ]


def list_differences(a: Story, b: Story, console: Console) -> bool:
    """Whether there are any."""
    found = list(compare(a, b))
    if not found:
        console.print(f"no difference: {len(a.turns)} turns, {len(a.calls)} calls")
        return False
    for index, difference in enumerate(found[:_MOST]):
        head = "first, " if index == 0 else ""
        style = "bold red" if index == 0 else "bold"
        console.print(Text(f"{head}{visible(difference.where)}", style))
        sides = _apart(difference.a, difference.b)
        for name, side in zip((a.row.id, b.row.id), sides, strict=True):
            console.print(Text(f"  {visible(name[:20])}: ", "dim").append(visible(side), "not dim"))
    if len(found) > _MOST:
        console.print(f"and {len(found) - _MOST} more")
    return True


def _apart(a: str, b: str) -> tuple[str, str]:
    """Both from shortly before where they part."""
    same = next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )
    start = max(same - 40, 0) if max(len(a), len(b)) > _SIDE else 0
    lead = "…" if start else ""
    cut_a, cut_b = (lead + text[start : start + _SIDE] for text in (a, b))
    return (
        cut_a + ("…" if start + _SIDE < len(a) else ""),
        cut_b + ("…" if start + _SIDE < len(b) else ""),
    )
