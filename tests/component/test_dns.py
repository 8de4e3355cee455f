"""The node's DNS server on loopback, asked by `dig`, with dnsmasq as the node's resolver.

Containers are addresses of 127.0.0.0/8 here: the egress pool is 127.64.0.0/16, who has an address in it asks as a
task does.
"""
# ruff: noqa: ASYNC240 (preparing may block)

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from remote_helpers.net import dns, upstream
from remote_helpers.net.dns import DnsServer
from remote_helpers.net.names import Names
from remote_helpers.net.upstream import Resolvers

DIG, DNSMASQ = shutil.which("dig"), shutil.which("dnsmasq", path="/usr/sbin:/usr/bin")
pytestmark = pytest.mark.skipif(not (DIG and DNSMASQ), reason="needs bind9-dnsutils, dnsmasq-base (make packages)")

GATEWAY = "127.64.2.1"  # where containers of this node ask
TASK, OTHER, NO_TASK, STRANGER = "127.64.2.11", "127.64.2.12", "127.64.2.13", "127.0.0.1"
RESOLVER, SECOND = "127.0.53.1", "127.0.53.2"
SILENT = "127.0.53.9"  # listens, and says nothing
HEAD = struct.pack("!HHHHH", 0x0100, 1, 0, 0, 0)  # of a question, after the id
QUESTION = HEAD + b"\x03web\0\0\x01\0\x01"
OUTSIDE = HEAD + b"\x03int\x03out\x07example\0\0\x01\0\x01"


def names() -> Names:
    tasks = [{"id": f"w{i}", "address": f"10.50.1.{i}", "names": [f"web.{i}"]} for i in range(1, 61)]
    return Names(
        {
            "egress": {"pool": "127.64.0.0/16"},
            "networks": [
                {"id": "one", "name": "one", "subnet": "10.50.0.0/16"},
                {"id": "two", "name": "two", "subnet": "10.51.0.0/16"},
            ],
            "tasks": [
                {"id": "a", "addresses": ["10.50.9.1", TASK]},
                {"id": "b", "addresses": ["10.51.9.1", OTHER]},
            ],
            "names": [
                {"network": "one", "service": "w", "names": ["web"], "vip": "10.50.128.1", "tasks": tasks},
                {"network": "one", "service": "r", "names": ["rr"], "vip": "", "tasks": tasks[:3]},
            ],
        }
    )


def free_port(*addresses: str) -> int:
    """One that is free for UDP and TCP on each of the addresses."""
    while True:
        with ExitStack() as opened, suppress(OSError):
            port = 0
            for address in addresses:
                for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                    sock = opened.enter_context(socket.socket(socket.AF_INET, kind))
                    sock.bind((address, port))
                    port = sock.getsockname()[1]
            return port


class Answer:
    """What dig was told."""

    def __init__(self, text: str) -> None:
        self.text = text
        found = re.search(r"status: (\w+)", text)
        self.status = found[1] if found else "no answer"
        flags = re.search(r"flags: ([\w ]*);", text)
        self.flags = set(flags[1].split()) if flags else set()
        section = text.partition("ANSWER SECTION:")[2].partition("\n\n")[0]
        self.values = [line.split()[-1] for line in section.splitlines() if line.strip()]

    def __repr__(self) -> str:
        return self.text


class Clients:
    def __init__(self, port: int) -> None:
        self.port = port

    async def dig(self, source: str, *words: str, tries: int = 1, time_s: int = 6) -> Answer:
        options = [f"+time={time_s}", f"+tries={tries}", "+nocookie"]
        process = await asyncio.create_subprocess_exec(
            str(DIG), f"@{GATEWAY}", "-p", str(self.port), "-b", source, *options, *words, stdout=subprocess.PIPE
        )
        output, _ = await process.communicate()
        return Answer(output.decode())


@pytest.fixture
def clients() -> Clients:
    return Clients(free_port(GATEWAY))


@pytest.fixture
def upstream_port() -> int:
    return free_port(RESOLVER, SECOND, SILENT)


Start = Callable[..., Path]


@pytest.fixture
def dnsmasq(tmp_path: Path, upstream_port: int) -> Iterator[Start]:
    """Start dnsmasq on an address; its log, the path of which is the result, tells what it was asked."""
    with ExitStack() as running:

        def start(address: str, *more: str) -> Path:
            log = tmp_path / f"{address}.log"
            words = [
                str(DNSMASQ), "--keep-in-foreground", "--no-resolv", "--no-hosts", "--conf-file=/dev/null",
                "--user=root", "--group=root", "--bind-interfaces", f"--listen-address={address}",
                f"--port={upstream_port}", "--log-queries", f"--log-facility={log}", "--pid-file",
                "--address=/out.example/192.0.2.7", "--local=//", *more,
            ]  # fmt: skip
            process = subprocess.Popen(words)
            running.callback(process.wait, 10)
            running.callback(process.terminate)
            wait_for(address, upstream_port, process)
            return log

        yield start


def wait_for(address: str, port: int, process: subprocess.Popen[bytes]) -> None:
    """Until it listens: TCP and UDP are bound before it answers either."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.1)
        for _ in range(100):
            assert process.poll() is None
            with suppress(OSError):
                sock.sendto(b"\0\1" + OUTSIDE, (address, port))
                sock.recv(512)
                return
    raise AssertionError("dnsmasq does not answer")


@pytest.fixture
def resolv_conf(tmp_path: Path) -> Path:
    path = tmp_path / "resolv.conf"
    path.write_text(f"nameserver {RESOLVER}\n")
    return path


@pytest.fixture
async def server(clients: Clients, resolv_conf: Path, upstream_port: int) -> AsyncIterator[DnsServer]:
    made = DnsServer(names(), Resolvers(str(resolv_conf), str(resolv_conf) + ".real", upstream_port))
    assert made.listen([(GATEWAY, clients.port)]) == {}
    yield made
    made.close()


async def test_dig_is_told_names_of_its_networks_over_udp_and_tcp(server: DnsServer, clients: Clients) -> None:
    for way in ("+notcp", "+tcp", "+noedns"):
        answer = await clients.dig(TASK, "web", way)
        assert (answer.status, answer.values) == ("NOERROR", ["10.50.128.1"]), answer
        assert {"aa", "ra", "rd"} <= answer.flags
        assert (await clients.dig(OTHER, "web", way)).status == "NXDOMAIN"
        answer = await clients.dig(TASK, "AAAA", "web", way)
        assert (answer.status, answer.values) == ("NOERROR", [])
        assert (await clients.dig(STRANGER, "web", way)).status == "REFUSED"
    assert "Warning" not in (await clients.dig(TASK, "web")).text
    assert (await clients.dig(TASK, "-x", "10.50.128.1")).values == ["web.one."]
    assert sorted((await clients.dig(TASK, "rr")).values) == ["10.50.1.1", "10.50.1.2", "10.50.1.3"]


async def test_a_long_answer_is_asked_for_again_over_tcp(server: DnsServer, clients: Clients) -> None:
    answer = await clients.dig(TASK, "tasks.web", "+bufsize=512")
    assert len(answer.values) == 60 and "retrying in TCP mode" in answer.text
    answer = await clients.dig(TASK, "tasks.web", "+bufsize=512", "+ignore")
    assert "tc" in answer.flags and 20 < len(answer.values) < 60


async def test_first_answers_of_dnsrr_are_spread(server: DnsServer, clients: Clients) -> None:
    first = [(await clients.dig(TASK, "rr")).values[0] for _ in range(40)]
    assert set(first) == {"10.50.1.1", "10.50.1.2", "10.50.1.3"}  # it fails once in ten million


async def test_other_names_come_from_the_nodes_resolver_and_ours_never_reach_it(
    server: DnsServer, clients: Clients, dnsmasq: Start
) -> None:
    text = ",".join(["x" * 200] * 10)
    log = dnsmasq(RESOLVER, f"--txt-record=long.example,{text}", "--edns-packet-max=4096")
    for source in (TASK, OTHER, NO_TASK):
        for way in ("+notcp", "+tcp", "+noedns"):
            assert (await clients.dig(source, "www.out.example", way)).values == ["192.0.2.7"]
    assert (await clients.dig(TASK, "no.such.example")).status in ("NXDOMAIN", "REFUSED")
    assert (await clients.dig(STRANGER, "www.out.example")).status == "REFUSED"
    for name in ("web", "tasks.web", "rr"):
        assert (await clients.dig(OTHER, name)).status == "NXDOMAIN"
    assert (await clients.dig(OTHER, "-x", "10.50.128.1")).status == "NXDOMAIN"
    answer = await clients.dig(TASK, "TXT", "long.example", "+bufsize=600")
    assert "retrying in TCP mode" in answer.text and answer.text.count("x" * 200) == 10
    answer = await clients.dig(TASK, "TXT", "long.example", "+bufsize=4096")  # the client's own size is passed on
    assert "retrying" not in answer.text and answer.text.count("x" * 200) == 10
    asked = log.read_text()
    assert "www.out.example" in asked and "long.example" in asked
    assert (
        " web " not in asked and " tasks.web " not in asked and " rr " not in asked and "10.50.128.1" not in asked
    )


async def test_a_resolver_that_is_gone_or_silent_is_passed_over_and_comes_last(
    server: DnsServer, clients: Clients, dnsmasq: Start, resolv_conf: Path, upstream_port: int
) -> None:
    log = dnsmasq(SECOND)
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind((SILENT, upstream_port))
        resolv_conf.write_text(f"nameserver {RESOLVER}\nnameserver {SILENT}\nnameserver {SECOND}\n")
        begun = loop.time()
        assert (await clients.dig(TASK, "a.out.example")).values == ["192.0.2.7"]
        assert loop.time() - begun > 0.9  # it waited for the silent one
        begun = loop.time()
        for i in range(5):
            assert (await clients.dig(TASK, f"b{i}.out.example")).values == ["192.0.2.7"]
        assert loop.time() - begun < 0.9 * 5
    assert "b4.out.example" in log.read_text()


async def test_nobody_there_is_a_quick_failure_and_a_silent_one_a_slow_failure(
    server: DnsServer, clients: Clients, resolv_conf: Path, upstream_port: int
) -> None:
    loop = asyncio.get_running_loop()
    begun = loop.time()
    for way in ("+notcp", "+tcp"):
        assert (await clients.dig(TASK, "a.out.example", way)).status == "SERVFAIL"
    assert loop.time() - begun < 3
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind((RESOLVER, upstream_port))
        assert (await clients.dig(TASK, "b.out.example")).status == "SERVFAIL"
    assert loop.time() - begun > upstream.GIVE_UP_S - 0.2


async def test_resolv_conf_is_read_again_when_it_changes_also_behind_a_stub(
    server: DnsServer, clients: Clients, dnsmasq: Start, resolv_conf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream, "LOOK_AGAIN_S", 0.0)
    first, second = dnsmasq(RESOLVER), dnsmasq(SECOND)
    await clients.dig(TASK, "a.out.example")
    resolv_conf.with_name("resolv.conf.real").write_text(f"nameserver {SECOND}\n")
    resolv_conf.write_text("nameserver 127.0.0.53\noptions edns0 trust-ad\n")
    await clients.dig(TASK, "b.out.example")
    assert "a.out.example" in first.read_text() and "b.out.example" not in first.read_text()
    assert "b.out.example" in second.read_text()
    resolv_conf.with_name("resolv.conf.real").write_text(f"nameserver {RESOLVER}\n")
    await clients.dig(TASK, "c.out.example")
    assert "c.out.example" in first.read_text()


async def test_it_never_asks_itself(
    clients: Clients, resolv_conf: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    resolv_conf.write_text(f"nameserver {GATEWAY}\nnameserver 127.64.3.1\n")
    server = DnsServer(names(), Resolvers(str(resolv_conf), "", clients.port))
    server.listen([(GATEWAY, clients.port)])
    try:
        assert (await clients.dig(TASK, "www.out.example")).status == "SERVFAIL"
        assert "no_resolver" in capfd.readouterr().err
        assert (await clients.dig(GATEWAY, "www.out.example")).status == "REFUSED"
    finally:
        server.close()


async def test_a_circle_through_another_resolver_ends(server: DnsServer, clients: Clients, dnsmasq: Start) -> None:
    """The node's resolver asks us back from an address that we serve: what cannot be seen from here."""
    log = dnsmasq(RESOLVER, f"--server=/circle.example/{GATEWAY}#{clients.port}@{NO_TASK}")
    answer = await clients.dig(TASK, "x.circle.example", time_s=8)
    assert answer.status == "SERVFAIL"
    assert 0 < log.read_text().count("forwarded x.circle.example") < 10
    assert (await clients.dig(TASK, "www.out.example")).values == ["192.0.2.7"]


async def test_answers_that_do_not_fit_the_question_are_not_taken(
    server: DnsServer, clients: Clients, upstream_port: int
) -> None:
    """A resolver that sends guesses before the answer: a wrong id, a wrong name, no answer, and rubbish."""
    loop = asyncio.get_running_loop()
    seen: list[tuple[int, int]] = []

    class Guessing(asyncio.DatagramProtocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, client: Any) -> None:
            seen.append((int.from_bytes(data[:2], "big"), client[1]))
            question = data[12 : data.index(b"\0", 12) + 5]
            record = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 1, 4)

            def send(number: bytes, flags: int, asked: bytes, address: str) -> None:
                head = number + struct.pack("!HHHHH", flags, 1, 1, 0, 0)
                self.transport.sendto(head + asked + record + socket.inet_aton(address), client)

            other = bytes([data[0] ^ 1, data[1]])
            send(other, 0x8180, question, "192.0.2.66")
            send(data[:2], 0x8180, question.replace(b"one", b"two"), "192.0.2.67")
            send(data[:2], 0x0100, question, "192.0.2.68")
            self.transport.sendto(b"\0" * 5, client)
            send(data[:2], 0x8180, question.upper()[:-4] + question[-4:], "192.0.2.1")

    transport, _ = await loop.create_datagram_endpoint(Guessing, (RESOLVER, upstream_port))
    try:
        for i in range(12):
            assert (await clients.dig(TASK, f"one{i}.example", "+noedns")).values == ["192.0.2.1"]
    finally:
        transport.close()
    assert len({number for number, _ in seen}) > 9 and len({port for _, port in seen}) > 9


async def test_too_many_open_questions_fail_at_once_and_names_go_on(
    server: DnsServer, clients: Clients, upstream_port: int
) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent, client_at(TASK) as sock:
        silent.bind((RESOLVER, upstream_port))
        sock.connect((GATEWAY, clients.port))
        count = dns.MOST_WAITING_OF_ONE + 20
        for i in range(count):
            sock.send(i.to_bytes(2, "big") + OUTSIDE.replace(b"int", b"%03d" % i))
        loop = asyncio.get_running_loop()
        failed = [await asyncio.wait_for(loop.sock_recv(sock, 512), 2) for _ in range(20)]
        assert {one[3] & 15 for one in failed} == {2}
        assert (await clients.dig(OTHER, "-x", "10.50.128.1")).status == "NXDOMAIN"  # others are served meanwhile
        sock.send(b"\xff\xff" + QUESTION)
        assert (await asyncio.wait_for(loop.sock_recv(sock, 512), 2))[:2] == b"\xff\xff"


async def test_a_client_that_holds_connections_is_bounded_and_rubbish_ends_one(
    server: DnsServer, clients: Clients
) -> None:
    writers = []
    readers = []
    for _ in range(dns.MOST_TCP_OF_ONE + 1):
        reader, writer = await asyncio.open_connection(GATEWAY, clients.port, local_addr=(OTHER, 0))
        readers.append(reader)
        writers.append(writer)
    assert await asyncio.wait_for(readers[-1].read(), 5) == b""
    assert (await clients.dig(TASK, "web", "+tcp")).values == ["10.50.128.1"]
    writers[0].write(b"\xff\xff" + b"x" * 100)
    assert await asyncio.wait_for(readers[0].read(), 5) == b""
    writers[1].write(b"\0\x15\0\1" + QUESTION + b"\0\x15\0\2" + QUESTION)  # two in one go
    for number in (1, 2):
        length = int.from_bytes(await asyncio.wait_for(readers[1].readexactly(2), 5), "big")
        assert (await readers[1].readexactly(length))[:2] == number.to_bytes(2, "big")
    for writer in writers:
        writer.close()


def client_at(source: str) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.bind((source, 0))
    return sock


async def test_rubbish_neither_ends_nor_upsets_it(
    server: DnsServer, clients: Clients, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with client_at(TASK) as sock:
        for i in range(500):
            sock.sendto(os.urandom(i % 90), (GATEWAY, clients.port))
        sock.sendto(b"\0" * 9000, (GATEWAY, clients.port))
    assert (await clients.dig(TASK, "web")).values == ["10.50.128.1"]
    assert "Traceback" not in capfd.readouterr().err and not caplog.records


async def test_a_place_that_is_taken_is_told_and_tried_again(server: DnsServer, clients: Clients) -> None:
    with socket.socket() as taken:
        taken.bind((SECOND, 0))
        taken.listen(1)
        place = taken.getsockname()
        failed = server.listen([place, (GATEWAY, clients.port)])
        assert list(failed) == [place] and "in use" in failed[place]
        assert (await clients.dig(TASK, "web")).values == ["10.50.128.1"]
    assert server.listen([place, (GATEWAY, clients.port)]) == {}
    assert server.places == sorted([place, (GATEWAY, clients.port)])
    assert server.listen([(GATEWAY, clients.port)]) == {}
    with socket.socket() as again:
        again.bind(place)  # it was closed


# A process that serves, and on SIGUSR1 becomes another one by exec, with the sockets, as the helper does.
SERVING = """
import asyncio, os, signal, sys
from remote_helpers.net.dns import DnsServer
from remote_helpers.net.upstream import Resolvers
from tests.component.test_dns import GATEWAY, names

async def main(port, upstream_port, resolv_conf, fds):
    server = DnsServer(names(), Resolvers(resolv_conf, "", upstream_port))
    server.adopt(fds)
    failed = server.listen([(GATEWAY, port)])
    assert not failed, failed
    newer = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, newer.set)
    print("serving", flush=True)
    await newer.wait()
    return await server.hand_over()

port, upstream_port, resolv_conf, *fds = sys.argv[1:]
fds = asyncio.run(main(int(port), int(upstream_port), resolv_conf, [int(fd) for fd in fds]))
os.execv(sys.executable, [sys.executable, __file__, port, upstream_port, resolv_conf, *map(str, fds)])
"""


async def test_no_question_is_lost_while_one_process_takes_over_from_another(
    clients: Clients, tmp_path: Path, resolv_conf: Path, upstream_port: int, dnsmasq: Start
) -> None:
    dnsmasq(RESOLVER)
    script = tmp_path / "serving.py"
    script.write_text(SERVING)
    root = str(Path(__file__).resolve().parents[2])
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(script), str(clients.port), str(upstream_port), str(resolv_conf),
        env={**os.environ, "PYTHONPATH": root}, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            assert await process.stdout.readline() == b"serving\n"
            with client_at(TASK) as sock:
                sock.connect((GATEWAY, clients.port))
                sent, answered = await questions_during(sock, process)
            assert (await clients.dig(TASK, "web", "+tcp")).values == ["10.50.128.1"]
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    assert sent > 20 and answered == set(range(sent))


async def questions_during(sock: socket.socket, process: asyncio.subprocess.Process) -> tuple[int, set[int]]:
    """Ask 200 times a second while the process is replaced three times; (questions, ids that were answered)."""
    loop, asking = asyncio.get_running_loop(), True
    asked, answered, all_answered = set[int](), set[int](), asyncio.Event()

    def take() -> None:
        answered.add(int.from_bytes(sock.recv(512)[:2], "big"))
        if not asking and answered == asked:
            all_answered.set()

    async def ask() -> None:
        while asking:
            number = len(asked)
            asked.add(number)
            question = QUESTION if number % 2 else OUTSIDE.replace(b"int", b"%03d" % (number % 1000))
            sock.send(number.to_bytes(2, "big") + question)
            await asyncio.sleep(0.005)

    loop.add_reader(sock.fileno(), take)
    job = asyncio.create_task(ask())
    assert process.stdout is not None
    try:
        for _ in range(3):
            process.send_signal(signal.SIGUSR1)
            assert await process.stdout.readline() == b"serving\n"
        asking = False
        await job
        if answered != asked:
            with suppress(TimeoutError):
                async with asyncio.timeout(5):
                    await all_answered.wait()
    finally:
        loop.remove_reader(sock.fileno())
        job.cancel()
    return len(asked), answered
