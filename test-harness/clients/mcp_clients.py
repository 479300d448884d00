"""MCP clients as the public library makes them: `mcp_clients.py CLIENTS MODE URL…`, each with a URL in turn.

MODE `legacy` is the handshake with a session, up to the revision of 2025-11-25; `auto` takes the revision of 2026-07-28 where
the server has it, which knows no sessions. Prints a JSON list: what each client saw, or why it failed.
"""

import asyncio

import using
from mcp import Client

CALLS = 6


async def use(url, mode):
    heard = asyncio.Event()

    async def handle(message):
        if "list_changed" in str(getattr(message, "method", "")):
            heard.set()

    async with Client(url, mode=mode, message_handler=handle) as client:
        answers = []
        for _ in range(CALLS):
            result = await client.call_tool("count", {})
            answers.append(result.content[0].text.split(" "))
        if mode == "legacy":
            await asyncio.wait_for(heard.wait(), 10)
    return {"nodes": sorted({node for node, _ in answers}), "counts": [int(count) for _, count in answers]}


using.run(use)
