"""`f1 mcp`: what the MCP servers of an f1.toml offer, and what of it a person approves."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from f1.errors import F1Error, InvalidRequest, meant

if TYPE_CHECKING:
    from f1.tools.mcp.servers import McpServers, Offer

app = typer.Typer(help="The MCP servers of an f1.toml, and F1 as one.", no_args_is_help=True)

ConfigOption = Annotated[
    Path, typer.Option("--config", envvar="F1_CONFIG", help="The f1.toml that names them.")
]


@app.command("list")
def list_offers(config: ConfigOption = Path("f1.toml")) -> None:
    """List the servers and their tools; what is new or has changed is shown in full.

    It starts them, and ends them again. What a server offers when it is first met is approved
    by that, unless it is pin = "strict".
    """
    console = Console(highlight=False, soft_wrap=True)
    with _met(config) as servers:
        for status in servers.states():
            state = status.era if status.state == "up" else f"{status.state}: {status.why}"
            console.print(f"[bold]{escape(status.server.name)}[/]  {escape(state)}")
            offers = servers.offers(status.server.name)
            for offer in offers:
                mark = "" if offer.standing == "approved" else f"  [red]{offer.standing}[/]"
                console.print(f"  {offer.definition.public}{mark} {escape(offer.why)}")
            for offer in _waiting(offers):
                _show(offer, console)


@app.command("approve")
def approve(
    names: Annotated[list[str], typer.Argument(help="A server, or one tool of it: SERVER.TOOL.")],
    config: ConfigOption = Path("f1.toml"),
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Approve what is new or has changed, as it is shown: models may call it from then on.

    A server that runs takes notice. What is approved is the text that is shown: a server that
    says something else to others is not approved there.
    """
    console = Console(highlight=False, soft_wrap=True)
    with _met(config) as servers:
        for name in names:
            server, _, tool = name.partition(".")
            if server not in {status.server.name for status in servers.states()}:
                raise InvalidRequest(f"{config} has no MCP server '{server[:100]}'", param="name")
            waiting = [
                offer
                for offer in _waiting(servers.offers(server))
                if tool in ("", offer.definition.name, offer.definition.public)
            ]
            for offer in waiting:
                _show(offer, console)
            if not waiting:
                there = _there(servers, server, tool)
                console.print(f"nothing of {escape(name)} waits for it: {escape(there)}")
            elif yes or typer.confirm(f"Approve {len(waiting)} of {server}?"):
                try:
                    servers.approve(server, [offer.definition for offer in waiting])
                except OSError as error:
                    raise F1Error(f"it cannot be kept: {error}") from error
                console.print(f"approved {len(waiting)}")
            else:
                raise typer.Exit(1)


@app.command("serve")
def serve(
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="As `f1 serve` has it.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(envvar="F1_CONFIG", help="An f1.toml: models, tools, rules, …")
    ] = None,
) -> None:
    """Serve F1 as an MCP server on stdin and stdout, for a program that starts it.

    It offers the tools of the file that F1 runs, and `f1`, which is all of it. A running `f1
    serve` offers the same at /mcp.
    """
    from f1.config import Config, read_config
    from f1.models.catalogue import DEFAULT_MODEL
    from f1.offload import connect
    from f1.offloaded_embedder import OffloadedEmbedder
    from f1.serve.process import run_on_stdio

    if model is not None and config is not None:
        raise InvalidRequest("--model and --config: the file says which models", param="model")
    read = read_config(config) if config is not None else Config.of(model or DEFAULT_MODEL)
    if not run_on_stdio(read, connect, OffloadedEmbedder):
        raise typer.Exit(1)


@contextmanager
def _met(file: Path) -> Iterator[McpServers]:
    from f1.config import read_config
    from f1.settings import Settings
    from f1.tools.mcp.pins import Pins
    from f1.tools.mcp.servers import McpServers

    config = read_config(file)
    pins = Pins(Settings.from_env().pins_file)
    found = McpServers(tuple(config.mcp.values()), pins, lambda server, specs: None)
    with closing(found) as servers:
        longest = max((server.start_timeout for server in config.mcp.values()), default=0.0)
        servers.met(longest + 5)
        yield servers


def _waiting(offers: list[Offer]) -> list[Offer]:
    return [offer for offer in offers if offer.standing in ("new", "changed")]


def _there(servers: McpServers, server: str, tool: str) -> str:
    """What there is of it. Raises InvalidRequest where there is no such tool."""
    (status,) = (each for each in servers.states() if each.server.name == server)
    if status.state != "up":
        return f"{server} is {status.state}: {status.why}"
    standing = {offer.definition.name: offer.standing for offer in servers.offers(server)}
    known = standing.keys() | {offer.definition.public for offer in servers.offers(server)}
    if tool and tool not in known:
        told = f"{server} has no tool '{_seen(tool)[:100]}'{meant(tool, [*map(_seen, standing)])}"
        raise InvalidRequest(told, param="name")
    return ", ".join(f"{_seen(name)} is {each}" for name, each in standing.items()) or "no tools"


def _show(offer: Offer, console: Console) -> None:
    """All of it: what hides in a description hides where it is cut."""
    what = f"{offer.definition.server}.{offer.definition.name}"
    console.print(f"\n[bold]{offer.standing}[/] {escape(_seen(what))}", markup=True)
    before = _lines(offer.approved) if offer.approved else []
    for line in difflib.ndiff(before, _lines(offer.definition.text)):
        if not line.startswith("?"):
            style = {"+": "green", "-": "red"}.get(line[0], "dim")
            console.print(line, style=style, markup=False)


def _lines(text: str) -> list[str]:
    return [_seen(line) for line in json.dumps(json.loads(text), indent=1).splitlines()]


def _seen(text: str) -> str:
    from f1.trace.visible import visible

    return visible(text)
