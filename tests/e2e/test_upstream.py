"""Names of the outside world, which tasks ask for by the resolver of their node: on machines of three suites.

The machines' resolv.conf names 10.98.0.1, where nothing listens but while these tests run dnsmasq there. Its log
tells what the nodes gave on.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from .swarm import Swarm
from .test_networks import ALL, OUTSIDE, Place, addresses, create, places, vip_of

pytestmark = pytest.mark.e2e

DNSMASQ = shutil.which("dnsmasq", path="/usr/sbin:/usr/bin")
STARTS_S = 10.0


@pytest.fixture(autouse=True)
def _whole_again(swarm: Swarm) -> Iterator[None]:
    yield
    swarm.clear()
    swarm.docker("network", "prune", "-f")


@dataclass(frozen=True)
class Resolver:
    """dnsmasq at the address that the machines' resolv.conf names."""

    log: Path

    @property
    def asked(self) -> set[tuple[str, str]]:
        """(name, by which machine's address) of each question for an IPv4 address."""
        return set(re.findall(r"query\[A\] (\S+) from (\S+)", self.log.read_text()))


@pytest.fixture
def resolver(swarm: Swarm, tmp_path: Path) -> Iterator[Resolver]:
    assert DNSMASQ, "needs dnsmasq-base (make packages)"
    log = tmp_path / "dnsmasq.log"
    log.touch()
    here = ("--keep-in-foreground", "--bind-interfaces", f"--listen-address={OUTSIDE}", "--port=53", "--pid-file")
    alone = ("--no-resolv", "--no-hosts", "--conf-file=/dev/null", "--user=root", "--group=root", "--local=//")
    knows = ("--address=/out.example/192.0.2.7", "--address=/printer/192.0.2.8")
    process = swarm.lab.popen(DNSMASQ, *here, *alone, *knows, "--log-queries", f"--log-facility={log}")
    try:
        # It says so when it listens.
        swarm.wait(lambda: process.poll() is not None or "started" in log.read_text(), "dnsmasq", STARTS_S)
        assert process.poll() is None, log.read_text()
        yield Resolver(log)
    finally:
        process.terminate()
        process.wait(10)


def resolve_all(place: Place, names: list[str]) -> dict[str, set[str]]:
    """As Place.resolve, several names at once: a command in a container takes seconds on these machines."""
    told = place.run(
        "sh", "-c", f"for name in {' '.join(names)}; do echo =$name; nslookup -type=a $name; done; true"
    )
    found = {}
    for part in told.split("\n=") if told.startswith("=") else []:
        name, _, rest = part.lstrip("=").partition("\n")
        _, _, answer = rest.partition("Name:")
        found[name] = {line.split()[-1] for line in answer.splitlines() if line.startswith("Address")}
    return found


def test_names_of_the_outside_come_from_the_nodes_resolver_and_ours_stay_here(
    swarm: Swarm, resolver: Resolver
) -> None:
    """Beside each task of `web` there is one of `other`, on a network of its own."""
    services = {"web": "front", "other": "back"}
    for name, network in services.items():
        swarm.docker("network", "create", "-d", "overlay", network)
        create(swarm, name, "--mode", "global", "--network", network)
    for name in services:
        swarm.wait_running(name, len(ALL))
    tasks = {name: places(swarm, name) for name in services}
    vips = {name: vip_of(swarm, name) for name in services}
    outside = {"int.out.example": {"192.0.2.7"}, "printer": {"192.0.2.8"}, "nobody.invalid": set()}

    def right(place: Place, own: str, foreign: str) -> bool:
        wanted = {**outside, own: {vips[own]}, foreign: set(), f"tasks.{foreign}": set()}
        return resolve_all(place, list(wanted)) == wanted

    def all_right() -> bool:
        asks = [(place, "web", "other") for place in tasks["web"]]
        with ThreadPoolExecutor(len(asks)) as pool:
            return all(pool.map(lambda ask: right(*ask), asks)) and right(tasks["other"][0], "other", "web")

    swarm.wait(all_right, "all names as they are to be")
    swarm.stop()
    try:
        before = len(resolver.log.read_text())
        assert all_right(), "without a manager"
        assert "int.out.example" in resolver.log.read_text()[before:], "asked for again"
    finally:
        swarm.start()
    asked, nodes = resolver.asked, addresses(swarm.lab).values()
    # By the node, with its address: containers need no way to the resolver.
    assert {by for _, by in asked} == set(nodes), asked
    for name in outside:  # also a single label, if no network of the node has it: it may be the site's
        assert {by for one, by in asked if one == name} == set(nodes), (name, asked)
    labels = {label for one, _ in asked for label in one.split(".")}
    assert not labels & {"web", "other", "tasks"}, asked
