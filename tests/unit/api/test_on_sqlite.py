"""The API on the store that it has in use."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from swarmsh.adapters.store import SqliteStore
from tests.fakes.serving import WallClock, served


@pytest.fixture
async def store(tmp_path):
    opened = await SqliteStore.open(tmp_path / "state", WallClock())
    yield opened
    await opened.close()


async def test_what_was_acknowledged_is_there_after_reopening(store, tmp_path):
    async with served(store=store) as api:
        async with api.orchestrator.running():
            ids = await asyncio.gather(*(api.create(f"web{n}", 1) for n in range(20)))
        service = await api.get("/services/web3")
        spec = service["Spec"] | {"Labels": {"a": "b"}}
        await api.call("POST", f"/services/web3/update?version={service['Version']['Index']}", spec)
        await api.call("DELETE", "/services/web4")
        shown = await api.get("/services")
    before = store.snapshot
    await store.close()
    again = await SqliteStore.open(tmp_path / "state", WallClock())
    assert again.snapshot == before
    assert set(again.snapshot.services) == set(ids) - {ids[4]}
    assert len(await again.revisions(ids[3])) == 2
    async with served(store=again, initialised=False) as api:
        assert await api.get("/services") == shown
    await again.close()


async def test_of_many_with_one_name_and_of_many_updates_of_one_version_one_wins(store):
    async with served(store=store) as api:
        body = {"Name": "web", "TaskTemplate": {"ContainerSpec": {"Image": "x"}}}
        answers = await asyncio.gather(*(api.call("POST", "/services/create", body) for _ in range(10)))
        assert Counter(status for status, _ in answers) == {201: 1, 409: 9}
        service = await api.get("/services/web")
        path, spec = f"/services/web/update?version={service['Version']['Index']}", service["Spec"]
        answers = await asyncio.gather(
            *(
                api.call("POST", path, spec | {"Labels": {"n": str(n)}}, headers={"X-Registry-Auth": str(n)})
                for n in range(10)
            )
        )
        assert Counter(status for status, _ in answers) == {200: 1, 500: 9}
        winner = next(n for n, (status, _) in enumerate(answers) if status == 200)
        assert (await api.get("/services/web"))["Spec"]["Labels"] == {"n": str(winner)}
        assert await store.get_secret(f"registry-auth/{service['ID']}") == str(winner).encode()
        assert await store.get_secret(f"registry-auth/{service['ID']}/previous") is None


async def test_leave_archives_and_init_begins_anew(store, tmp_path):
    async with served(store=store) as api:
        await api.create()
        async with api.orchestrator.running():
            assert (await api.call("POST", "/swarm/leave?force=true"))[0] == 200
        assert (await api.get("/info"))["Swarm"]["LocalNodeState"] == "inactive"
        assert (await api.call("POST", "/swarm/init", {}))[0] == 200
        assert len(await api.get("/nodes")) == 3
        assert await api.get("/services") == []
    assert len(list((tmp_path / "state" / "archive").glob("*.db"))) == 1


async def test_how_long_a_node_may_be_silent_is_kept(store, tmp_path):
    async with served(store=store) as api:
        assert (await api.get("/swarmsh/cluster"))["DownAfterS"] == 10.0
        before = store.snapshot.cluster
        status, shown = await api.call("POST", "/swarmsh/cluster/update", {"DownAfterS": 30})
        assert (status, shown) == (200, {"ID": before.id, "DownAfterS": 30.0})
        assert store.snapshot.cluster.down_after_s == 30.0
        for wrong in (2.9, 0, -1, 3601, 1e300, "10"):
            status, answer = await api.call("POST", "/swarmsh/cluster/update", {"DownAfterS": wrong})
            assert (status, "DownAfterS" in answer["message"]) == (400, True)
        assert (await api.call("POST", "/swarmsh/cluster/update", {}))[1] == shown
        swarm = await api.get("/swarm")
        await api.call("POST", f"/swarm/update?version={swarm['Version']['Index']}", swarm["Spec"])
    await store.close()
    again = await SqliteStore.open(tmp_path / "state", WallClock())
    assert again.snapshot.cluster.down_after_s == 30.0
    await again.close()
