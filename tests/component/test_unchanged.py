"""What is looked at every few seconds at little cost, on this host's kernel in a namespace of the test."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from remote_helpers.net import kernel, tables, unchanged
from remote_helpers.net.netlink import NetlinkError

CLONE_NEWNET = 0x40000000
TRAFFIC = """
import socket
with socket.socket(type=socket.SOCK_DGRAM) as to, socket.socket(type=socket.SOCK_DGRAM) as by:
    to.bind(("127.0.0.1", 0))
    for _ in range(20):
        by.sendto(b"x", to.getsockname())
        to.recv(10)
"""


def shell(line: str) -> str:
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(f"{line}: {done.stderr.strip()}")
    return done.stdout


def inside(work: Callable[[], Any]) -> Any:
    """Done in a thread that has a network namespace of its own, which ends with it."""
    found: list[Any] = []

    def run() -> None:
        try:
            if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
                raise PermissionError("no namespace can be made")
            shell("ip link set lo up")
            found.append((work(), None))
        except BaseException as e:
            found.append((None, e))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    result, error = found[0]
    if error is not None:
        raise error
    return result


def works(*lines: str) -> bool:
    if os.geteuid() != 0 or not shutil.which("ip"):
        return False
    try:
        inside(lambda: [shell(line) for line in lines])
    except (AssertionError, PermissionError):
        return False
    return True


def kinds() -> list[Any]:
    found = []
    for name, by in (("iptables-nft", unchanged.NFT), ("iptables-legacy", unchanged.LEGACY)):
        usable = works(f"{name} -A OUTPUT -p udp -m limit --limit 5/sec --limit-burst 50", f"{name}-save")
        marks = [] if usable else pytest.mark.skip(reason=f"{name} does not work here")
        found.append(pytest.param(name, by, marks=marks))
    return found


@pytest.mark.parametrize(("name", "by"), kinds())
def test_each_change_of_rules_changes_their_stamp_and_packets_do_not(name: str, by: str) -> None:
    def ask() -> None:
        shell(f"{name} -A OUTPUT -p udp -m limit --limit 5/sec --limit-burst 50")
        shell(f"{name} -t nat -A POSTROUTING -p udp -j RETURN")
        shown = shell(f"{name}-save")
        assert unchanged.shown_by(shown) == by
        before = unchanged.rules_stamp(by)
        assert before and before == unchanged.rules_stamp(by)
        shell(f"{sys.executable} -c '{TRAFFIC}'")
        assert "[20:" in shell(f"{name}-save -c -t filter") and unchanged.rules_stamp(by) == before
        for change in (
            f"{name} -A OUTPUT -p udp --dport 9 -j DROP",
            f"{name} -R OUTPUT 2 -p udp --dport 10 -j DROP",
            f"{name} -D OUTPUT 2",
            f"{name} -t nat -N SW-X",
            f"{name} -P FORWARD DROP",
            f"{name} -F",
            f"{name} -t nat -F",
            f"{name} -t mangle -A PREROUTING -j ACCEPT",  # a table that was not there
        ):
            before, _ = unchanged.rules_stamp(by), shell(change)
            assert unchanged.rules_stamp(by) not in (before, b""), change
        # To replace all by the same is no change of what is shown; whether it shows in the stamp does not matter.
        shown = shell(f"{name}-save")
        shell(f"{name}-save | {name}-restore")
        assert [line for line in shell(f"{name}-save").splitlines() if line[:1] != "#"] == [
            line for line in shown.splitlines() if line[:1] != "#"
        ]

    inside(ask)


@pytest.mark.skipif(not works("iptables-nft -A OUTPUT -j RETURN"), reason="iptables-nft does not work here")
def test_tables_are_deleted_unless_anything_was_changed_since_they_were_seen_empty() -> None:
    def ask() -> None:
        def seen() -> tuple[set[str], bytes]:
            generation = unchanged.rules_stamp(unchanged.NFT)
            return tables.without_rules(shell("iptables-nft-save")), generation

        for table in ("raw", "mangle", "security"):
            shell(f"iptables-nft -t {table} -A OUTPUT -j RETURN; iptables-nft -t {table} -F OUTPUT")
        shell("iptables-nft -t filter -A OUTPUT -j RETURN; iptables-nft -t nat -N SW-X")
        shell("iptables-nft -t security -P OUTPUT DROP; ip6tables-nft -t raw -A OUTPUT -j RETURN")
        empty, generation = seen()
        assert empty == {"raw", "mangle"}
        shell("iptables-nft -t raw -A OUTPUT -j RETURN")
        before = shell("iptables-nft-save | grep -v '^#'")
        assert not tables.delete(empty, generation)
        assert shell("iptables-nft-save | grep -v '^#'") == before
        empty, generation = seen()
        assert empty == {"mangle"} and tables.delete(empty, generation)
        left = [line for line in shell("iptables-nft-save").splitlines() if line.startswith("*")]
        assert sorted(left) == ["*filter", "*nat", "*raw", "*security"]
        assert "-A OUTPUT -j RETURN" in shell("ip6tables-nft-save -t raw")
        with pytest.raises(NetlinkError, match="No such file"):  # and all of a batch, or nothing
            tables.delete({"mangle", "filter"}, seen()[1])
        assert "-A OUTPUT -j RETURN" in shell("iptables-nft-save -t filter")
        assert tables.delete([], b"")

    inside(ask)


def test_what_shows_no_rules_tells_of_no_stamp() -> None:
    assert unchanged.shown_by("") == "" and unchanged.rules_stamp("") == b""


POLICY = "dir out src 127.0.0.1/32 dst 127.0.0.1/32 proto udp"


@pytest.mark.skipif(not works(f"ip xfrm policy add {POLICY}"), reason="this kernel has no xfrm")
def test_each_change_of_sas_and_policies_changes_their_digest_and_packets_do_not() -> None:
    def ask() -> None:
        empty = unchanged.xfrm_digest()
        assert empty
        # The loopback is without IPsec by default.
        shell(
            "echo 0 > /proc/sys/net/ipv4/conf/lo/disable_xfrm; echo 0 > /proc/sys/net/ipv4/conf/lo/disable_policy"
        )
        shell(f"ip xfrm policy add {POLICY}")
        before = unchanged.xfrm_digest()
        shell(f"{sys.executable} -c '{TRAFFIC}'")
        assert "use -" not in shell("ip -s xfrm policy") and before == unchanged.xfrm_digest() != empty
        for change in (
            f"ip xfrm policy update {POLICY} priority 7",
            f"ip xfrm policy update {POLICY} priority 7 tmpl proto esp mode transport",
            f"ip xfrm policy update {POLICY} priority 7 tmpl proto esp mode transport level use",
            f"ip xfrm policy update {POLICY} priority 7 action block",
            "ip xfrm state allocspi src 10.1.1.1 dst 10.1.1.2 proto esp reqid 7 min 0x100 max 0x1ff",
            "ip xfrm state flush",
            "ip xfrm policy flush",
        ):
            before, _ = unchanged.xfrm_digest(), shell(change)
            assert unchanged.xfrm_digest() not in (before, b""), change
        assert unchanged.xfrm_digest() == empty

    inside(ask)


@pytest.mark.skipif(not works("ip link add br9 type bridge"), reason="needs root, iproute2 and bridges")
def test_what_a_link_tells_of_its_settings_is_what_their_files_say() -> None:
    paths = [f"net/ipv4/conf/br9/{key}" for key in ("send_redirects", "rp_filter", "route_localnet")]
    paths += ["net/ipv6/conf/br9/disable_ipv6"] if kernel.exists("/proc/sys/net/ipv6") else []
    others = ["net/ipv4/ip_forward", "net/ipv4/conf/all/rp_filter"]

    def ask() -> None:
        shell("ip link add name br9 type bridge; ip link set dev br9 up")
        read = kernel.Read()
        for path in paths:
            for value in ("0", "1", "2" if path.endswith("rp_filter") else "0"):
                kernel.write(f"/proc/sys/{path}", value)
                found = read(lambda name: True, [*paths, *others, "net/ipv4/conf/nosuch/rp_filter"])
                assert found.sysctls == {one: kernel.read_sysctl(one) for one in [*paths, *others]}
                assert found.sysctls[path] == value == kernel._setting(path, found.links)

    inside(ask)
