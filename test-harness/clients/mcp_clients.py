"""MCP clients as the public library makes them: `mcp_clients.py CLIENTS MODE URL…`, each with a URL in turn.

MODE `legacy` is the handshake with a session, up to the revision of 2025-11-25; `auto` takes the revision of 2026-07-28 where
the server has it, which knows no sessions. Prints a JSON list: what each client saw, or why it failed.
"""

import asyncio
import json
import os
import sys

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


async def main():
    clients, mode, urls = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
    uses = [use(urls[place % len(urls)], mode) for place in range(clients)]
    seen = await asyncio.gather(*uses, return_exceptions=True)
    print(json.dumps([{"failure": repr(each)} if isinstance(each, BaseException) else each for each in seen]))


asyncio.run(asyncio.wait_for(main(), float(os.environ.get("BERTH_CLIENT_LIMIT", "60"))))
