"""`f1 ask`: a question, the functions of a Python file as tools, and what happens."""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from rich.console import Console

from f1.config import Config, read_config
from f1.errors import InvalidRequest
from f1.narrator import Narrator
from f1.planning.outcome import Planned, Reply, report_of
from f1.planning.plan import write_plan
from f1.tools.configured import configured_tool
from f1.tools.function import FunctionTool, make_tool
from f1.tools.mcp.pins import Pins
from f1.tools.mcp.servers import McpServers
from f1.tools.policy import AllowAll, Policy, Rule, Rules
from f1.tools.runners.process import Workers
from f1.tools.runners.workers import WorkerSettings
from f1.tools.spec import ToolSpec

if TYPE_CHECKING:
    from f1.client import F1


CONFIRM = Rule("ask", "--confirm", annotations={"read_only": False}, why="it may change something")


def read_rules(file: Path | None, functions: Sequence[FunctionTool]) -> Config | None:
    """An f1.toml whose rules may name these functions, too. Raises InvalidRequest."""
    names = [function.tool.name for function in functions]
    return None if file is None else read_config(file, names)


def rules(config: Config | None, *, confirm: bool) -> Policy:
    """Those of the f1.toml, and --confirm's."""
    own: Policy = AllowAll() if config is None else config.policy
    if not confirm:
        return own
    return (
        Rules((CONFIRM, *own.rules), own.unmatched) if isinstance(own, Rules) else Rules((CONFIRM,))
    )


def load_tools(path: Path) -> list[FunctionTool]:
    """Runs the file: what it marks with `@tool`, or else its own public functions whose parameters
    all have types. Raises InvalidRequest."""
    module = _load(path)
    marked = [value for value in vars(module).values() if isinstance(value, FunctionTool)]
    try:
        found = marked or [make_tool(f) for f in vars(module).values() if _is_typed(f, module)]
    except TypeError as error:
        raise _refuse(path, str(error)) from error
    if not found:
        raise _refuse(path, "has no function with @tool, and no public one with types")
    return list({tool.tool.name: tool for tool in found}.values())


@contextmanager
def configured(config: Config | None) -> Iterator[list[ToolSpec]]:
    """The tools of an f1.toml that are run here: its own, and those of its MCP servers that have
    told them in time. Raises InvalidRequest."""
    if config is None:
        yield []
        return
    folder = config.file.parent.absolute()
    told: dict[str, Sequence[ToolSpec]] = {}
    pins = Pins(config.all_settings(os.environ).pins_file)
    with (
        closing(Workers(WorkerSettings(folder=folder, **config.workers))) as workers,
        closing(McpServers(tuple(config.mcp.values()), pins, told.__setitem__)) as servers,
    ):
        own = [configured_tool(name, table, workers) for name, table in config.tools.items()]
        servers.met()
        for status in servers.states():
            if status.state != "up":
                print(f"mcp.{status.server.name}: {status.why}", file=sys.stderr)
        yield [spec for spec in own if spec.runner] + [s for specs in told.values() for s in specs]


def _load(path: Path) -> ModuleType:
    """The file as a module, run as `python FILE` would run it: its user chose it."""
    if not path.is_file():
        raise _refuse(path, "is no file")
    name = f"f1_tools_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise _refuse(path, "is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and annotations look it up there
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)  # it may import its neighbours
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the file's own, of any kind
        raise _refuse(path, f"{type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(folder)
    return module


def _is_typed(value: Any, module: ModuleType) -> bool:
    if not inspect.isfunction(value) or value.__module__ != module.__name__:
        return False
    parameters = inspect.signature(value).parameters.values()
    typed = all(p.annotation is not p.empty for p in parameters)
    return typed and not value.__name__.startswith("_")


def _refuse(path: Path, why: str) -> InvalidRequest:
    return InvalidRequest(f"--tools {path}: {why}", param="tools")


def read_plan(path: Path) -> Any:
    """The JSON in the file, as `--plan-only` wrote it. Raises InvalidRequest."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"--plan {path}: {error}", param="plan") from error


def run_ask(
    f1: F1,
    question: str,
    tools: Sequence[FunctionTool | ToolSpec],
    options: dict[str, Any],
    max_tokens: int,
    console: Console,
) -> bool:
    """Asks and shows what happens as it happens; a plan that was asked for goes to stdout as JSON.
    Returns whether what was asked for came of it."""
    narrator = Narrator(console)
    outcome = narrator.tell(
        f1.watch(
            question,
            tools,
            approve=narrator.approve if sys.stdin.isatty() else None,
            max_tokens=max_tokens,
            f1=options,
        )
    )
    if isinstance(outcome, Planned):
        own = [tool.spec if isinstance(tool, FunctionTool) else tool for tool in tools]
        specs = {spec.name: spec for spec in own}
        print(json.dumps(write_plan(report_of(outcome).plan, specs), indent=1, ensure_ascii=False))
    return isinstance(outcome, Reply | Planned)
