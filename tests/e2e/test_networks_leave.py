"""Nodes that are left, by `node rm` and by `purge`, are as they were found: on machines of three suites.

What is compared: links, addresses, routes of all tables, rules, iptables, IPVS, sysctls, files, xfrm, tc, networks
and containers of the Engine, listening sockets, units and processes; loaded modules aside. Until then a plain and
an encrypted network and published ports were there, and worked.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterator

import pytest

from .labctl import Lab
from .swarm import SWARMSH, Swarm
from .test_data_plane import MODULES, SNAPSHOT
from .test_networks import OUTSIDE, PROBE

pytestmark = pytest.mark.e2e

ALL = ("n1", "n2", "n3")
# Besides what the data plane alone must leave. Our own login has processes too.
WHOLE = (
    SNAPSHOT
    + r"""
ss -Hlntuw | awk '{print $1, $5}' | sort
docker ps -aq; docker volume ls -q | sort
systemctl list-units --all --plain --no-legend 'swarmsh*'
ls -A /run /var/lib /root | grep -v -e '^utmp' -e '^user$'
bridge fdb show | grep -v -e '^33:33:' -e '^01:00:5e:' | sort
"""
)
PROCESSES = r"""
ps --ppid 2 -p 2 --deselect -o args= | cut -c1-120 |
sed -E '/^\((sd-pam|udev-worker)\)/d' |
grep -Ev '^(sshd|ps |grep |cut |sed |sort|sh |-?bash|bash |cat$|(/usr)?/lib/systemd/systemd)' | sort
"""
# Whether the machine's network is ours at all: each must differ while there are tasks.
MUST_DIFFER = ("ip -br link", "ip rule", "iptables-save", "cat /proc/net/ip_vs", "ip xfrm policy", "ls -A /run")


class Found:
    """What a node was like."""

    def __init__(self, swarm: Swarm, node: str) -> None:
        self.swarm, self.node = swarm, node
        self.plain, self.whole, self.processes = self.see(SNAPSHOT), self.see(WHOLE), self.see(PROCESSES)
        self.parts = {part: self.see(part) for part in MUST_DIFFER}

    def see(self, command: str) -> str:
        return self.swarm.ssh(self.node, command)

    def difference(self, processes: bool = True) -> str:
        """Lines that came or went; "" if there are none. After a reboot without processes."""
        pairs = [(self.whole, self.see(WHOLE)), (self.processes, self.see(PROCESSES))]
        if not processes:
            pairs = [(same_over_reboots(self.plain), same_over_reboots(self.see(SNAPSHOT)))]
        lines: list[str] = []
        for before, after in pairs:
            lines += difflib.unified_diff(before.splitlines(), after.splitlines(), "before", "after", n=0)
        return "\n".join(lines)

    def await_again(self, timeout: float, *, processes: bool = True) -> None:
        """Wait until the node is like that."""
        try:
            self.swarm.wait(lambda: not self.difference(processes), f"{self.node} as it was found", timeout)
        except AssertionError as e:
            raise AssertionError(f"{e}\n--- {self.node}\n{self.difference(processes)}") from None

    def check_in_use(self) -> None:
        """A comparison that found nothing while all is there would say nothing afterwards either."""
        same = [part for part, before in self.parts.items() if self.see(part) == before]
        assert not same, f"{self.node}: {same} are as without networks"


def same_over_reboots(told: str) -> str:
    """Without what each boot chooses anew: the MAC of docker0, a limit by the free memory.

    And without what docker0 has once a container of it ran: IPv6 addresses, by that MAC.
    """
    anew = ("docker0 ", "net.ipv4.vs.sync_qlen_max")
    v6 = re.compile(r"^(?:local |multicast )?(?:fe80|ff00):\S* dev docker0 ")
    kept = [line for line in told.splitlines() if not line.startswith(anew) and not v6.match(line)]
    return "\n".join(kept)


@pytest.fixture(scope="module")
def found() -> dict[str, Found]:
    return {}


@pytest.fixture(scope="module")
def own(
    swarm: Swarm, lab: Lab, tmp_path_factory: pytest.TempPathFactory, found: dict[str, Found]
) -> Iterator[Swarm]:
    """A manager of these tests' own, on nodes that no other one has; they are looked at before it comes."""
    swarm.clear()
    swarm.docker("network", "prune", "-f")
    for node in ALL:
        swarm.swarmsh("node", "rm", "--force", node)
    for node in ALL:
        swarm.wait(lambda node=node: gone(swarm, node), f"{node} released")
    swarm.stop()
    own = Swarm(lab, tmp_path_factory.mktemp("leaving"))
    try:
        for node in ALL:
            swarm.ssh(node, f"modprobe -a {MODULES} esp4 xfrm_user; true")
            found[node] = Found(own, node)
        yield own
    finally:
        if own.process is not None and own.process.poll() is None:
            own.run(SWARMSH, "purge", "--yes")  # of a test that failed; else there is no cluster
        own.end()
        swarm.start()


def gone(swarm: Swarm, node: str) -> bool:
    return "gone" in swarm.ssh(node, "[ -e /run/swarmsh ] || echo gone", check=False)


def use_all(own: Swarm, *nodes: str) -> None:
    """A task on each node, on a plain and an encrypted network, with published ports that answer everywhere."""
    if not own.get("/services"):
        own.docker("network", "create", "-d", "overlay", "plain")
        own.docker("network", "create", "-d", "overlay", "--opt", "encrypted", "secret")
        own.docker(
            *("service", "create", "-d", "--name", "all", "--mode", "global", "--network", "plain"),
            *("--network", "secret", "-p", "8080:80", "-p", "5353:53/udp", "web:1"),
        )
    own.wait_running("all", len(nodes))
    for node in nodes:
        own.wait(lambda node=node: answers(own, node), f"{node} answers on the published port")


def answers(own: Swarm, node: str) -> bool:
    said = own.lab.run(sys.executable, "-c", PROBE, "tcp", f"10.98.0.1{node[1:]}", "8080", "1")
    return said.split()[1:] == [OUTSIDE]


def test_a_removed_node_is_as_it_was_found_and_the_others_go_on(own: Swarm, found: dict[str, Found]) -> None:
    own.start()
    use_all(own, *ALL)
    found["n3"].check_in_use()
    own.swarmsh("node", "rm", "--force", "n3")
    own.wait(lambda: gone(own, "n3"), "n3 released")
    found["n3"].await_again(60)
    assert answers(own, "n1") and answers(own, "n2")
    found["n1"].check_in_use()
    theirs = "ip xfrm state; ip xfrm policy; bridge fdb show; iptables-save; ip neigh show dev swgwv"
    own.wait(lambda: "10.98.0.13" not in own.ssh("n1", theirs), "what others had of it goes as well", 60)
    own.stop()


def test_a_purge_leaves_all_nodes_as_they_were_found(own: Swarm, found: dict[str, Found]) -> None:
    if own.process is None:
        own.start()  # takes n3 in again
    use_all(own, *ALL)
    rotated = own.swarmsh("network", "rotate-keys")
    assert rotated == "Keys between 3 pairs of nodes are new\n"
    for node in ALL:
        found[node].check_in_use()
    said = own.swarmsh("purge", "--yes")
    # What it says is so at once.
    assert said == "".join(f"{node}: nothing of swarmsh is left\n" for node in ALL)
    for node in ALL:
        found[node].await_again(20)
    assert own.call("POST", "/swarmsh/purge")[0] == 503
    assert own.get("/swarmsh/status")["cluster"] is None
    assert list((own.state / "archive").glob("swarmsh-*.db"))


def test_a_node_that_is_away_is_told_of_and_the_way_by_hand_is_right(own: Swarm, found: dict[str, Found]) -> None:
    if own.process is None:
        own.start()
    if own.get("/swarmsh/status")["cluster"] is None:
        assert own.call("POST", "/swarm/init", {"ListenAddr": "0.0.0.0"})[0] == 200
    own.wait(lambda: own.connected() == set(ALL), "all nodes are back")
    use_all(own, *ALL)
    own.lab.fault("n2", "cut")
    try:
        own.wait(lambda: "n2" not in own.connected(), "n2 is away")
        done = own.run(SWARMSH, "purge", "--yes")
    finally:
        own.lab.fault("n2", "heal")
    assert done.returncode == 1, done.stderr
    assert done.stdout == "n1: nothing of swarmsh is left\nn3: nothing of swarmsh is left\n"
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("Error: n2: ")]
    by_hand = line.partition("On the node, as root: ")[2]
    assert by_hand.endswith("; reboot")
    found["n2"].check_in_use()
    own.ssh("n2", by_hand.removesuffix("; reboot"))
    own.lab.fault("n2", "reboot", "--wait")
    own.ssh("n2", f"modprobe -a {MODULES} esp4 xfrm_user; true")
    found["n2"].await_again(120, processes=False)
