"""Nodes of a web application: `web_nodes.py COUNT`. Each answers who it is, and the page at `/` says what a browser saw.

The page asks as pages do: six requests at once, a WebSocket, an event stream, and requests to another origin, `?api=`, and to another
site, `?site=`, with preflights before them. It posts what it saw to `/report`, and the node that gets it writes it down.
"""

import json
import sys

from starlette.applications import Starlette
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute

from serving import HEALTH, serve

PAGE = """<!doctype html><title>page</title><script type="module">
const [api, site] = ["api", "site"].map(name => new URLSearchParams(location.search).get(name));
const ask = async (url, options) => (await (await fetch(url, options)).json()).node;
const at_once = (base, options) => Promise.all([..."123456"].map(n => ask(`${base}/node?${n}`, options)));
const socket = () => new Promise((resolve, reject) => {
  const socket = new WebSocket(`wss://${location.host}/ws`);
  socket.onmessage = event => resolve(JSON.parse(event.data));
  socket.onerror = () => reject("the WebSocket is refused");
});
const events = () => new Promise((resolve, reject) => {
  const events = new EventSource("/events");
  const nodes = [];
  events.onmessage = event => { if (nodes.push(event.data) === 3) { events.close(); resolve(nodes); } };
  events.onerror = () => reject("the event stream breaks off");
});
const cross = {method: "PUT", credentials: "include", headers: {"x-app": "1"}};
let seen;
try {
  const [fetches, ws, stream] = await Promise.all([at_once("", {}), socket(), events()]);
  const other = await at_once(api, cross);
  // Another site has a cookie of its own, from its first answer on.
  const first = await ask(`${site}/node?0`, cross);
  const elsewhere = [first, ...await at_once(site, cross)];
  const over = performance.getEntriesByType("resource").find(entry => entry.name.includes("/node?1")).nextHopProtocol;
  seen = {page: "PAGE_NODE", fetches, ws, stream, other, elsewhere, over};
} catch (failure) { seen = {failure: String(failure)}; }
await fetch("/report", {method: "POST", body: JSON.stringify(seen)});
</script>"""


def make(name):
    def page(_request):
        return HTMLResponse(PAGE.replace("PAGE_NODE", name))

    def node(_request):
        return JSONResponse({"node": name})

    async def ws(socket):
        await socket.accept()
        await socket.send_json({"node": name, "key": socket.headers.get("sec-websocket-key")})
        async for _ in socket.iter_text():
            pass

    def events(_request):
        return StreamingResponse((f"data: {name}\n\n" for _ in range(3)), media_type="text/event-stream")

    async def report(request):
        print("report " + json.dumps(json.loads(await request.body())), flush=True)
        return PlainTextResponse("thanks")

    return Starlette(
        routes=[
            HEALTH,
            Route("/", page),
            Route("/node", node, methods=["GET", "PUT"]),
            WebSocketRoute("/ws", ws),
            Route("/events", events),
            Route("/report", report, methods=["POST"]),
        ]
    )


serve(make, int(sys.argv[1]))
