"""How the manager's process begins with a state, and what ends it."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from swarmsh import daemon
from swarmsh.adapters.inventory import load_inventory
from swarmsh.adapters.store import SqliteStore
from swarmsh.adapters.system import RandomIds, SystemClock

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
