"""/services/{id}/logs and /tasks/{id}/logs: the lines of one or all tasks, from their nodes."""

from __future__ import annotations

from aiohttp import web

from swarmsh.api.context import Deps, flag, segment, time_of, version_of
from swarmsh.api.log_sources import Line, LogRequest, TaskLogs
from swarmsh.api.streaming import ClientGone, send, while_running
from swarmsh.errors import InvalidSpec
from swarmsh.manager.usecases import lookup
from swarmsh.model.objects import Task

_MULTIPLEXED_SINCE = (1, 42)
_SYSTEM_ERROR = 3  # the stream whose text a client prints as an error (moby `stdcopy`)


async def of_service(request: web.Request, deps: Deps) -> web.StreamResponse:
    wanted = _read(request)
    lookup.require_cluster(deps.snapshot)
    service = lookup.find_service(deps.snapshot, segment(request))
    container = service.spec.task_template.container_spec
    logs = TaskLogs(deps.store, deps.streams, wanted, service_id=service.id)
    return await _stream(request, deps, logs, wanted, tty=container is not None and container.tty)


async def of_task(request: web.Request, deps: Deps) -> web.StreamResponse:
    wanted = _read(request)
    lookup.require_cluster(deps.snapshot)
    task = lookup.find_task(deps.snapshot, segment(request))
    logs = TaskLogs(deps.store, deps.streams, wanted, task_id=task.id)
    return await _stream(request, deps, logs, wanted, tty=_has_tty(task))


def _has_tty(task: Task) -> bool:
    return task.spec.container_spec is not None and task.spec.container_spec.tty


def _read(request: web.Request) -> LogRequest:
    tail = request.query.get("tail", "") or "all"
    if tail != "all" and not (tail.lstrip("-").isdecimal() and tail.isascii() and len(tail) < 10):
        raise InvalidSpec(f"invalid value for tail: {tail!r} is neither a number nor all")
    wanted = LogRequest(
        stdout=flag(request, "stdout"),
        stderr=flag(request, "stderr"),
        follow=flag(request, "follow"),
        timestamps=flag(request, "timestamps"),
        details=flag(request, "details"),
        tail="all" if tail.startswith("-") else tail,
        since=time_of(request, "since") or 0.0,
        until=time_of(request, "until") or 0.0,
    )
    if not (wanted.stdout or wanted.stderr):
        raise InvalidSpec("Bad parameters: you must choose at least one stream")
    return wanted


async def _stream(
    request: web.Request, deps: Deps, logs: TaskLogs, wanted: LogRequest, *, tty: bool
) -> web.StreamResponse:
    framed = not tty
    multiplexed = framed and version_of(request) >= _MULTIPLEXED_SINCE
    response = web.StreamResponse()
    response.content_type = f"application/vnd.docker.{'multiplexed' if multiplexed else 'raw'}-stream"
    await response.prepare(request)
    try:
        async with logs:
            async for line in while_running(logs.lines(), deps.stopping):
                text = _text(line, wanted)
                await send(response, frame(line.stream, text) if framed else text)
        if logs.failures and framed:
            await send(response, frame(_SYSTEM_ERROR, _incomplete(logs.failures)))
    except ClientGone:
        return response
    await response.write_eof()
    return response


def _text(line: Line, wanted: LogRequest) -> bytes:
    """`[timestamp ][details ]text`: dockerd's order, which the CLI relies on."""
    text = line.text
    if wanted.details:
        task = line.task
        details = (
            f"com.docker.swarm.node.id={task.node_id},com.docker.swarm.service.id={task.service_id},"
            f"com.docker.swarm.task.id={task.id} "
        )
        text = details.encode() + text
    return line.timestamp + b" " + text if wanted.timestamps and line.timestamp else text


def frame(stream: int, payload: bytes) -> bytes:
    """Docker's multiplexed stream: the stream's number, three zeros, the length as big-endian 32 bits."""
    return bytes((stream, 0, 0, 0)) + len(payload).to_bytes(4, "big") + payload


def _incomplete(failures: list[str]) -> bytes:
    head = (
        "Error grabbing logs: rpc error: code = Unknown desc = warning: incomplete log stream. "
        "some logs could not be retrieved for the following reasons: "
    )
    return (head + ", ".join(sorted(set(failures))) + "\n").encode()


ROUTES = (("GET", "/services/{id}/logs", of_service), ("GET", "/tasks/{id}/logs", of_task))
