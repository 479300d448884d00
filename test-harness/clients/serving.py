"""Several nodes in one process, each on a port of its own: `serve` says which, then serves until the process ends."""

import asyncio
import json
import socket

import uvicorn
from starlette.responses import PlainTextResponse
from starlette.routing import Route


def health(_request):
    """What Envoy's active checks ask for."""
    return PlainTextResponse("ok")


HEALTH = Route("/healthz", health)


class Named:
    """Adds `x-node` to each answer, and tells the application its own name as `scope["node"]`."""

    def __init__(self, app, name):
        self.app, self.name = app, name

    async def __call__(self, scope, receive, send):
        scope["node"] = self.name

        async def named(message):
            if message["type"] in ("http.response.start", "websocket.accept"):
                message = {**message, "headers": [*message.get("headers", []), (b"x-node", self.name.encode())]}
            await send(message)

        await self.app(scope, receive, named)


async def serve_all(make, count):
    """Starts `count` nodes, of which `make(name)` makes the application."""
    servers, names = [], []
    for _ in range(count):
        listening = socket.socket()
        listening.bind(("127.0.0.1", 0))
        name = "127.0.0.1:%d" % listening.getsockname()[1]
        config = uvicorn.Config(Named(make(name), name), log_level="warning", ws="wsproto", lifespan="on")
        server = uvicorn.Server(config)
        server.install_signal_handlers = lambda: None
        servers.append(asyncio.create_task(server.serve(sockets=[listening])))
        names.append(name)
        while not server.started:
            await asyncio.sleep(0.01)
            if servers[-1].done():
                servers[-1].result()
    print("ready " + json.dumps(names), flush=True)
    await asyncio.gather(*servers)


def serve(make, count):
    """As `serve_all`, as a program."""
    asyncio.run(serve_all(make, count))
