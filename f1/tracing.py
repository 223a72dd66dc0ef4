"""`f1 trace`: what runs have left behind, on this machine or at a server."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

if TYPE_CHECKING:
    from f1.trace.sources import Source
    from f1.trace.story import Story

_ID_HELP = "Its id, as much of it as no other begins with, TENANT/ID, or `last`."
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help=_ID_HELP)]
UrlOption = Annotated[
    str | None, typer.Option("--url", help="Ask this server; else this machine's store is read.")
]

trace_app = typer.Typer(help="What runs did, and why: look, compare, replay.", no_args_is_help=True)


@contextmanager
def _source(url: str | None) -> Iterator[Source]:
    from f1.settings import Settings
    from f1.trace.sources import LocalRuns, ServedRuns

    source: Source = ServedRuns(url) if url else LocalRuns.open(Settings.from_env())
    try:
        yield source
    finally:
        source.close()


def _read(source: Source, name: str) -> Story:
    from f1.retelling import explained
    from f1.trace.sources import find
    from f1.trace.story import tell

    row = find(source, name)
    return explained(tell(row, source.entries(row)))


@trace_app.command("list")
def list_runs(
    limit: Annotated[int, typer.Option("-n", min=1, max=1000, help="How many.")] = 20,
    status: Annotated[
        Literal["running", "waiting", "ended"] | None, typer.Option(help="Only those.")
    ] = None,
    session: Annotated[str | None, typer.Option(help="Only those of this session.")] = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="Only those with a failed call, or without an answer.")
    ] = False,
    url: UrlOption = None,
) -> None:
    """List runs, those that began last first."""
    from f1.trace.listing import list_rows

    with _source(url) as source:
        list_rows(source, limit, status, session, failed, Console(highlight=False))


@trace_app.command("show")
def show_run(
    name: RunArgument = "last",
    why: Annotated[
        str | None, typer.Option(metavar="NODE", help="One call: all that led to it.")
    ] = None,
    prompt: Annotated[
        int | None,
        typer.Option(metavar="STEP", help="The prompts of a step, and what was written."),
    ] = None,
    url: UrlOption = None,
) -> None:
    """Show a run: steps, choices, calls, and where each of their values came from."""
    from f1.trace import show
    from f1.trace.prompts import show_prompts

    console = Console(highlight=False)
    with _source(url) as source:
        story = _read(source, name)
    if why is not None:
        show.why(story, why, console)
    elif prompt is not None:
        show_prompts(story, prompt, console)
    else:
        show.show(story, console)


@trace_app.command("export")
def export_run(
    name: RunArgument,
    to: Annotated[Path | None, typer.Option("--to", "-o", help="A file; else stdout.")] = None,
    url: UrlOption = None,
) -> None:
    """Write a run as JSON lines: how it stands, then its entries as they are kept."""
    from f1.trace.export import lines
    from f1.trace.sources import find

    with _source(url) as source:
        row = find(source, name)
        text = "".join(f"{line}\n" for line in lines(row, source.entries(row)))
    if to is not None:
        to.write_text(text, "utf-8")
    else:
        sys.stdout.write(text)


@trace_app.command("diff")
def diff_runs(
    name: RunArgument,
    other: Annotated[str, typer.Argument(metavar="OTHER", help="The run to compare it with.")],
    url: UrlOption = None,
) -> None:
    """Say where two runs part, what first differs first.

    Exit codes: 0 where nothing differs, 1 where something does.
    """
    from f1.trace.listing import list_differences

    with _source(url) as source:
        a, b = _read(source, name), _read(source, other)
    if list_differences(a, b, Console(highlight=False)):
        raise typer.Exit(1)


@trace_app.command("replay")
def replay_run(name: RunArgument = "last", url: UrlOption = None) -> None:
    """Decide a run all over again from its record, and hold it against that.

    Nothing runs, and no model is asked. Exit codes: 0 where it is the same, token by token, 1 where
    it parts.
    """
    from f1.retelling import retell
    from f1.trace.visible import visible

    with _source(url) as source:
        retold = retell(_read(source, name))
    counts = f"{retold.turns} turns, {retold.tokens} tokens, {retold.calls} calls"
    if retold.parted:
        typer.echo(f"parted: {visible(retold.parted)}")
        raise typer.Exit(1)
    typer.echo(f"identical: {counts}")


@trace_app.command("fork")
def fork_run(
    name: RunArgument,
    at: Annotated[
        str | None,
        typer.Option(
            metavar="NODE|STEP",
            help="With --result the call ($2, or 2) whose result is another; else the step from "
            "which on all is decided anew, or a call ($2) behind whose step.",
        ),
    ] = None,
    result: Annotated[
        str | None, typer.Option(help="What the call brings instead: JSON, or text.")
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="What the user says instead, at last.")] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Another; else the one that the run had.")
    ] = None,
    strategy: Annotated[str | None, typer.Option(help="Another way to go about it.")] = None,
    tools: Annotated[
        list[Path] | None,
        typer.Option("--tools", "-t", help="Python file of the run's tools; may be given again."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="The f1.toml with the run's tools, and its rules.")
    ] = None,
    url: UrlOption = None,
) -> None:
    """Go on from a point of a run with something changed there, on this machine.

    What stands before is told again; then the model is asked and tools RUN, under the same rules
    as ever. The fork is a run of its own. Exit codes: 0 where there is an answer, 1 where none.
    """
    from f1.ask import configured, load_tools, read_rules, rules
    from f1.planning.outcome import Planned, Reply
    from f1.retelling import changed, run_fork

    change = changed(at, result, prompt, strategy)
    with _source(url) as source:
        story = _read(source, name)
    functions = [function for path in tools or [] for function in load_tools(path)]
    read = read_rules(config, functions)
    with configured(read) as specs:
        own, policy = [*(f.spec for f in functions), *specs], rules(read, confirm=False)
        outcome = run_fork(story, change, own, model, policy, Console(highlight=False))
    if not isinstance(outcome, Reply | Planned):
        raise typer.Exit(1)


@trace_app.command("rm")
def remove_runs(
    names: Annotated[list[str], typer.Argument(metavar="RUN...", help=_ID_HELP)],
    url: UrlOption = None,
) -> None:
    """Forget runs: all that is kept of them."""
    from f1.trace.sources import find
    from f1.trace.visible import visible

    with _source(url) as source:
        for row in [find(source, name) for name in names]:
            if source.delete(row):
                typer.echo(f"removed {visible(row.id)}")
