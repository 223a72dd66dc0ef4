"""Which way of writing calls suits a model: its family's file with other forms, on BFCL.

    pip install --no-deps bfcl-eval==2026.3.23
    python bench/forms.py [--model NAME] [--start 5] [--step 40] [--json FILE]

All else (wording, examples, templates) stays as shipped. Run it on other cases than those that are
published: the form is chosen here.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from f1.bench.machine import describe_run
from f1.calling.family import family_for, grammars_folder

ARGUMENTS = ', "arguments":'
FENCE, TAG = "```json\n", "<tool_call>\n"
NAME = '{"name":'
FORMS = {
    "one fence, a call a line": (f"{FENCE}{NAME}", f"}}\n{NAME}", "}\n```", "name"),
    "one fence, an array": (f"{FENCE}[{NAME}", f"}}, {NAME}", "}]\n```", "name"),
    "one fence, an array, a call a line": (
        f"{FENCE}[\n{NAME}",
        f"}},\n{NAME}",
        "}\n]\n```",
        "name",
    ),
    "several fences": (f"{FENCE}{NAME}", f"}}\n```\n{FENCE}{NAME}", "}\n```", "name"),
    "<tool_call> tags": (
        f"{TAG}{NAME}",
        f"}}\n</tool_call>\n{TAG}{NAME}",
        "}\n</tool_call>",
        "marker",
    ),
}


def measure(model: str, form: tuple[str, str, str, str], start: int, step: int) -> dict[str, Any]:
    """bfcl.py's result with the model's family writing calls in this form alone."""
    family = family_for(model).name
    data = json.loads((grammars_folder() / f"{family}.json").read_text("utf-8"))
    opening, following, close, commits_at = form
    data["forms"] = [
        {
            "open": opening,
            "arguments": ARGUMENTS,
            "next": following,
            "close": close,
            "commits_at": commits_at,
        }
    ]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / f"{family}.json").write_text(json.dumps(data), "utf-8")
        result = Path(folder) / "result"
        command = [sys.executable, str(Path(__file__).with_name("bfcl.py")), "--model", model]
        command += ["--start", str(start), "--step", str(step), "--json", str(result)]
        subprocess.run(command, env=os.environ | {"F1_GRAMMARS": folder}, check=True)
        found: dict[str, Any] = json.loads(result.read_text())
    return {key: found[key] for key in ("mean", "categories")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="qwen2.5-coder-0.5b")
    parser.add_argument("--start", type=int, default=5)
    parser.add_argument("--step", type=int, default=40)
    parser.add_argument("--json", type=Path, help="also write everything here")
    options = parser.parse_args()
    forms = {}
    for name, form in FORMS.items():
        print(f"\n{name}", flush=True)
        forms[name] = measure(options.model, form, options.start, options.step)
    if options.json:
        run = describe_run(model=options.model, start=options.start, step=options.step)
        options.json.write_text(json.dumps(run | {"forms": forms}, indent=1))


if __name__ == "__main__":
    main()
