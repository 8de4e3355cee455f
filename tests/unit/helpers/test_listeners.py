"""What listens on a node: as kernels write it down, and with sockets of this very process."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from remote_helpers.fence import Refused
from remote_helpers.listeners import MOST_RANGES, listeners, parse

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
REST = "00000000:00000000 00:00000000 00000000     0        0"
ALL = {"ports": [{"protocol": p, "first": 1, "last": 65535} for p in ("tcp", "udp")]}


def line(local: str, remote: str, state: str, inode: int = 1) -> str:
    return f"   0: {local} {remote} {state} {REST} {inode} 1 0000000000000000 100 0 0 10 0\n"


def proc_with(directory: Path, **files: str) -> str:
    (directory / "net").mkdir()
    (directory / "fd").mkdir()
    for name, text in files.items():
        (directory / "net" / name).write_text(HEAD + text)
    return str(directory)


def test_who_listens_is_read_of_all_four_lists(tmp_path: Path) -> None:
    any6, loop6 = "0" * 32, "0" * 24 + "01000000"
    mapped = "0000000000000000FFFF00000C00620A"
    tcp = line("00000000:1F90", "00000000:0000", "0A") + line("3500007F:0035", "00000000:0000", "0A")
    tcp6 = "".join(line(f"{address}:1F90", f"{any6}:0000", "0A") for address in (any6, loop6, mapped))
    udp = line("00000000:14E9", "00000000:0000", "07") + line("00000000:14E9", "00000000:0000", "07", 2)
    proc = proc_with(tmp_path, tcp=tcp, tcp6=tcp6, udp=udp)  # and a kernel without udp6
    assert [(one["protocol"], one["address"], one["port"]) for one in listeners(ALL, proc)] == [
        ("tcp", "127.0.0.53", 53),
        ("tcp", "0.0.0.0", 8080),
        ("tcp", "::", 8080),
        ("tcp", "::1", 8080),
        ("tcp", "::ffff:10.98.0.12", 8080),
        ("udp", "0.0.0.0", 5353),  # two sockets that share a port are one answer
    ]


def test_only_what_was_asked_for_is_told(tmp_path: Path) -> None:
    tcp = "".join(line(f"00000000:{port:04X}", "00000000:0000", "0A") for port in (79, 80, 81, 443, 8080))
    udp = line("00000000:0050", "00000000:0000", "07")
    proc = proc_with(tmp_path, tcp=tcp, udp=udp)
    asked = {
        "ports": [{"protocol": "tcp", "first": 80, "last": 81}, {"protocol": "tcp", "first": 443, "last": 443}]
    }
    assert [(one["protocol"], one["port"]) for one in listeners(asked, proc)] == [
        ("tcp", 80),
        ("tcp", 81),
        ("tcp", 443),
    ]
    assert listeners({"ports": []}, proc) == []


def test_connections_are_no_listeners() -> None:
    established = line("0C00620A:1F90", "0B00620A:C000", "01")
    assert list(parse([HEAD, established], "tcp")) == []
    connected = line("0C00620A:0035", "0B00620A:0035", "01") + line("0C00620A:0044", "0B00620A:0043", "07")
    assert list(parse([HEAD, *connected.splitlines()], "udp")) == []


def test_connections_behind_the_listeners_are_not_even_read() -> None:
    def lines() -> Iterator[str]:
        yield HEAD
        yield line("00000000:0050", "00000000:0000", "0A", 7)
        yield line("0C00620A:1F90", "0B00620A:C000", "01")
        raise AssertionError("there may be a million of them")

    assert list(parse(lines(), "tcp")) == [("0.0.0.0", 80, "7")]


def test_the_kernel_tells_of_real_sockets_and_those_of_the_helper_are_left_out(tmp_path: Path) -> None:
    with ExitStack() as stack:
        expected = []
        for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            for kind, protocol in ((socket.SOCK_STREAM, "tcp"), (socket.SOCK_DGRAM, "udp")):
                try:
                    sock = stack.enter_context(socket.socket(family, kind))
                    sock.bind((address, 0))
                except OSError:
                    continue  # this machine has no IPv6
                if kind == socket.SOCK_STREAM:
                    sock.listen()
                expected.append({"protocol": protocol, "address": address, "port": sock.getsockname()[1]})
        bound = stack.enter_context(socket.socket())
        bound.bind(("127.0.0.1", 0))  # and does not listen
        (tmp_path / "net").symlink_to("/proc/self/net")
        (tmp_path / "fd").mkdir()  # as if none of them were ours
        seen = listeners(ALL, str(tmp_path))
        assert len(expected) >= 2 and [one for one in expected if one not in seen] == []
        assert ("tcp", bound.getsockname()[1]) not in {(one["protocol"], one["port"]) for one in seen}
        assert [one for one in expected if one in listeners(ALL)] == []


@pytest.mark.parametrize(
    "given",
    [
        None,
        {"protocol": "tcp"},
        [{"protocol": "sctp", "first": 1, "last": 1}],
        [{"protocol": "tcp", "first": 0, "last": 1}],
        [{"protocol": "tcp", "first": 2, "last": 1}],
        [{"protocol": "tcp", "first": 1, "last": 65536}],
        [{"protocol": "tcp", "first": "1", "last": 1}],
        [{"protocol": "tcp", "first": True, "last": True}],
        [{"protocol": "tcp", "first": 1}],
        [["tcp", 1, 1]],
        [{"protocol": "tcp", "first": 1, "last": 1}] * (MOST_RANGES + 1),
    ],
)
def test_what_is_no_question_is_refused(given: Any) -> None:
    with pytest.raises(Refused, match="field ports"):
        listeners({"ports": given})
