"""Requests that no decent client sends, byte by byte."""

from __future__ import annotations

import asyncio

import pytest

from tests.fakes.serving import served


@pytest.fixture
async def api():
    async with served() as running:
        yield running


async def exchange(api, raw):
    """Status line's code and the whole answer."""
    reader, writer = await asyncio.open_unix_connection(str(api.socket))
    writer.write(raw.replace(b"HTTP/1.1\r\n", b"HTTP/1.1\r\nHost: x\r\n", 1))
    async with asyncio.timeout(20):
        answer = await reader.read(65536)
    writer.close()
    return int(answer.split(b" ", 2)[1]), answer


SPEC = b'{"Name":"web","TaskTemplate":{"ContainerSpec":{"Image":"web:1"}}}'


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET /services/%FF HTTP/1.1\r\n\r\n", 404),
        (b"GET /services/%ED%A0%80 HTTP/1.1\r\n\r\n", 404),
        (b"GET /services?filters=%FF%00 HTTP/1.1\r\n\r\n", 400),
        (b"GET /services?filters=%7B%22name%22%3A%5B%22%ED%A0%80%22%5D%7D HTTP/1.1\r\n\r\n", (200, 400)),
        (b"GET /v1.\xff/services HTTP/1.1\r\n\r\n", (400, 404)),
        (b"GET /services/\xff\xfe HTTP/1.1\r\n\r\n", (400, 404)),
        (b"POST /services/create HTTP/1.1\r\nX-Registry-Auth: \xff\xfe\r\nContent-Length: %d\r\n\r\n%b"
         % (len(SPEC), SPEC), 400),
        (b"GET /distribution/web/json HTTP/1.1\r\nX-Registry-Auth: \xff\xfe\r\n\r\n", 400),
        (b"POST /services/create HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"POST /services/create HTTP/1.1\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc", 400),
        (b"POST /services/web/update?version=\xd9\xa3 HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 400),
        (b"nonsense\r\n\r\n", 400),
        (b"GET /swarmsh/tasks/x/exec HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", 400),
    ],
)  # fmt: skip
async def test_odd_bytes_are_refused(api, caplog, raw, status):
    found, answer = await exchange(api, raw)
    expected = status if isinstance(status, tuple) else (status,)
    assert found in expected, answer
    assert b"Traceback" not in answer
    assert not [r for r in caplog.records if r.name.startswith("swarmsh") and r.levelname == "ERROR"]
