"""`service logs`: prefixes, streams, times."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import click
import pytest

from swarmsh.cli.service_logs import parse_since

from .conftest import Raw, Recorder, Result, make_node, make_service, make_task

Cli = Callable[..., Result]
TASK = "task1node1".ljust(25, "0")
MULTIPLEXED = "application/vnd.docker.multiplexed-stream"


def frame(stream: int, text: str) -> bytes:
    raw = text.encode()
    return bytes((stream, 0, 0, 0)) + len(raw).to_bytes(4, "big") + raw


def context(task: str, node: str = "node1", extra: str = "") -> str:
    prefix = "com.docker.swarm"
    return f"{prefix}.node.id={node},{prefix}.service.id=web0000000000000000000000,{prefix}.task.id={task}{extra}"


@pytest.fixture
def web(manager: Recorder) -> Recorder:
    service = make_service()
    manager.on("GET", "/services/web(0+)?", service)
    manager.on("GET", "/services/[^w].*", (404, {"message": "service x not found"}))
    first, second = make_task(service, 1), make_task(service, 2, node="node2")
    manager.on("GET", "/tasks/.*", (404, {"message": "task x not found"}))
    manager.on("GET", f"/tasks/{first['ID']}", first)
    manager.on("GET", f"/tasks/{second['ID']}", second)
    manager.on("GET", "/nodes/node1", make_node("n1"))
    manager.on("GET", "/nodes/node2", make_node("n2", node_id="node2"))
    one = frame(1, f"{context(first['ID'])} hello world\n")
    two = frame(2, f"{context(second['ID'], 'node2', ',a=b')} no newline")
    manager.on("GET", "/services/web0*/logs", Raw(one + two + one, MULTIPLEXED))
    return manager


def test_each_line_says_which_task_it_is_from(web: Recorder, cli: Cli) -> None:
    result = cli("service", "logs", "web")
    assert result.code == 0
    assert result.out == "web.1.task1node100@n1 | hello world\n" * 2
    assert result.err == "web.2.task2node200@n2 | no newline\n"
    assert web.sent("GET", ".*/logs")[0].query == {"stdout": "1", "stderr": "1", "tail": "all", "details": "1"}
    assert len(web.sent("GET", "/nodes/node1")) == 1  # asked once, not for every line


def test_options_reach_the_manager(web: Recorder, cli: Cli) -> None:
    cli("service", "logs", "-f", "-t", "--tail", "5", "--since", "2026-11-22T10:00:00Z", "--raw", "web")
    assert web.sent("GET", ".*/logs")[0].query == {
        "stdout": "1",
        "stderr": "1",
        "follow": "1",
        "timestamps": "1",
        "tail": "5",
        "since": "1795341600.000000000",
    }


def test_names_can_be_long_short_or_left_out(web: Recorder, cli: Cli) -> None:
    assert cli("service", "logs", "--no-task-ids", "--details", "web").err == "web.2@n2 | a=b no newline\n"
    assert f"{TASK}@n1" in cli("service", "logs", "--no-trunc", "web").out
    assert cli("service", "logs", "--no-resolve", "web").out.startswith(
        "web0000000000000000000000.1.task1node100@node1"
    )


def test_timestamps_come_first(web: Recorder, cli: Cli) -> None:
    line = f"2026-11-22T10:00:00.000000000Z {context(TASK)} hello\n"
    web.on("GET", "/services/web0*/logs", Raw(frame(1, line), MULTIPLEXED))
    out = cli("service", "logs", "--timestamps", "web").out
    assert out == "2026-11-22T10:00:00.000000000Z web.1.task1node100@n1 | hello\n"


def test_raw_is_what_the_task_wrote(web: Recorder, cli: Cli) -> None:
    web.on("GET", "/services/web0*/logs", Raw(frame(1, "plain\n") + frame(2, "bad\n"), MULTIPLEXED))
    result = cli("service", "logs", "--raw", "web")
    assert (result.out, result.err) == ("plain\n", "bad\n")


def test_a_tty_needs_raw(web: Recorder, cli: Cli) -> None:
    service = make_service()
    service["Spec"]["TaskTemplate"]["ContainerSpec"]["TTY"] = True
    web.on("GET", "/services/web", service)
    web.on("GET", "/services/web0*/logs", Raw(b"\x1b[1mbold\r\n", "application/vnd.docker.raw-stream"))
    assert cli("service", "logs", "web").code == 2
    assert cli("service", "logs", "--raw", "web").out == "\x1b[1mbold\r\n"


@pytest.mark.parametrize("target", [TASK, f"web.1.{TASK}"])
def test_a_task_by_id_or_name(target: str, web: Recorder, cli: Cli) -> None:
    web.on("GET", "/services/web\\..*", (404, {"message": "service x not found"}))
    line = f"{context(TASK)} hello\n"
    web.on("GET", "/tasks/task1.*/logs", Raw(frame(1, line), MULTIPLEXED))
    assert cli("service", "logs", target).out == "web.1.task1node100@n1 | hello\n"


def test_neither_service_nor_task(web: Recorder, cli: Cli) -> None:
    result = cli("service", "logs", "nope")
    assert (result.code, result.err) == (1, "Error: no such task or service: nope\n")


def test_since_takes_times_and_durations() -> None:
    moment = datetime(2026, 11, 22, 10, 0, tzinfo=UTC).timestamp()
    assert float(parse_since("2026-11-22T10:00:00Z", 0)) == moment
    assert float(parse_since("2026-11-22T11:00:00+01:00", 0)) == moment
    assert float(parse_since("42m", 10_000)) == 10_000 - 42 * 60
    assert parse_since("1700000000", 0) == "1700000000"
    with pytest.raises(click.BadParameter):
        parse_since("yesterday", 0)
