"""f1.toml: what it says is taken, and what is wrong in it is named, with what was expected."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from f1.config import (
    Config,
    LocalModel,
    RemoteModel,
    ServeOptions,
    TraceOptions,
    parse_config,
    read_config,
)
from f1.errors import InvalidRequest
from f1.serve.limits import Limits
from f1.serve.wire.request import parse_chat_request
from f1.settings import Settings
from f1.tools.configured import configured_tool
from f1.tools.runners.http import HttpRunner
from f1.tools.runners.process import Workers
from f1.tools.runners.workers import WorkerSettings
from f1.types import Budget, RunOptions

EXAMPLE = Path(__file__).parent.parent / "examples" / "f1.toml"
ONE = "[models.small]\n"
HOST = "[models.a]\nbase_url = 'http://h'\nmodel = 'm'\n"


def read(folder: Path, text: str) -> Config:
    path = folder / "f1.toml"
    path.write_text(text)
    return read_config(path)


def test_the_example_says_everything() -> None:
    config = read_config(EXAMPLE)
    qwen = "qwen2.5-coder-0.5b"
    assert list(config.models) == ["small", qwen, "big"]
    assert config.models["small"] == LocalModel(
        "smollm2-135m", {"context_length": 4096, "kv_memory": 1 << 28}
    )
    assert config.models[qwen] == LocalModel(qwen, {"kv_memory": 1 << 29})
    big = RemoteModel("http://127.0.0.1:8001/v1", "qwen2.5-coder-1.5b", None, 30.0, "f1")
    assert config.models["big"] == big
    assert config.roles == {"caller": ("big", qwen), "router": ("small",)}
    assert config.memory == 4 << 30
    assert config.defaults == RunOptions(max_tools=16, toolsets=("travel",))
    assert config.toolsets == {"travel": ("weather", "book_flight")}
    with closing(Workers()) as workers:
        weather, booking = (configured_tool(*item, workers) for item in config.tools.items())
    assert isinstance(weather.runner, HttpRunner)
    assert (weather.annotations.read_only, weather.limits.retries) == (True, 2)
    assert (booking.runner, booking.tool.description) == (None, "Books a flight.")
    assert config.trace == TraceOptions(("card_number",))
    given = WorkerSettings(**config.workers)
    assert given == WorkerSettings(given.folder, idle=2)
    assert config.workers.keys() | {"folder", "hidden", "cpu_seconds"} == {
        field.name for field in dataclasses.fields(WorkerSettings)
    }
    assert config.serve == ServeOptions("127.0.0.1", 8000)
    settings = config.all_settings({})
    assert settings == dataclasses.replace(Settings(), max_sequences=16)


def test_what_a_request_need_not_say(tmp_path: Path) -> None:
    """Each field is the request's where it has it, the file's where not."""
    text = (
        f"{ONE}[tools.a]\n[toolsets.t]\ntools = ['a']\n"
        "[defaults]\nstrategy = 'react'\nbudget = {steps = 3, calls = 4}\ntoolsets = ['t']\n"
    )
    limits = Limits(defaults=read(tmp_path, text).defaults)

    def run(**own: Any) -> RunOptions:
        body = {"model": "f1", "messages": [{"role": "user", "content": "Hi"}]}
        return parse_chat_request({**body, **own}, limits).generate.run

    assert run() == RunOptions("react", toolsets=("t",), budget=Budget(3, 4))
    own = run(f1={"strategy": "auto", "budget": {"steps": 8}, "toolsets": []})
    assert own == RunOptions("auto", budget=Budget(8, 4))


def test_paths_start_from_the_files_folder_and_the_environment_goes_first(tmp_path: Path) -> None:
    text = (
        '[models.mine]\npath = "a/b.gguf"\n[serve]\nkeys_file = "keys"\n'
        '[settings]\nkv_memory = "64MiB"\nlog_prompts = true\nmax_queued = 3\n'
    )
    config = read(tmp_path, text)
    assert config.models["mine"] == LocalModel(str(tmp_path / "a" / "b.gguf"))
    assert config.serve.keys_file == tmp_path / "keys"
    settings = config.all_settings({"F1_KV_MEMORY": "32MiB", "F1_MAX_QUEUED": " "})
    assert (settings.kv_memory, settings.log_prompts, settings.max_queued) == (1 << 25, True, 3)


@pytest.mark.parametrize(
    ("text", "param", "told"),
    [
        ("[modles.a]", "modles", "is not known; did you mean 'models'?"),
        ("", "models", "has to have a model"),
        ("models = 3", "models", "must be a table, not 3"),
        ("[models.a]\ncontxt_length = 1", "models.a.contxt_length", "mean 'context_length'?"),
        ("[models.a]\nzzz = 1", "models.a.zzz", "there are model, path, context_length"),
        ("[models.a]\ncontext_length = '9'", "models.a.context_length", "integer from 1 to"),
        ("[models.a]\ncontext_length = true", "models.a.context_length", "not True"),
        ("[models.a]\nkv_memory = '1 lot'", "models.a.kv_memory", 'such as "8GiB", not'),
        ("[models.a]\npath = 'x'\nmodel = 'y'", "models.a.path", "give one"),
        ("[models.a]\nbase_url = 'host'\nmodel = 'y'", "models.a.base_url", "https://host/v1"),
        ("[models.a]\nbase_url = 'http://h'", "models.a.model", "which model of that server?"),
        ("[models.a]\nbase_url = 'http://h'\nkv_memory = 1", "models.a.kv_memory", "not known"),
        ("[models.f1]", "models.f1", "is no name of a model"),
        ('[models."a b"]', 'models."a b"', "is no name of a model"),
        (f"{ONE}[roles]\ncaller = 'smal'", "roles.caller", "did you mean 'small'?"),
        (f"{ONE}[roles]\ncaller = ['small', 'small']", "roles.caller", "different names"),
        (f"{ONE}[roles]\nboss = 'small'", "roles.boss", "there are router, caller"),
        (f"{ONE}[roles]\nembedder = 'small'", "roles.embedder", "no embedding model: 'small'"),
        (f"{ONE}[roles]\nembedder = 'all-minilm-l6-v3'", "roles.embedder", "'all-minilm-l6-v2'?"),
        (f"{HOST}[roles]\nembedder = 'a'", "models", "beside the embedder"),
        (f"{ONE}{HOST}[roles]\nembedder = 'a'\ncaller = 'a'", "roles.caller", "there is small"),
        (f"{ONE}[memory]\nmodels = 0", "memory.models", 'such as "8GiB", not 0'),
        (f"{ONE}[defaults]\nstrategy = 'palm'", "defaults.strategy", "one of auto, direct"),
        (f"{ONE}[defaults]\nbudget = {{steps = 0}}", "defaults.budget.steps", "from 1 to"),
        (f"{ONE}[defaults]\nbudget = 3", "defaults.budget", "must be a table"),
        (f"{ONE}[defaults]\ntoolsets = ['t']", "defaults.toolsets", "names no toolset: 't'"),
        (f"{ONE}[toolsets.t]\ntools = ['x']", "toolsets.t", "names no tool: 'x'"),
        (f"{ONE}[trace]\notlp = 'host:4318'", "trace.otlp", "must be an address like"),
        (f"{ONE}[trace]\nredact = 'pin'", "trace.redact", "must be a list of texts, not 'pin'"),
        (f"{ONE}[trace]\notlp_content = 1", "trace.otlp_content", "must be true or false, not 1"),
        (f"{ONE}[serve]\nport = 65536", "serve.port", "from 0 to 65535, not 65536"),
        (f"{ONE}[settings]\nkv_memroy = 1", "settings.kv_memroy", "did you mean 'kv_memory'?"),
        (f"{ONE}[settings]\nkv_memory = 'x'", "settings.kv_memory", "is not understood"),
        (f"{ONE}[settings]\nmax_sequences = 0", "settings.max_sequences", "at least 1"),
        (f"{ONE}[settings]\ncache = [1]", "settings.cache", "a text, a number"),
        ("[models", "config", "not TOML: "),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(tmp_path: Path, text: str, param: str, told: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read(tmp_path, text)
    assert refused.value.param == param
    assert told in refused.value.message
    assert refused.value.message.startswith(str(tmp_path / "f1.toml"))


@pytest.mark.parametrize(
    ("table", "param", "told"),
    [
        ("descripton = 'x'", "tools.t.descripton", "not a known field"),
        ("python = 3", "tools.t.python", "my_tools.py:function"),
        ("python = 'tools.py:missing'", "tools.t.python", "missing"),
        ("python = 'nowhere.py:f'", "tools.t.python", "nowhere.py"),
        ("python = 'tools.py:f'\nhttp = {}", "tools.t.http", "cannot both"),
        ("http = {}", "tools.t.http.url", "is missing"),
        ("http = {url = 'ftp://x'}", "tools.t.http.url", "is not of the form"),
        ("http = {url = 'https://x/{a}'}", "tools.t.http.url", "no argument 'a'"),
        ("http = {url = 'https://x', method = 'POKE'}", "tools.t.http.method", "is one of GET"),
        ("http = {url = 'https://x', verb = 'GET'}", "tools.t.http.verb", "there are allow, body"),
        ("http = {url = 'https://x', allow = 'all'}", "tools.t.http.allow", "a list of texts"),
    ],
)
def test_what_is_wrong_with_a_tool_is_named(
    tmp_path: Path, table: str, param: str, told: str
) -> None:
    (tmp_path / "tools.py").write_text("def f(x: int) -> int:\n    return x\n")
    config = read(tmp_path, f"{ONE}[tools.t]\n{table}\n")
    with (
        closing(Workers(WorkerSettings(folder=tmp_path))) as workers,
        pytest.raises(InvalidRequest) as refused,
    ):
        configured_tool("t", config.tools["t"], workers)
    assert refused.value.param == param
    assert told in refused.value.message


def test_a_function_says_what_its_table_does_not(tmp_path: Path) -> None:
    source = 'def double(x: int) -> int:\n    """Twice as much."""\n    return 2 * x\n'
    (tmp_path / "tools.py").write_text(source)
    text = (
        f"{ONE}[tools.twice]\npython = 'tools.py:double'\nannotations = {{read_only = true}}\n"
        "limits = {retries = 1}"
    )
    table = read(tmp_path, text).tools["twice"]
    with closing(Workers(WorkerSettings(folder=tmp_path))) as workers:
        spec = configured_tool("twice", table, workers)
        assert (spec.name, spec.tool.description) == ("twice", "Twice as much.")
        assert spec.tool.parameters["required"] == ["x"]
        assert (spec.annotations.read_only, spec.limits.retries) == (True, 1)
        assert spec.runner is not None
        assert asyncio.run(spec.runner.call({"x": 4}, spec.limits)).value == 8


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="No such file"):
        read_config(tmp_path / "none.toml")


@pytest.mark.parametrize("value", [None, 1, "x", [], {}, [1], True, {"a": 1}])
def test_whatever_stands_there_is_taken_or_refused(tmp_path: Path, value: Any) -> None:
    """No value of any type makes anything but an InvalidRequest."""
    tables = "models roles memory defaults tools toolsets mcp workers serve settings".split()
    example = {"models": {"a": {"base_url": "http://h", "model": "m"}}}
    places = [(table, None) for table in tables] + [
        ("models", "a"), ("tools", "t"), ("toolsets", "t"), ("mcp", "m"), ("roles", "caller"),
        ("defaults", "budget"), ("defaults", "toolsets"), ("settings", "cache"), ("serve", "host"),
    ]  # fmt: skip
    taken = []
    for table, key in places:
        given = {**example, table: value if key is None else {**example.get(table, {}), key: value}}
        with contextlib.suppress(InvalidRequest):
            parse_config(given, tmp_path / "f1.toml")
            taken.append((table, key))
    assert len(taken) < len(places)
