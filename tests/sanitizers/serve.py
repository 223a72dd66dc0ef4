"""The engine with all that goes between Python and the core, for a watched process.

serve.py MODEL
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress

from f1.engine import AsyncEngine
from f1.errors import EngineStopped
from f1.planning.collect import gather
from f1.settings import Settings
from f1.types import GenerateRequest, Message, ResponseFormat, SamplingParams, Tool, ToolChoice

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = (Tool("get_weather", "Weather of a city", CITY), Tool("get_time", "Time in a city", CITY))
WARM = SamplingParams(temperature=0.9, seed=3, num_logprobs=2, masked_mass=True)
KINDS: list[dict[str, object]] = [
    {"tools": TOOLS, "tool_choice": ToolChoice("required")},
    {"tools": TOOLS, "n": 3, "sampling": SamplingParams(temperature=1.0)},
    {"response_format": ResponseFormat("json_object")},
    {"response_format": ResponseFormat("regex", "[a-c]{3}-[0-9]+"), "sampling": WARM},
    {},
]


def ask(kind: int, text: str) -> GenerateRequest:
    fields = KINDS[kind % len(KINDS)]
    return GenerateRequest(
        (Message("user", f"{text} of Oslo, Oslo and Oslo?"),), max_tokens=24, record=True, **fields
    )  # type: ignore[arg-type]


async def main(model: str) -> None:
    told = 0
    for times in range(2):  # closed under load, and started again
        engine = AsyncEngine.start(model, Settings(max_sequences=4, kv_memory=32 << 20))
        for kind in range(len(KINDS)):
            request = ask(kind, "Weather")
            for completion in await gather(engine.generate(request), request.n):
                told += completion.report.decoded is not None
        running = []
        for kind in range(12):
            request = ask(kind, f"The weather {kind}")
            running.append(asyncio.ensure_future(gather(engine.generate(request), request.n)))
        await running[0]
        running[1].cancel()
        await asyncio.to_thread(engine.close)
        stopped = 0
        for one in running[1:]:
            with suppress(asyncio.CancelledError):
                try:
                    await one
                except EngineStopped:
                    stopped += 1
        if not stopped:
            raise SystemExit(f"nothing ran any more when it was closed, time {times}")
    print(f"{told} turns told, then closed under load")


asyncio.run(main(sys.argv[1]))
