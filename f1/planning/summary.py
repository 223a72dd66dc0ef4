"""A run in a line, for lists of many."""

from __future__ import annotations

from typing import Any

from f1.types import GenerateRequest, RunReport, Usage

_MAX_QUESTION = 200  # characters


def about(
    request: GenerateRequest,
    report: RunReport | None = None,
    usage: Usage | None = None,
    seconds: float | None = None,
) -> dict[str, Any]:
    """What was asked, and how it has ended, as far as it has."""
    said = [message.content for message in request.messages if message.role == "user"]
    told: dict[str, Any] = {"question": _begins(said[-1] if said else "")}
    told["strategy"] = report.strategy if report is not None else request.run.strategy
    if report is not None:
        failed = sum(1 for result in report.results if result.failed)
        told |= {"ending": report.ending, "calls": len(report.plan.nodes), "failed": failed}
    if usage is not None:
        told |= {
            "prompt_tokens": usage.prompt_tokens,
            "cached_tokens": usage.cached_tokens,
            "completion_tokens": usage.completion_tokens,
        }
    if seconds is not None:
        told["seconds"] = round(seconds, 4)
    return told


def _begins(text: str) -> str:
    """Its first words, none of them cut: half a secret does not look like one."""
    if len(text) <= _MAX_QUESTION:
        return text
    words = text[:_MAX_QUESTION].rsplit(maxsplit=1)
    return words[0] if len(words) == 2 else "…"
