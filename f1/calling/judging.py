"""A process in which grammars are made for the first time: one that takes too much ends here.

    server ──vocabulary, once──▶ this process, which imports xgrammar and nothing that is large
       │                            ╰─fork─▶ worker: makes one grammar after another; the kernel
       ├───sources─────────────────────────▶ ends it at its limits of processor time, time, memory
       │◀──one verdict each─────────────────╯
       │◀──how it ended───────── waits for it, and forks another

Messages are JSON behind their length (4 bytes), on the socket that is the standard input. Runs as
`python -m f1.calling.judging`; who asks is in f1/calling/judge.py.
"""

from __future__ import annotations

import base64
import json
import os
import resource
import signal
import socket
import struct
import sys
import time
import types
from contextlib import suppress
from pathlib import Path
from typing import Any

NICE = 5  # below the model's steps, which every request waits for
WALK_STEPS = 64
WALK_SECONDS = 0.02  # of processor time, for one of them; an ordinary one takes under 1 ms
_OUT_OF_MEMORY = 3  # exit status
CACHE_BYTES = 64 << 20  # of what grammars have in common


def send(connection: socket.socket, message: Any) -> None:
    data = json.dumps(message).encode()
    connection.sendall(struct.pack("<I", len(data)) + data)


def receive(connection: socket.socket) -> Any:
    """The next message. Raises EOFError where there is none any more."""
    (size,) = struct.unpack("<I", _read(connection, 4))
    return json.loads(_read(connection, size))


def _read(connection: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        if not (part := connection.recv(min(size - len(data), 1 << 20))):
            raise EOFError
        data += part
    return bytes(data)


def main() -> None:
    connection = socket.socket(fileno=0)
    _leave_out_torch()
    import numpy as np
    import xgrammar

    from f1.calling.source import Source

    try:
        setup = receive(connection)
    except EOFError:
        return  # who has started this is gone
    vocabulary = [base64.b64decode(token) for token in setup["vocabulary"]]
    lengths = np.zeros(setup["vocab_size"], np.int32)
    lengths[: len(vocabulary)] = [len(token) for token in vocabulary]
    info = xgrammar.TokenizerInfo(
        vocabulary,
        vocab_size=setup["vocab_size"],
        stop_token_ids=setup["stop_token_ids"],
    )
    compiler = xgrammar.GrammarCompiler(info, max_threads=1, cache_limit_bytes=CACHE_BYTES)
    for text in setup["common"]:  # what most have in common is made once, for all workers
        compiler.compile_grammar(Source("ebnf", text).grammar())
    send(connection, {})
    os.nice(NICE)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it is for the worker, whose end is waited for
    while True:
        worker = os.fork()
        if worker == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            try:
                _work(compiler, lengths, connection, setup["max_bytes"])
            finally:
                os._exit(_OUT_OF_MEMORY)
        _, status, usage = os.wait4(worker, 0)
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
            return
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        if number == signal.SIGTERM:
            return
        with suppress(BrokenPipeError):  # the engine was closed meanwhile: nobody wants to know
            send(connection, {"ended": number, "clock": usage.ru_utime + usage.ru_stime})


def _work(compiler: Any, lengths: Any, connection: socket.socket, max_bytes: int) -> None:
    for number in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(number, signal.SIG_DFL)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + max_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while True:
        try:
            job = receive(connection)
        except EOFError:
            os._exit(0)
        send(connection, {"clock": time.process_time()})
        signal.setitimer(signal.ITIMER_REAL, job["seconds"])
        for given in job["sources"]:
            signal.setitimer(signal.ITIMER_PROF, job["cpu_seconds"])
            send(connection, _judge(compiler, lengths, given))
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)


def _judge(compiler: Any, lengths: Any, given: dict[str, Any]) -> dict[str, Any]:
    from f1.calling.source import Source, reason

    begin = time.process_time()
    try:
        compiled = compiler.compile_grammar(Source(**given).grammar())
        seconds = time.process_time() - begin
        wrong = _walk(compiled, lengths)
    except Exception as error:
        if isinstance(error, MemoryError) or "bad_alloc" in str(error):
            os._exit(_OUT_OF_MEMORY)  # who knows what else was not done
        return {"error": reason(error)}
    if wrong is not None:
        return {"error": wrong}
    return {"num_bytes": compiled.memory_size_bytes, "seconds": seconds}


def _walk(compiled: Any, lengths: Any) -> str | None:
    """What goes wrong on the way of a model that always takes the longest token, or any: time that
    grows with what was read shows there."""
    import numpy as np
    import xgrammar

    draw = np.random.default_rng(0)
    mask = np.zeros((1, (len(lengths) + 31) // 32), np.int32)
    for pick in (lambda legal: lengths[legal].argmax(), lambda legal: draw.integers(len(legal))):
        matcher = xgrammar.GrammarMatcher(compiled)
        for step in range(WALK_STEPS):
            begin = time.process_time()
            matcher.fill_next_token_bitmask(mask)
            legal = np.flatnonzero(np.unpackbits(mask[0].view(np.uint8), bitorder="little"))
            if not len(legal):
                return "no text satisfies it" if step == 0 else None
            matcher.accept_token(int(legal[pick(legal)]))
            if time.process_time() - begin > WALK_SECONDS:
                return "to tell what may come next takes too long"
            if matcher.is_terminated():
                break
    return None


def _leave_out_torch() -> None:
    """xgrammar imports torch and transformers for functions that are not called here: seconds, and
    300 MB. With something in their place it has all it needs."""

    class Absent(types.ModuleType):
        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return type(name, (), {"__init__": lambda self, *args, **kwargs: None})

    sys.modules["torch"] = None  # type: ignore[assignment]  # what asks whether it is there
    import tvm_ffi  # noqa: F401

    for name in ("torch", "transformers"):
        sys.modules[name] = absent = Absent(name)
        absent.__path__ = []


if __name__ == "__main__":
    main()
