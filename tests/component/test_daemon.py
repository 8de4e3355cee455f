"""How the manager's process begins with a state, and what ends it."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest
from msgspec.structs import replace

from swarmsh import daemon
from swarmsh.adapters.inventory import load_inventory
from swarmsh.adapters.store import SqliteStore
from swarmsh.adapters.system import RandomIds, SystemClock
from swarmsh.manager.usecases.nodes import retarget_node, update_node
from swarmsh.model.objects import SshTarget
from swarmsh.model.states import Availability

INVENTORY = """
all:
  hosts:
    n1:
      ansible_host: 192.0.2.1
      swarmsh_host_key: SHA256:ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopq
"""


@pytest.fixture
async def store(tmp_path: Path):
    made = await SqliteStore.open(tmp_path / "state", SystemClock())
    yield made
    await made.close()


@pytest.fixture
def hosts(tmp_path: Path):
    path = tmp_path / "inventory.yml"
    path.write_text(INVENTORY)
    return load_inventory(path)


async def begin(store: SqliteStore, hosts=None) -> None:
    await daemon._begin(hosts, store, RandomIds(), SystemClock())


async def test_a_new_state_begins_with_a_cluster_and_the_inventory(store: SqliteStore, hosts) -> None:
    await begin(store, hosts)
    cluster = store.snapshot.cluster
    assert cluster is not None
    assert [n.spec.name for n in store.snapshot.nodes.values()] == ["n1"]
    await begin(store, hosts)
    assert store.snapshot.cluster == cluster
    assert len(store.snapshot.nodes) == 1


async def test_what_the_inventory_corrects_is_taken_over_and_the_rest_stays(store: SqliteStore, tmp_path) -> None:
    def inventory(text: str):
        path = tmp_path / "hosts.ini"
        path.write_text(text)
        return load_inventory(path)

    key = "swarmsh_host_key=SHA256:ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopq"
    await begin(store, inventory(f"[old]\nn1 ansible_host=192.0.2.1 ansible_user=oops {key} swarmsh_labels=a=1\n"))
    (node,) = store.snapshot.nodes.values()
    changed = replace(
        node.spec, labels={**node.spec.labels, "mine": "x", "a": "2"}, availability=Availability.DRAIN
    )
    await update_node(store, SystemClock(), node.id, node.version, changed)
    jumping = replace(node.target, jump=(SshTarget(address="j", user="me", host_keys=("SHA256:j",)),))
    await retarget_node(store, SystemClock(), node.id, jumping)
    corrected = f"[web]\nn1 ansible_host=192.0.2.1 ansible_user=ops ansible_port=2222 {key} swarmsh_labels=a=1 "
    corrected += "ansible_ssh_common_args='-J me@j'\n"
    for _ in range(2):
        await begin(store, inventory(corrected))
        (after,) = store.snapshot.nodes.values()
        assert (after.id, after.target.user, after.target.port) == (node.id, "ops", 2222)
        assert after.target.jump[0].host_keys == ("SHA256:j",)  # the file does not say; the pin stays
        assert after.spec.labels == {"mine": "x", "a": "2", "group.web": "true"}
        assert after.spec.availability is Availability.DRAIN


async def test_a_cluster_that_was_left_is_not_begun_again(
    store: SqliteStore, hosts, caplog: pytest.LogCaptureFixture
) -> None:
    await begin(store, hosts)
    await store.archive()
    with caplog.at_level(logging.WARNING):
        await begin(store, hosts)
    assert store.snapshot.cluster is None
    assert "`swarmsh up` or `docker swarm init` begins a new one" in caplog.text


async def test_credentials_of_a_service_that_never_was_are_swept(store: SqliteStore) -> None:
    await begin(store)
    await store.put_secret("registry-auth/never", b"x")
    await begin(store)
    assert store.secret_keys() == []


async def test_a_work_that_ends_by_a_bug_ends_the_process_with_it() -> None:
    async def broken() -> None:
        raise RuntimeError("a bug")

    works = (asyncio.create_task(broken()), asyncio.create_task(asyncio.Event().wait()))
    try:
        with pytest.raises(RuntimeError, match="a bug"):
            await daemon._until_told_to_stop(*works)  # type: ignore[arg-type]
    finally:
        works[1].cancel()
