"""swarmsh replaced by another version of itself while services run."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

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


def another_helper(directory: Path) -> Path:
    """A copy of swarmsh whose helper is another one."""
    for part in ("swarmsh", "remote_helpers"):
        shutil.copytree(CHECKOUT / part, directory / part, ignore=shutil.ignore_patterns("__pycache__"))
    with (directory / "remote_helpers" / "main.py").open("a") as main:
        main.write("\n# another version\n")
    return directory


def another_version(directory: Path) -> Path:
    """A copy of swarmsh whose helper is another one, and whose database has one more migration."""
    another_helper(directory)
    schema = directory / "swarmsh" / "adapters" / "store" / "schema.py"
    before, definition, rest = schema.read_text().partition("def migrate(")
    more = 'MIGRATIONS = (*MIGRATIONS, lambda db: db.execute("CREATE TABLE another (x)"))\n\n\n'
    schema.write_text(before + more + definition + rest)
    return directory


def schema_version(swarm: Swarm, *statements: str) -> int:
    """Number of migrations that the stopped manager's database has had, after some statements on it."""
    with closing(sqlite3.connect(swarm.state / "swarmsh.db")) as db:
        for statement in statements:
            db.execute(statement)
        db.commit()
        return int(db.execute("PRAGMA user_version").fetchone()[0])


@contextmanager
def load(swarm: Swarm, *urls: str) -> Iterator[Callable[[], dict[str, Any]]]:
    """Requests to these URLs meanwhile; what is given ends them, and tells what was counted."""
    program = (sys.executable, str(Path(__file__).with_name("load.py")), *urls)
    with swarm.lab.popen(*program, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        # Leaving closes its standard input, which ends it as well.
        yield lambda: dict(json.loads(process.communicate(timeout=60)[0]))


def test_an_upgrade_under_load_fails_no_request_and_restarts_nothing(swarm: Swarm, tmp_path: Path) -> None:
    """There is one schema so far, so the newer swarmsh is given a second one to migrate to."""
    port = ("--publish", "mode=host,published=8090,target=80")
    swarm.docker(
        "service", "create", "-d", "--name", "web", "--replicas", "3", "--restart-delay", "0s", *port, "web:1"
    )
    swarm.wait_running("web", 3)
    before = {c: at for n in ALL for c, at in swarm.started_at(n).items()}
    tasks = {t["ID"] for t in swarm.running("web")}
    hashes = [helper_hash(swarm, n) for n in ALL]
    newer = another_version(tmp_path / "newer")
    urls = [f"http://{node.address}:8090/" for node in swarm.lab.status().nodes.values()]
    with load(swarm, *urls) as counted:
        swarm.stop()
        schema = schema_version(swarm)
        try:
            swarm.start(python_path=newer)
            swarm.wait(
                lambda: all(helper_hash(swarm, n) != h for n, h in zip(ALL, hashes, strict=True)), "newer helpers"
            )
            swarm.wait(lambda: swarm.connected() == set(ALL), "sessions with them")
            swarm.wait_running("web", 3)
            requests = counted()
            assert requests["failed"] == []
            assert min(requests["answered"].values()) > 0, requests
            assert {c: at for n in ALL for c, at in swarm.started_at(n).items()} == before
            assert {t["ID"] for t in swarm.running("web")} == tasks
            swarm.docker("service", "scale", "-d", "web=2")
            swarm.wait(
                lambda: sum(len(swarm.containers(n)) for n in ALL) == 2, "the newer helper does as it is told"
            )
            swarm.stop()
            assert schema_version(swarm) == schema + 1, "the database was migrated"
        finally:
            swarm.end()
            schema_version(swarm, "DROP TABLE IF EXISTS another", f"PRAGMA user_version = {schema}")
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
