"""MCP servers with sessions in memory: `mcp_nodes.py COUNT`."""

import sys

from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from starlette.responses import JSONResponse
from starlette.routing import Route

from serving import HEALTH, serve


def make(name):
    server = MCPServer(name)
    counts = {}

    @server.tool()
    async def count(ctx: Context) -> str:
        """How often this session has asked, and which node counts. An event on the session's own stream says so too."""
        session = ctx.request_context.request.headers.get("mcp-session-id", "none")
        counts[session] = counts.get(session, 0) + 1
        await ctx.request_context.session.send_resource_list_changed()
        return f"{name} {counts[session]}"

    app = server.streamable_http_app()
    sessions = lambda _request: JSONResponse(len(server.session_manager._server_instances))
    app.routes.extend([HEALTH, Route("/sessions", sessions)])
    return app


serve(make, int(sys.argv[1]))
