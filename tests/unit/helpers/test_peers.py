"""A second opinion: which hosts are reached, on real sockets of the loopback."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from remote_helpers import peers


@pytest.fixture
def silent() -> Iterator[int]:
    """A port whose queue is full: a connection to it is never answered, as by a host without power."""
    with socket.socket() as listening, socket.socket() as first, socket.socket() as second:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        port = listening.getsockname()[1]
        for one in (first, second):
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
        yield port


async def check(port: int, timeout_s: float, *, own: bool = True) -> bool:
    peer = {"node": "n", "address": "127.0.0.1", "port": port, "own": own}
    return (await peers.check_peers([peer], timeout_s))["n"]


async def test_a_host_that_answers_nothing_is_not_waited_for_longer_than_a_connection_takes(
    silent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "CONNECT_S", 0.1)
    async with asyncio.timeout(20):
        assert not await check(silent, 60.0)


async def test_an_sshd_that_is_slow_to_speak_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "CONNECT_S", 0.1)

    def speak_late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asyncio.get_running_loop().call_later(0.3, writer.write, b"SSH-2.0-x\r\n")

    async with await asyncio.start_server(speak_late, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert await check(port, 20.0)


@pytest.mark.parametrize("said", [b"HTTP/1.1 200 OK\r\n", b""])
async def test_what_is_no_sshd_is_not_reached(said: bytes) -> None:
    def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        assert not await check(server.sockets[0].getsockname()[1], 20.0)


async def test_a_refused_connection_is_a_no_at_once() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        async with asyncio.timeout(20):
            assert not await check(bound.getsockname()[1], 60.0)


async def test_this_machine_itself_is_no_other_node() -> None:
    def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-x\r\n")

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert await check(port, 20.0, own=True)
        assert not await check(port, 20.0, own=False)


@pytest.mark.parametrize("address", ["a..b", "x" * 64 + ".example", ""])
async def test_what_can_be_no_name_is_not_reached(address: str) -> None:
    peer = {"node": "n", "address": address, "port": 22}
    assert await peers.check_peers([peer], 20.0) == {"n": False}
