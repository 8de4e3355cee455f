"""The API on the store that it has in use."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from swarmsh.adapters.store import SqliteStore
from swarmsh.model.objects import LBTimeouts
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
        limits = {"TCP": 432000, "TCPFin": 120, "UDP": 300}
        kept = {"ID": before.id, "DownAfterS": 30.0, "LBTimeouts": limits, "RevisionsKept": 50}
        assert (status, shown) == (200, kept)
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


async def test_how_long_idle_connections_live_is_kept(store, tmp_path):
    async with served(store=store) as api:
        change = {"LBTimeouts": {"TCP": 86400, "UDP": 60}}
        status, shown = await api.call("POST", "/swarmsh/cluster/update", change)
        limits = {"TCP": 86400, "TCPFin": 120, "UDP": 60}
        assert (status, shown["LBTimeouts"], shown["DownAfterS"]) == (200, limits, 10.0)
        index = store.snapshot.index
        assert (await api.call("POST", "/swarmsh/cluster/update", change))[1] == shown
        assert store.snapshot.index == index  # nothing differs, so nothing is written
        for field, wrong in (
            *(("TCP", value) for value in (59, 2073601, 0, -1, "3600", 3600.5)),
            *(("TCPFin", value) for value in (9, 3601)),
            *(("UDP", value) for value in (9, 86401)),
        ):
            body = {"DownAfterS": 20, "LBTimeouts": {field: wrong}}
            status, answer = await api.call("POST", "/swarmsh/cluster/update", body)
            assert (status, f"LBTimeouts.{field}" in answer["message"]) == (400, True)
        status, answer = await api.call("POST", "/swarmsh/cluster/update", {"LBTimeouts": {"TCP": 59}})
        assert answer["message"] == "invalid LBTimeouts.TCP 59: 60 to 2073600 seconds"
        assert (await api.get("/swarmsh/cluster")) == shown
        await api.call("POST", "/swarmsh/cluster/update", {"lbtimeouts": {"tcpfin": 30}})
    await store.close()
    again = await SqliteStore.open(tmp_path / "state", WallClock())
    kept = again.snapshot.cluster
    assert kept.lb_timeouts == LBTimeouts(tcp_s=86400, tcp_fin_s=30, udp_s=60) and kept.down_after_s == 10.0
    await again.close()
