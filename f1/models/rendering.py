"""Jinja as chat templates expect it, and a process of its own for templates that nobody knows.

The sandbox keeps a template from everything but its arguments; it limits neither time nor memory,
and compiling alone can take both (`{{ 'a' * 10 ** 9 }}` is folded). So foreign templates are
compiled and rendered by this file, run as a program: JSON lines in, JSON lines out.

    {"source": "..."}                     ▶  {"ok": true}         | {"error": "..."}
    {"arguments": {...}, "limit": 70000}  ▶  {"text": "..."}      | {"error": "..."}

Whatever takes more than CPU_SECONDS ends the process, whatever takes more than MEMORY_BYTES fails.
It imports nothing of F1: it starts in a tenth of a second.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import TemplateError
from jinja2.ext import LoopControlExtension
from jinja2.sandbox import ImmutableSandboxedEnvironment

CPU_SECONDS = 0.75
MEMORY_BYTES = 192 * 2**20  # beyond what the process has when it starts


def environment() -> ImmutableSandboxedEnvironment:
    """As the templates of the hub expect it: `raise_exception`, `tojson` that leaves text as it is,
    block lines trimmed, `break` and `continue`."""
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[LoopControlExtension]
    )
    made.globals["raise_exception"] = _refuse
    made.filters["tojson"] = _to_json
    return made


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


class _Renderer:
    """What the process does with its lines."""

    def __init__(self) -> None:
        self._environment = environment()

    def answer(self, line: str) -> dict[str, Any]:
        asked = json.loads(line)
        try:
            if "source" in asked:
                self._template = self._environment.from_string(asked["source"])
                return {"ok": True}
            pieces, left = [], asked["limit"]
            for piece in self._template.generate(**asked["arguments"]):
                pieces.append(piece)
                if (left := left - len(piece)) < 0:
                    return {"error": f"more than {asked['limit']} characters"}
            return {"text": "".join(pieces)}
        except MemoryError:
            return {"error": "out of memory"}
        except Exception as error:  # templates are foreign code; they raise what they like
            return {"error": f"{error}"[:1000] or type(error).__name__}


def main() -> None:
    if (statm := Path("/proc/self/statm")).exists():  # elsewhere the limit is not kept to, either
        used = int(statm.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES,) * 2)
    for limit in (resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC, resource.RLIMIT_CORE):
        resource.setrlimit(limit, (0, 0))
    renderer = _Renderer()
    for line in sys.stdin:
        # Processor time, for others may keep it from running; who spends it is ended by the signal.
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        answer = json.dumps(renderer.answer(line))
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(answer, flush=True)


if __name__ == "__main__":
    main()
