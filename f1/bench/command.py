"""What `f1 bench` does between its options and its exit: run, show, write."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from f1 import __version__
from f1.bench import run as bench_run
from f1.bench.machine import describe_run
from f1.bench.report import OURS, Report, Row
from f1.bench.run import PEERS, SECTIONS, Bench, Options
from f1.bench.sections import run_sections
from f1.bench.work import Costs
from f1.errors import InvalidRequest
from f1.models.load import load_checkpoint
from f1.models.pull import resolve
from f1.settings import Settings


def parse_sections(text: str | None) -> tuple[str, ...]:
    """ "decode,prefill" → the sections; None: all. Raises InvalidRequest."""
    if text is None:
        return SECTIONS
    asked = tuple(name.strip() for name in text.split(","))
    if unknown := [name for name in asked if name not in SECTIONS]:
        raise InvalidRequest(f"--only: no section {unknown[0]!r}; there are {', '.join(SECTIONS)}")
    return asked


def run_bench(options: Options, console: Console) -> dict[str, Any]:
    """Measures, prints the tables, and returns everything as it goes into the JSON file."""
    settings = Settings.from_env()
    checkpoint = load_checkpoint(options.model, settings)
    described = describe_run(
        "llama-cpp-python",
        "openvino-genai",
        model=options.model,
        threads=options.threads,
        sections=options.sections,
        peers=list(options.peers),
        **asdict(options.sizes),
    )
    with _progress(console) as progress:
        path = resolve(options.model, settings)
        bench = Bench(options, checkpoint, path, Costs.of(checkpoint), progress)
        run_sections(bench)
    notes = bench.report.notes
    notes += [f"{name}: {PEERS[name][1]}" for name in options.peers]
    command = " ".join(["f1", *sys.argv[1:]])
    found = {
        "command": command,
        "version": __version__,
        **described,
        "engine": {name: str(value) for name, value in asdict(settings).items()},
        "model": bench.facts,
    }
    show(bench.report, found, console)
    return found | bench.report.as_dict()


@contextmanager
def _progress(console: Console) -> Iterator[bench_run.Progress]:
    columns = (TextColumn("{task.description:28s}"), BarColumn(24), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def advance(section: str, done: int, total: int) -> None:
            if section not in tasks:
                tasks[section] = bars.add_task(section, total=total)
            bars.update(tasks[section], completed=done)

        yield advance


def show(report: Report, found: dict[str, Any], console: Console) -> None:
    console.print(
        f"\n[bold]{escape(str(found['settings']['model']))}[/]  commit {found['commit']}, "
        f"{escape(found['machine'])}, load {found['load']:.1f}"
    )
    console.print(_rows_table(report))
    compared = {report.beside(row) for row in report.rows}  # they stand beside the rows
    shares = [entry for entry in report.derived if entry not in compared]
    if shares:
        table = Table("quotient of medians", "of", "threads", box=None, pad_edge=False)
        table.add_column("", justify="right")
        for entry in shares:
            value = f"{entry.value:.{2 if entry.unit == 'x' else 0}f} {entry.unit}"
            table.add_row(entry.what, entry.of, str(entry.threads), value)
        console.print(table)
    for note in report.notes:
        console.print(f"[dim]{escape(note)}[/]")


def _rows_table(report: Report) -> Table:
    table = Table("figure", "threads", "who", box=None, pad_edge=False)
    for name in ("median", "lowest to highest", "f1 is"):
        table.add_column(name, justify="right", no_wrap=True)
    group: tuple[str, int, str] | None = None
    for row in sorted(report.rows, key=lambda row: _place(report.rows, row)):
        key = (row.what, row.threads, row.unit)
        lead = (f"{row.what}, {row.unit}", str(row.threads)) if key != group else ("", "")
        group = key
        who = f"[bold]{row.who}[/]" if row.who == OURS else row.who
        spread = f"{_figure(min(row.values))} to {_figure(max(row.values))}"
        beside = report.beside(row)
        times = f"{beside.value:.2f} x" if beside else ""
        table.add_row(*lead, who, _figure(row.median), spread, times)
    return table


def _place(rows: Sequence[Row], row: Row) -> tuple[int, int, int]:
    """Rows of one figure together, in the order of first appearance."""
    what = next(i for i, other in enumerate(rows) if other.what == row.what)
    units = [other.unit for other in rows if other.what == row.what]
    return what, -row.threads, units.index(row.unit)


def _figure(value: float) -> str:
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:,.{digits}f}"


def write_json(found: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", "utf-8")
