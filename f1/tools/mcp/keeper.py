"""The program that holds an MCP server of the operator's: nothing of it outlives its connection.

    F1 ── control ──▶ keeper ── fork, exec ──▶ the server ─▶ its children, their children …
     └──── its stdin and stdout, two pipes ────────┘

It is the supervisor of tools' workers (f1/tools/runners/supervisor.py): all orphans of the server
become its children, and are ended with it, when the server ends, and when F1 lets go of `control`
or is gone. What the server writes to stderr goes up `control`. The SDK's own client ends the
process group only: a grandchild with a session of its own would live on.
"""

from __future__ import annotations

import os
import sys

from f1.tools.runners.supervisor import hold, stand_apart

_NOT_FOUND = 127


def main() -> None:
    """argv: the descriptors of its stdin and stdout, then the command. The environment is the
    server's."""
    reads, writes = int(sys.argv[1]), int(sys.argv[2])
    command = sys.argv[3:]

    def become(errors: int) -> None:
        stand_apart(reads, writes, errors)
        os.closerange(3, max(reads, writes, errors) + 1)
        try:
            os.execvpe(command[0], command, os.environ)
        except OSError as error:
            os.write(2, f"{command[0]}: {error.strerror}\n".encode(errors="replace"))
            os._exit(_NOT_FOUND)

    def let_go() -> None:
        os.close(reads)
        os.close(writes)

    hold(become, let_go)
