"""Fixtures of the real-kernel tests: one lab for the whole session, and its state told when a test fails.

SWARMSH_LAB=NAME reuses a running lab and leaves it up; else a lab is made, and taken down at the end.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator

import pytest

from .labctl import AWAY_ADDRESS, Lab
from .swarm import Swarm


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """Three machines of three suites with running Engines. Tests leave it as they found it."""
    reused = os.environ.get("SWARMSH_LAB")
    lab = Lab(reused or f"t{os.getpid()}")
    try:
        lab.up(nodes=3, suite="mixed")
        if reused:
            scrub(lab)
        yield lab
    finally:
        if not reused:
            lab.down()


def scrub(lab: Lab) -> None:
    """Undo what an aborted run may have left on a lab that is used again."""
    lab.move_host(AWAY_ADDRESS, lab.status().host_address)
    for node in lab.status().nodes:
        for undo in ("thaw", "heal", "resume-engine", "old-host-key"):
            lab.fault(node, undo)
        lab.ssh(
            node,
            "systemctl stop swarmsh-helper; docker ps -aq --filter label=swarmsh.cluster | xargs -r docker rm -f; "
            "umount -l /run/swarmsh/secrets; rm -rf /run/swarmsh /filler; docker rm -f squatter; "
            "docker swarm leave -f; "
            "ip xfrm policy flush; ip xfrm state flush",
            check=False,
        )


@pytest.fixture(scope="session")
def swarm(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swarm]:
    """A manager on the lab's machines; tests that kill it start it again."""
    swarm = Swarm(lab, tmp_path_factory.mktemp("manager"))
    try:
        swarm.start()
        yield swarm
        swarm.clear()
    finally:
        swarm.end()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """On failure, add the machines' state to the report while they are still there."""
    report = yield
    used = getattr(item, "funcargs", {}).get("lab")
    if report.when == "call" and report.failed and isinstance(used, Lab):
        report.sections.append((f"state of lab {used.name}", used.describe()))
    return report
