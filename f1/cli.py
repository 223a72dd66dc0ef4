"""The `f1` command. Whatever is slow to import is imported by the command that needs it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from f1 import __version__, mcp_command
from f1.errors import F1Error, InvalidRequest
from f1.tracing import trace_app

app = typer.Typer(
    help="F1: function calling on open models, on this machine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_MODEL_HELP = "Catalogue name, path of a GGUF file or model folder, or hub id."
_URL_HELP = "Ask this server instead of loading a model."
_ONLY_HELP = (
    "Some of decode, prefill, batch, call, ttft, neighbour, overhead and memory, with commas."
)
_PEER_HELP = (
    "auto (what is installed), none, or llama.cpp or openvino, as NAME=FOLDER where it is "
    "installed outside this environment; may be given again."
)
_STRATEGY_HELP = "How to go about it: auto, direct, react, plan, vote, reflect, backtrack or soft."
_SERVER = "http://127.0.0.1:8000"
_SERVER_HELP = "The server that keeps them."
ModelOption = Annotated[str | None, typer.Option("--model", "-m", help=_MODEL_HELP)]
UrlOption = Annotated[str | None, typer.Option("--base-url", help=_URL_HELP)]
ServerOption = Annotated[str, typer.Option("--base-url", help=_SERVER_HELP)]

tools_app = typer.Typer(help="The tools that a server has registered.", no_args_is_help=True)
app.add_typer(tools_app, name="tools")
app.add_typer(trace_app, name="trace")
app.add_typer(mcp_command.app, name="mcp")


def main() -> None:
    """Exit codes: 0 done, 1 an error of F1's (on stderr), 2 wrong usage, 130 interrupted."""
    try:
        app()
    except F1Error as error:
        Console(stderr=True).print(f"[red]error:[/] {escape(error.message)}", highlight=False)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"f1 {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def demo(
    question: Annotated[str | None, typer.Argument(help="What to ask instead.")] = None,
    model: ModelOption = None,
    base_url: UrlOption = None,
) -> None:
    """Answer a question with tools: two side by side, then one that uses both results.

    The tools are built in and offline: flight_price, hotel_price and total_cost.
    """
    from f1.client import F1
    from f1.demo import QUESTION, run_demo

    console = Console(highlight=False)
    with F1(model, base_url=base_url) as f1:
        if not run_demo(f1, QUESTION if question is None else question, console):
            raise typer.Exit(1)


@app.command()
def chat(
    prompt: Annotated[str, typer.Argument(help="What to say; - reads it from stdin.")],
    model: ModelOption = None,
    base_url: UrlOption = None,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    max_tokens: Annotated[int, typer.Option(help="Where to stop at the latest.")] = 1024,
) -> None:
    """Say one thing to a model and print its answer as it comes."""
    from f1.client import F1
    from f1.types import TextDelta

    text = sys.stdin.read() if prompt == "-" else prompt
    with F1(model, base_url=base_url) as f1:
        for event in f1.stream(text, temperature=temperature, max_tokens=max_tokens):
            if isinstance(event, TextDelta):
                typer.echo(event.text, nl=False)
    typer.echo()


@app.command()
def ask(
    question: Annotated[str, typer.Argument(help="What to ask; - reads it from stdin.")],
    tools: Annotated[
        list[Path] | None,
        typer.Option("--tools", "-t", help="Python file of tools; may be given again."),
    ] = None,
    strategy: Annotated[str, typer.Option(help=_STRATEGY_HELP)] = "auto",
    plan_only: Annotated[
        bool, typer.Option("--plan-only", help="Print the plan as JSON, and run nothing.")
    ] = False,
    plan: Annotated[Path | None, typer.Option(help="Run this plan: JSON of --plan-only.")] = None,
    max_steps: Annotated[int, typer.Option(min=1, help="Turns of the model at most.")] = 8,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of one turn at most.")] = 1024,
    confirm: Annotated[
        bool, typer.Option("--confirm", help="Ask before any call of a tool not read-only.")
    ] = False,
    session: Annotated[
        str | None, typer.Option(help="Go on with the conversation of this name, or begin it.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="An f1.toml: its tools, MCP servers and rules, too.")
    ] = None,
    model: ModelOption = None,
    base_url: UrlOption = None,
) -> None:
    """Answer a question with your own functions, shown as they run.

    The tools are the functions of FILE that have @tool or, where none has, all public ones whose
    parameters have types. The file is run, as Python runs it.

    Exit codes: 0 where there is an answer or a plan, 1 where there is none.
    """
    from f1.ask import configured, load_tools, read_plan, read_rules, rules, run_ask
    from f1.client import F1

    functions = [function for path in tools or [] for function in load_tools(path)]
    options = {"strategy": strategy, "budget": {"steps": max_steps}}
    if plan_only or plan is not None:
        options["plan"] = "only" if plan is None else read_plan(plan)
    text = sys.stdin.read() if question == "-" else question
    # stdout is for the plan alone, so that it can be kept and edited.
    console = Console(highlight=False, stderr=plan_only)
    if session is not None:
        options["session_id"] = session
    read = read_rules(config, functions)
    policy = rules(read, confirm=confirm)
    with configured(read) as specs, F1(model, base_url=base_url, policy=policy) as f1:
        if not run_ask(f1, text, [*functions, *specs], options, max_tokens, console):
            raise typer.Exit(1)


@app.command()
def serve(
    model: ModelOption = None,
    config: Annotated[
        Path | None, typer.Option(envvar="F1_CONFIG", help="An f1.toml: models, roles, tools, …")
    ] = None,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Port; 0 takes a free one.", show_default="8000"),
    ] = None,
    no_keys: Annotated[
        bool, typer.Option("--no-keys", help="Let everybody in who reaches HOST.")
    ] = False,
) -> None:
    """Serve OpenAI's and Anthropic's APIs, for any of their clients.

    Base URL: http://HOST:PORT/v1, models: "f1" and the names of those it is made of. /ready
    answers 200 once those here that the roles need first are loaded, as far as memory holds
    them at a time; the others are loaded when they are asked. F1_API_KEYS or F1_API_KEYS_FILE
    hold the keys that let clients in; without keys it listens to this machine only.
    """
    from f1.config import Config, read_config
    from f1.models.catalogue import DEFAULT_MODEL
    from f1.offload import connect
    from f1.offloaded_embedder import OffloadedEmbedder
    from f1.serve.process import Door, run_server

    if model is not None and config is not None:
        raise InvalidRequest("--model and --config: the file says which models", param="model")
    read = read_config(config) if config is not None else Config.of(model or DEFAULT_MODEL)
    if port is None:
        port = 8000 if read.serve.port is None else read.serve.port
    door = Door(host or read.serve.host or "127.0.0.1", port, no_keys)
    if not run_server(read, connect, OffloadedEmbedder, door):
        raise typer.Exit(1)


@app.command()
def key(
    name: Annotated[str, typer.Argument(help="Who will use it: whose share of the server it has.")],
) -> None:
    """Make a key for `f1 serve`: its line for F1_API_KEYS_FILE on stdout, the key on stderr.

    f1 key alice >> keys.jsonl; only the hash is kept there, so note the key down.
    """
    from f1.serve.access import make_key

    secret, line = make_key(name)
    typer.echo(line)
    typer.echo(secret, err=True)


@app.command()
def pull(
    names: Annotated[list[str], typer.Argument(help="Catalogue names or hub ids.")],
) -> None:
    """Fetch models into the cache folder. An interrupted pull goes on where it stopped."""
    from f1.models.pull import resolve
    from f1.settings import Settings

    settings = Settings.from_env()
    for name in names:
        typer.echo(str(resolve(name, settings)))


@app.command("list")
def list_models() -> None:
    """List the models of the catalogue and of the cache folder."""
    from rich.table import Table

    from f1.models.catalogue import CATALOGUE
    from f1.models.pull import installed
    from f1.settings import Settings

    settings = Settings.from_env()
    here = {model.name: model for model in installed(settings)}
    table = Table("model", "size", "here", "what", box=None, pad_edge=False)
    for name in [*CATALOGUE, *sorted(here.keys() - CATALOGUE.keys())]:
        entry = CATALOGUE.get(name)
        num_bytes = here[name].num_bytes if name in here else CATALOGUE[name].num_bytes
        mark = "yes" if name in here else "no"
        table.add_row(
            name, f"{num_bytes / 1e6:,.0f} MB", mark, entry.description if entry else "your own"
        )
    console = Console(highlight=False)
    console.print(table)
    console.print(f"[dim]in {escape(str(settings.models_dir))}[/]")


@app.command()
def rm(
    names: Annotated[list[str], typer.Argument(help="Names as `f1 list` shows them.")],
) -> None:
    """Delete models from the cache folder."""
    from f1.models.pull import remove
    from f1.settings import Settings

    settings = Settings.from_env()
    for name in names:
        remove(name, settings)
        typer.echo(f"removed {name}")


@tools_app.command("list")
def list_tools(
    base_url: ServerOption = _SERVER,
    config: Annotated[Path | None, typer.Option(help="Those of this f1.toml instead.")] = None,
) -> None:
    """List tools and toolsets."""
    from f1.tooling import ToolServer, list_configured, list_served

    console = Console(highlight=False)
    if config is not None:
        list_configured(config, console)
    else:
        list_served(ToolServer(base_url), console)


@tools_app.command("show")
def show_tool(
    name: Annotated[str, typer.Argument(help="Of a tool or a toolset, as `f1 tools list` has it.")],
    base_url: ServerOption = _SERVER,
) -> None:
    """Print a tool, or a toolset with its tools, as JSON."""
    import json

    from f1.tooling import ToolServer

    typer.echo(json.dumps(ToolServer(base_url).show(name), indent=2, ensure_ascii=False))


@tools_app.command("register")
def register_tools(
    file: Annotated[Path, typer.Argument(help="Python file of tools, or JSON of one or many.")],
    toolset: Annotated[str | None, typer.Option(help="As one toolset of this name.")] = None,
    base_url: ServerOption = _SERVER,
) -> None:
    """Register the tools of a file, for requests to name.

    A server never runs what it is sent: calls go back to who asked.
    """
    from f1.tooling import ToolServer, read_tools

    server, tools = ToolServer(base_url), read_tools(file)
    if toolset is not None:
        typer.echo(f"registered {server.put_set(toolset, tools)['id']}, {len(tools)} tools")
        return
    for tool in tools:
        typer.echo(f"registered {server.put(tool)['name']}")


@tools_app.command("rm")
def remove_tools(
    names: Annotated[list[str], typer.Argument(help="Names as `f1 tools list` shows them.")],
    toolset: Annotated[bool, typer.Option("--toolset", help="Toolsets, not tools.")] = False,
    base_url: ServerOption = _SERVER,
) -> None:
    """Remove tools; toolsets that have them keep them."""
    from f1.tooling import ToolServer

    for name in names:
        ToolServer(base_url).remove(name, toolset=toolset)
        typer.echo(f"removed {name}")


@tools_app.command("search")
def search_tools(
    query: Annotated[str, typer.Argument(help="What a tool shall do.")],
    count: Annotated[int, typer.Option("-n", min=1, help="How many to show.")] = 8,
    base_url: ServerOption = _SERVER,
) -> None:
    """Find tools by their words, those of toolsets too: the best first."""
    from f1.tooling import ToolServer, search

    for found in search(ToolServer(base_url), query, count):
        first_line = found.tool.description.partition("\n")[0]
        typer.echo(f"{found.name}  {first_line}")


@app.command()
def bench(
    model: ModelOption = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="One short round of each: rough figures.")
    ] = False,
    only: Annotated[str | None, typer.Option(help=_ONLY_HELP)] = None,
    threads: Annotated[
        int, typer.Option(min=0, help="Threads of every subject; 0: one a processor.")
    ] = 0,
    peer: Annotated[list[str] | None, typer.Option(help=_PEER_HELP)] = None,
    json: Annotated[Path | None, typer.Option(help="Write everything measured here too.")] = None,
) -> None:
    """Measure this machine's speed with a model.

    Beside it: the machine's ceilings and other engines that are installed. Each
    runs in a process of its own and they take turns, so that a busy machine meets
    all of them. The default model takes about three minutes.
    """
    from f1.bench.command import parse_sections, run_bench, write_json
    from f1.bench.run import Options, Sizes, default_threads, find_peers
    from f1.models.catalogue import DEFAULT_MODEL

    if json is not None and not json.absolute().parent.is_dir():  # said now, not in three minutes
        raise InvalidRequest(f"--json {json}: there is no folder {json.parent}", param="json")
    options = Options(
        model=model or DEFAULT_MODEL,
        threads=threads or default_threads(),
        sections=parse_sections(only),
        peers=find_peers(peer or ["auto"]),
        sizes=Sizes.quick() if quick else Sizes(),
    )
    found = run_bench(options, Console(highlight=False))
    if json is not None:
        write_json(found, json)


if __name__ == "__main__":
    main()
