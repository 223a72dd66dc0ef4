"""A run that is one turn of the model and nothing else, as it is written down: all at once, behind
its end, so that nobody waits for that."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace

from f1 import __version__
from f1.planning.collect import add_usage
from f1.planning.journal import Journal
from f1.planning.opening import model_of, new_run_id
from f1.planning.run import Engine
from f1.planning.summary import about
from f1.trace.entries import Began, Ended, RunEnding, Shown
from f1.trace.recorder import Record, Recorder
from f1.types import Event, Finished, GenerateRequest, RunOptions, RunReport, TextDelta, Usage


@dataclass(slots=True)
class RecordedTurn:
    """`asked`: by the caller; `request`: of the model. Without a recorder it is only decoded."""

    recorder: Recorder | None
    tenant: str
    run_id: str
    asked: GenerateRequest
    request: GenerateRequest
    report: RunReport

    async def events(self, engine: Engine) -> AsyncGenerator[Event]:
        request = replace(self.request, run=RunOptions())
        if self.recorder is None:
            async with aclosing(engine.generate(request)) as events:
                async for event in events:
                    yield event
            return
        record = self.recorder.record(self.tenant, self.run_id or new_run_id())
        began, seen, error = time.perf_counter(), list[Event](), ""
        record.note(Began(self.asked, {"caller": model_of(engine)}, __version__, kind="turn"))
        journal = Journal(record.row.id, record)
        journal.show(1, self._shown(), ())
        try:
            turn = journal.turn(1, "caller", request, engine.generate)
            async with aclosing(turn) as events:
                async for event in events:
                    seen.append(event)
                    yield event
        except Exception as raised:
            error = f"{type(raised).__name__}: {raised}"
            raise
        finally:
            self._end(record, seen, time.perf_counter() - began, error)

    def _shown(self) -> Shown:
        names = tuple(tool.name for tool in self.request.tools)
        left = self.request.messages if self.report.dropped else ()
        return Shown(
            1, names, self.report.selected, self.report.num_tools, self.request.shown_at,
            self.report.notes, dropped=self.report.dropped, left=left,
        )  # fmt: skip

    def _end(self, record: Record, seen: list[Event], seconds: float, error: str) -> None:
        usage, num_finished = Usage(0, 0), 0
        for event in seen:
            if isinstance(event, Finished):
                usage, num_finished = add_usage(usage, event.usage), num_finished + 1
        text = "".join(event.text for event in seen if isinstance(event, TextDelta))
        whole = num_finished == self.request.n
        ending: RunEnding = "answered" if whole else "failed" if error else "left"
        record.note(Ended(ending, text, usage, seconds, error))
        told = about(self.asked, self.report, usage, seconds) | {"ending": ending}
        record.soon(record.begin(about=told, status="ended"))
