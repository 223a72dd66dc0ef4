"""Nothing that comes from outside is ever run: not a model's files, not a request, not a cache.

One test reads the sources for what could run it; the other loads a model folder full of code.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import transformers
from test_checkpoint import save, tiny

ROOT = Path(__file__).parent.parent
MODULES = {
    *"pickle _pickle cPickle dill cloudpickle joblib marshal shelve".split(),
    *"yaml runpy imp code codeop pty commands multiprocessing".split(),
}
CALLS = {
    *"eval exec __import__ input breakpoint".split(),
    *"os.system os.popen os.execv os.execve os.execvp os.execvpe os.spawnv os.spawnl".split(),
    *"ast.literal_eval torch.load subprocess.getoutput subprocess.getstatusoutput".split(),
    *"import_module importlib.import_module importlib.util.spec_from_file_location".split(),
    *"site.addsitedir jinja2.Environment Environment Template jinja2.Template".split(),
}
KEYWORDS = {"shell", "allow_pickle", "trust_remote_code"}
REGEXES = {f"re.{name}" for name in "compile match search fullmatch sub subn split findall".split()}

ALLOWED = {
    ("__init__.py", "import_module"): "of names in a table beside it",
    ("ask.py", "importlib.util.spec_from_file_location"): "the file of tools that its user names",
    ("ask.py", "sys.path"): "that file's folder, while it is loaded",
    ("calling/calls.py", "re of a variable"): "escaped words of a family, white space between",
    ("calling/family.py", "re of a variable"): "the operator's patterns of model names",
    ("models/tokenizer.py", "re of a variable"): "escaped spellings: alternatives of constants",
    ("serve/wire/shape.py", "re of a variable"): "patterns of the tables of fields",
    ("tools/mcp/keeper.py", "os.execvpe"): "the operator's command, of f1.toml",
    ("tools/mcp/process.py", "sys.path"): "read, for that process",
    ("tools/runners/worker.py", "importlib.import_module"): "the operator's, in its own process",
    ("tools/runners/worker.py", "importlib.util.spec_from_file_location"): "the operator's, there",
    ("tools/runners/worker.py", "sys.path"): "the operator's folder, there",
    ("tools/runners/workers.py", "sys.path"): "read, for that process",
    ("tools/runners/supervisor.py", "os.execv"): "bubblewrap, in the process of a worker",
    ("tools/runners/sandbox.py", "sys.path"): "read, for that process",
    ("bench/subject.py", "assert"): "of its own pipes, for the type checker",
    ("bench/served.py", "assert"): "of its own engine, for the type checker",
}


def findings(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """(what, line) of everything that runs foreign code, or is gone under `python -O`."""
    for node in ast.walk(tree):
        match node:
            case ast.Assert():
                yield "assert", node.lineno
            case ast.Import(names=names):
                for name in names:
                    if name.name.split(".")[0] in MODULES:
                        yield f"import {name.name}", node.lineno
            case ast.ImportFrom(module=str(module)) if module.split(".")[0] in MODULES:
                yield f"import {module}", node.lineno
            case ast.Attribute(value=ast.Name(id="sys"), attr="path" | "meta_path" | "path_hooks"):
                yield "sys.path", node.lineno
            case ast.Call(func=func, args=arguments, keywords=keywords):
                called = ast.unparse(func)
                if called in CALLS or (called == "compile" and len(arguments) > 2):
                    yield called, node.lineno
                if called in REGEXES and not isinstance(arguments[0], ast.Constant):
                    yield "re of a variable", node.lineno
                for keyword in keywords:
                    is_off = isinstance(keyword.value, ast.Constant) and not keyword.value.value
                    if keyword.arg in KEYWORDS and not is_off:
                        yield f"{keyword.arg}=", node.lineno


def test_no_source_runs_what_it_is_given() -> None:
    found = {
        (path.relative_to(ROOT / "f1").as_posix(), what): line
        for path in sorted((ROOT / "f1").rglob("*.py"))
        for what, line in findings(ast.parse(path.read_text()))
    }
    assert {place: line for place, line in found.items() if place not in ALLOWED} == {}
    assert not ALLOWED.keys() - found.keys(), "allowed, and no longer there"


@pytest.mark.parametrize(
    "source",
    [
        *("eval(x)", "exec(x)", "compile(x, '', 'exec')", "__import__(x)", "assert x"),
        *("import pickle", "from marshal import loads", "import os, shelve", "import yaml"),
        *("os.system(x)", "subprocess.run(x, shell=True)", "np.load(x, allow_pickle=y)"),
        *("torch.load(x)", "ast.literal_eval(x)", "re.compile(x)", "re.search(a + 'b', x)"),
        *("importlib.import_module(x)", "sys.path.insert(0, x)", "import multiprocessing.pool"),
        *("AutoModel.from_pretrained(x, trust_remote_code=True)", "jinja2.Environment()"),
    ],
)
def test_the_gate_sees(source: str) -> None:
    assert list(findings(ast.parse(source)))
    assert not list(findings(ast.parse("np.load(x, allow_pickle=False)\nre.compile('a')\nlen(x)")))


CANARY = "import pathlib; pathlib.Path(__file__).with_suffix('.ran').touch()\n"
LOAD = """
import sys
from f1.models.load import load_checkpoint, load_model
from f1.types import Message
checkpoint = load_checkpoint(sys.argv[1])
load_model(checkpoint, num_threads=1)
print(len(checkpoint.template.render([Message("user", "x")])), __debug__)
"""


@pytest.mark.parametrize("options", [[], ["-O"]], ids=["", "-O"])
def test_code_in_a_model_folder_never_runs(tmp_path: Path, options: list[str]) -> None:
    folder = save(tiny(transformers.LlamaConfig), tmp_path / "model")
    names = "modeling_canary configuration_canary tokenization_canary sitecustomize".split()
    names += "conftest torch json setup __init__ tokenizer config".split()
    for name in names:
        (folder / f"{name}.py").write_text(CANARY)
    auto_map = {
        "AutoConfig": "configuration_canary.Config",
        "AutoModelForCausalLM": "modeling_canary.Model",
        "AutoTokenizer": ["tokenization_canary.Tokenizer", None],
    }
    for name in ("config.json", "tokenizer_config.json"):
        fields = json.loads((folder / name).read_text())
        changed = {**fields, "auto_map": auto_map, "trust_remote_code": True}
        changed |= {"custom_pipelines": {"f1": {"impl": "modeling_canary.Model"}}}
        (folder / name).write_text(json.dumps(changed))
    done = subprocess.run(
        [sys.executable, "-P", *options, "-c", LOAD, folder],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[1] == str(not options)
    assert not list(folder.rglob("*.ran"))
    assert not list(folder.rglob("__pycache__"))
    # The canaries do sing when they are run.
    subprocess.run([sys.executable, folder / f"{names[0]}.py"], check=True)
    assert [path.stem for path in folder.rglob("*.ran")] == names[:1]
