"""Tools of MCP servers that the operator's f1.toml names.

    f1.toml ─▶ settings ─▶ servers (a thread, a loop) ─▶ connection ─▶ transport ─▶ keeper ─▶ server
                              │  definitions: what it offers, judged      (or HTTP)
                              └─ pins: what of it is approved   ─▶ ToolSpec with a runner

Nothing of this comes from a request, and nothing that a server says of itself is believed.
"""
