"""socket.io clients as the public library makes them: `socketio_clients.py CLIENTS MODE URL…`, each with a URL in turn.

MODE: `upgrade` polls and then takes a WebSocket, as browsers do; `polling` goes on polling; both keep cookies. `bare` upgrades
and keeps none. Prints a JSON list: what each client saw, or why it failed.
"""

import aiohttp
import socketio
import using

CALLS = 6


async def use(url, mode):
    # By default cookies from an address without a name are not kept.
    jar = aiohttp.DummyCookieJar() if mode == "bare" else aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(cookie_jar=jar) as http:
        client = socketio.AsyncClient(http_session=http, reconnection=False)
        transports = ["polling"] if mode == "polling" else None
        await client.connect(url, transports=transports, wait_timeout=10)
        answers = [await client.call("count", timeout=10) for _ in range(CALLS)]
        transport = client.transport()
        # A poll that is under way would be waited for.
        await client.eio.disconnect(abort=True)
    nodes = sorted({node for node, _ in answers})
    return {"nodes": nodes, "counts": [count for _, count in answers], "transport": transport}


using.run(use)
