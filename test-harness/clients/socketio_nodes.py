"""socket.io servers with sessions in memory: `socketio_nodes.py COUNT`. Each repeats a session's id in the cookie `io`."""

import sys

import socketio
from starlette.applications import Starlette

from serving import HEALTH, serve


def make(name):
    server = socketio.AsyncServer(async_mode="asgi", cookie="io")
    counts = {}

    @server.event
    async def count(sid):
        counts[sid] = counts.get(sid, 0) + 1
        return [name, counts[sid]]

    return socketio.ASGIApp(server, other_asgi_app=Starlette(routes=[HEALTH]))


serve(make, int(sys.argv[1]))
