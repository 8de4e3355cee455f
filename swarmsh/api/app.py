"""The HTTP application: routes with and without a version, headers, errors; and the socket it listens on."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import stat
import time
from pathlib import Path

from aiohttp import web

from swarmsh.api import (
    cluster,
    events,
    extras,
    logs,
    networks,
    nodes,
    rebalance,
    refusals,
    resources,
    revisions,
    secrets,
    services,
    stacks,
    swarm,
    system,
    tasks,
    volumes,
    why,
)
from swarmsh.api.context import (
    API_VERSION,
    DEPS,
    Deps,
    Handler,
    error_response,
    version_of,
    version_refusal,
)
from swarmsh.errors import Kind, SwarmshError, Unavailable

log = logging.getLogger(__name__)

LONGEST_BODY = 4 << 20
LONGEST_HEADER = 64 << 10  # registry credentials and filters are long
_SLOW_S = 0.002

# Docker's mapping of gRPC classes; a stale version is 500 there, and clients know its words.
_STATUS = {
    Kind.INVALID: 400,
    Kind.NOT_FOUND: 404,
    Kind.CONFLICT: 409,
    Kind.OUT_OF_SEQUENCE: 500,
    Kind.FORBIDDEN: 403,
    Kind.UNIMPLEMENTED: 501,
    Kind.UNAVAILABLE: 503,
    Kind.INTERNAL: 500,
}
_MODULES = (
    system,
    swarm,
    nodes,
    networks,
    services,
    tasks,
    logs,
    events,
    secrets,
    resources,
    cluster,
    revisions,
    extras,
    why,
    rebalance,
    stacks,
    volumes,
)


def build_app(deps: Deps) -> web.Application:
    """The whole API; nothing is read or opened yet."""
    app = web.Application(middlewares=[_guard], client_max_size=LONGEST_BODY)
    app[DEPS] = deps
    for module in _MODULES:
        for method, path, handler in module.ROUTES:
            _route(app, method, path, _called(handler))
    for refusal in refusals.REFUSALS:
        for method in refusal.methods:
            _route(app, method, refusal.path, _refusing(refusal.message))
    app.on_response_prepare.append(_put_headers)
    return app


def _route(app: web.Application, method: str, path: str, handler: object) -> None:
    for prefix in ("", r"/v{version:[0-9][0-9.]*}"):
        app.router.add_route(method, prefix + path, handler)  # type: ignore[arg-type]


def _called(handler: Handler) -> object:
    async def call(request: web.Request) -> web.StreamResponse:
        return await handler(request, request.app[DEPS])

    return call


def _refusing(message: str) -> object:
    async def refuse(request: web.Request) -> web.StreamResponse:
        return error_response(501, message)

    return refuse


@web.middleware
async def _guard(request: web.Request, handler: object) -> web.StreamResponse:
    """Turn every error into Docker's JSON, and let nobody who polls without pause have the loop for himself."""
    assert callable(handler)
    if refused := version_refusal(version_of(request), request.match_info.get("version", "")):
        return error_response(400, refused)
    started = time.perf_counter()
    try:
        if request.method in ("GET", "HEAD"):
            response: web.StreamResponse = await handler(request)
        else:
            # A client that goes away does not tear what it asked for.
            response = await asyncio.shield(asyncio.ensure_future(handler(request)))
    except SwarmshError as e:
        return error_response(_STATUS[e.kind], str(e))
    except web.HTTPRequestEntityTooLarge:
        return error_response(413, f"the request body is larger than {LONGEST_BODY} bytes")
    except (web.HTTPNotFound, web.HTTPMethodNotAllowed):
        return error_response(404, "page not found")
    except web.HTTPException as e:
        return error_response(e.status, e.reason)
    except (ConnectionError, asyncio.CancelledError):
        raise
    except Exception:
        log.exception("request_failed method=%s path=%s", request.method, request.path)
        if request.writer.output_size:
            raise  # the answer is under way: all that is left is to cut it off
        return error_response(500, "internal error of swarmsh; its log has the details")
    if not response.prepared and (spent := time.perf_counter() - started) > _SLOW_S:
        await asyncio.sleep(min(spent, 0.1))  # at most half of the loop goes to one connection
    return response


async def _put_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers["Api-Version"] = ".".join(map(str, API_VERSION))
    response.headers["Docker-Experimental"] = "false"
    response.headers["Ostype"] = "linux"
    # Older clients read the server's system from this very form.
    response.headers["Server"] = f"Docker/swarmsh-{request.app[DEPS].version} (linux)"


# --- the socket ---------------------------------------------------------------------------------------------
async def serve(app: web.Application, socket_path: Path) -> web.AppRunner:
    """Listen on a unix socket (0600) until the returned runner's `cleanup()`, which ends streams and removes it.

    A socket that nobody listens on any more is replaced. Raises Unavailable if somebody does.
    """
    listener = await asyncio.to_thread(_listen, Path(socket_path))
    runner = web.AppRunner(
        app,
        access_log=None,
        handler_cancellation=True,
        shutdown_timeout=2.0,
        max_line_size=LONGEST_HEADER,
        max_field_size=LONGEST_HEADER,
    )

    async def stop_streams(_: web.Application) -> None:
        app[DEPS].stopping.set()
        with contextlib.suppress(OSError):
            os.unlink(socket_path)

    app.on_shutdown.append(stop_streams)
    await runner.setup()
    await web.SockSite(runner, listener).start()
    return runner


def _listen(path: Path) -> socket.socket:
    if len(os.fsencode(path)) > 107:  # sun_path, unix(7)
        raise Unavailable(f"the socket path {path} is too long for a unix socket", hint="Name a shorter one")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.exists():
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise Unavailable(f"{path} exists and is no socket", hint="Name another path with --socket")
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(path))
            except OSError:
                path.unlink()
            else:
                raise Unavailable(f"another process listens on {path}", hint="Stop it, or name another --socket")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    os.fchmod(listener.fileno(), 0o600)  # Linux gives a socket's file the mode that its descriptor has at bind
    listener.bind(str(path))
    listener.listen(128)
    listener.setblocking(False)
    return listener
