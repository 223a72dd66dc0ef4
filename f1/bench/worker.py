"""The process of one subject: questions as lines of JSON on stdin, answers on what was stdout.

    python -m f1.bench.worker KIND MODEL

Libraries print where they like; from the start, what they print goes to stderr.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any


def _core(model: str) -> object:
    from f1.bench.core import CoreSubject

    return CoreSubject(model)


def _engine(model: str) -> object:
    from f1.bench.served import EngineSubject

    return EngineSubject(model)


def _llama_cpp(model: str) -> object:
    from f1.bench.llama_cpp import LlamaCppSubject

    return LlamaCppSubject(model)


def _openvino(model: str) -> object:
    from f1.bench.openvino import OpenVinoSubject

    return OpenVinoSubject(model)


SUBJECTS: dict[str, Callable[[str], object]] = {
    "f1": _core,
    "f1 engine": _engine,
    "llama.cpp": _llama_cpp,
    "openvino": _openvino,
}


def main() -> None:
    kind, model = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    subject: object | None = None
    for line in sys.stdin:
        question: dict[str, Any] = json.loads(line)
        try:
            subject = subject or SUBJECTS[kind](model)
            answer = {"answer": getattr(subject, question.pop("what"))(**question)}
        except Exception as error:
            traceback.print_exc()
            reason = (str(error).strip().splitlines() or [""])[-1]
            answer = {"error": f"{type(error).__name__}: {reason}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
