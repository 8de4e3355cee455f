"""swarmsh replaced by another version of itself while services run."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from .labctl import CHECKOUT
from .swarm import Swarm

pytestmark = pytest.mark.e2e

ALL = ("n1", "n2", "n3")


def helper_hash(swarm: Swarm, node: str) -> str:
    """Hash of the archive that the node's helper runs, by its own log: the file may be there before it does."""
    return swarm.ssh(
        node, "journalctl -u swarmsh-helper -o cat | grep -o 'helper_started helper=[0-9a-f]*' | tail -1"
    )


def test_a_newer_helper_takes_over_and_restarts_nothing(swarm: Swarm, tmp_path: Path) -> None:
    swarm.docker("service", "create", "-d", "--name", "web", "--replicas", "3", "--restart-delay", "0s", "web:1")
    swarm.wait_running("web", 3)
    before = {c: at for n in ALL for c, at in swarm.started_at(n).items()}
    tasks = {t["ID"] for t in swarm.running("web")}
    hashes = [helper_hash(swarm, n) for n in ALL]
    newer = tmp_path / "newer"
    for part in ("swarmsh", "remote_helpers"):
        shutil.copytree(CHECKOUT / part, newer / part, ignore=shutil.ignore_patterns("__pycache__"))
    with (newer / "remote_helpers" / "main.py").open("a") as main:
        main.write("\n# another version\n")
    swarm.stop()
    try:
        swarm.start(python_path=newer)
        swarm.wait(
            lambda: all(helper_hash(swarm, n) != h for n, h in zip(ALL, hashes, strict=True)), "newer helpers"
        )
        swarm.wait_running("web", 3)
        assert {c: at for n in ALL for c, at in swarm.started_at(n).items()} == before
        assert {t["ID"] for t in swarm.running("web")} == tasks
        swarm.docker("service", "scale", "-d", "web=2")
        swarm.wait(lambda: sum(len(swarm.containers(n)) for n in ALL) == 2, "the newer helper does as it is told")
        swarm.stop()
    finally:
        swarm.end()
        swarm.start()  # and back to the older: whatever the manager brings is what runs
    swarm.clear()


def test_a_full_disk_of_the_managers_is_an_error_and_loses_nothing(swarm: Swarm) -> None:
    """The state directory of a manager without nodes on a file system of 16 MiB."""
    alone = swarm.beside("small")
    alone.state.mkdir(parents=True)
    swarm.command("mount", "-t", "tmpfs", "-o", "size=16m,mode=0700", "tmpfs", str(alone.state))
    try:
        alone.start(ready=False)
        body = {"TaskTemplate": {"ContainerSpec": {"Image": "web:1"}}}
        assert alone.call("POST", "/services/create", {"Name": "early", **body})[0] == 201
        filler = alone.state / "filler"
        with filler.open("wb") as file:
            try:
                while True:
                    file.write(os.urandom(1 << 16))
                    file.flush()
            except OSError:
                pass
        big = {"Name": "late", "Labels": {"x": "y" * 400_000}, **body}
        status, answer = alone.call("POST", "/services/create", big)
        assert status == 503, answer
        assert "disk" in str(answer).lower() or "space" in str(answer).lower(), answer
        assert [s["Spec"]["Name"] for s in alone.get("/services")] == ["early"]
        filler.unlink()
        alone.wait(
            lambda: alone.call("POST", "/services/create", big)[0] == 201, "writes go on when there is room"
        )
        alone.kill()
        alone.start(ready=False)
        assert sorted(s["Spec"]["Name"] for s in alone.get("/services")) == ["early", "late"]
        alone.stop()
    finally:
        alone.end()
        swarm.command("umount", str(alone.state))
