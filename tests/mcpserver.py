"""An MCP server on stdio that is written out: no SDK, so it starts in milliseconds and may lie.

python -P mcpserver.py '{"tools": [...], …}'      what it does is data (see `Script`)
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

TOOL = {
    "name": "echo",
    "description": "Says it again.",
    "inputSchema": {"type": "object", "properties": {"text": {"type": "string"}}},
}


def say(message: Any) -> None:
    raw(json.dumps({"jsonrpc": "2.0"} | message).encode() + b"\n")


def raw(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]


def main() -> None:
    script = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}
    note(script, f"pid {os.getpid()}")
    if script.get("ignore_sigterm"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for _ in range(script.get("grandchildren", 0)):
        code = (
            "import os,signal,sys,time;signal.signal(signal.SIGTERM,signal.SIG_IGN);os.setsid();"
            "open(sys.argv[1],'a').write(f'pid {os.getpid()}\\n');time.sleep(600)"
        )
        subprocess.Popen([sys.executable, "-c", code, script["note"]])
    if "tools_file" in script:
        threading.Thread(target=tell_changes, args=[script["tools_file"]], daemon=True).start()
    act(script.get("start"), {}, script)
    for line in sys.stdin:
        message = json.loads(line)
        method = message.get("method", "")
        if "id" not in message:
            continue
        if not act(script.get(method), message, script):
            answer(message, script)


def tell_changes(file: str) -> None:
    at = os.stat(file).st_mtime_ns
    while True:
        time.sleep(0.02)
        if os.stat(file).st_mtime_ns != at:
            at = os.stat(file).st_mtime_ns
            say({"method": "notifications/tools/list_changed"})


def note(script: dict[str, Any], told: str) -> None:
    """For the test to see what came to be."""
    if "note" in script:
        with open(script["note"], "a") as file:
            file.write(f"{told}\n")


def answer(message: dict[str, Any], script: dict[str, Any]) -> None:
    def result(value: Any) -> None:
        say({"id": message["id"], "result": value})

    match message.get("method"):
        case "initialize":
            version = message["params"]["protocolVersion"]
            info = {"name": "written", "version": "1"}
            tools = {"tools": {"listChanged": True}}
            result({"protocolVersion": version, "capabilities": tools, "serverInfo": info})
        case "tools/list":
            tools = script.get("tools", [TOOL])
            if "tools_file" in script:
                tools = json.loads(Path(script["tools_file"]).read_text())
            result({"tools": tools})
            note(script, "listed")
            if script.get("after_list") == "storm":
                note(script, "did storm")
                changed = b'{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}\n'
                raw(changed * 1000)
        case "tools/call":
            text = json.dumps(message["params"]["arguments"])
            result({"content": [{"type": "text", "text": text}]})
        case "ping":
            result({})
        case _:
            error = {"code": -32601, "message": "Method not found"}
            say({"id": message["id"], "error": error})


def act(what: Any, message: dict[str, Any], script: dict[str, Any]) -> bool:
    """Does it in place of an answer; False: nothing, it is answered as well."""
    here = message.get("id")
    if what is not None:
        note(script, f"did {json.dumps(what)}")
    match what:
        case None:
            return False
        case "crash":
            os._exit(3)
        case "abort":
            os.abort()
        case "hang":
            time.sleep(600)
        case "spin":
            while True:
                pass
        case "silence":
            pass
        case "close":
            os.close(1)
            time.sleep(600)
        case "environment":
            seen = json.dumps({**os.environ, "cwd": os.getcwd()})
            say({"id": here, "result": {"content": [{"type": "text", "text": seen}]}})
        case "garbage":
            raw(b"this is no JSON\n{]\n\xff\xfe\n[1,2]\n3\n\n")
            return False
        case "wrong_id":
            say({"id": 987654, "result": {"content": [], "tools": []}})
        case "text_id":
            say({"id": str(here), "result": {"content": [{"type": "text", "text": "ok"}]}})
        case "no_id":
            say({"id": None, "result": {}})
        case "twice":
            answer(message, script)
            return False
        case "half":
            raw(b'{"jsonrpc":"2.0","id":%d,"result":{"conte' % here)
            os._exit(0)
        case "half_hang":
            raw(b'{"jsonrpc":"2.0","id":%d,"result":{"conte' % here)
            time.sleep(600)
        case "endless":
            while True:
                raw(b"x" * 65536)
        case "endless_lines":
            while True:
                raw(
                    b'{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"x"}}\n'
                    * 500
                )
        case "requests":
            for number in range(10**9):
                say(
                    {
                        "id": f"s{number}",
                        "method": "sampling/createMessage",
                        "params": {"messages": [], "maxTokens": 1},
                    }
                )
        case "changed":
            for _ in range(10**9):
                say({"method": "notifications/tools/list_changed"})
        case "drip":
            for byte in b'{"jsonrpc":"2.0","id":1,"result":{}}' * 1000:
                raw(bytes([byte]))
                time.sleep(0.1)
        case {"big": size}:
            raw(b'{"jsonrpc":"2.0","id":%d,"result":{"content":[{"type":"text","text":"' % here)
            for _ in range(size >> 16):
                raw(b"y" * 65536)
            raw(b'"}]}}\n')
        case {"big_first": size}:  # its id stands at the end
            raw(b'{"result":{"content":[{"type":"text","text":"')
            for _ in range(size >> 16):
                raw(b"y" * 65536)
            raw(b'"}]},"jsonrpc":"2.0","id":%d}\n' % here)
        case {"many_tools": count}:
            raw(b'{"jsonrpc":"2.0","id":%d,"result":{"tools":[' % here)
            for number in range(count):
                raw(b'{"name":"t%d","inputSchema":{"type":"object"}},' % number)
            raw(b'{"name":"last","inputSchema":{"type":"object"}}]}}\n')
        case {"pages": _}:  # without an end
            cursor = (message.get("params") or {}).get("cursor", "0")
            tool = TOOL | {"name": f"t{cursor}"}
            say({"id": here, "result": {"tools": [tool], "nextCursor": str(int(cursor) + 1)}})
        case {"result": value}:
            say({"id": here, "result": value})
        case {"error": value}:
            say({"id": here, "error": value})
        case _:
            raise ValueError(what)
    return True


if __name__ == "__main__":
    main()
