"""Which volumes of its own a node tells of, and when."""

from __future__ import annotations

import json
from typing import Any

import pytest

from remote_helpers.volumes import MOST, ROOM, made_with, with_data
from tests.unit.helpers.conftest import World, ensure


def volume(name: str, driver: str = "local", **options: str) -> dict[str, Any]:
    return {"Name": name, "Driver": driver, "Options": options or None}


def test_only_named_volumes_with_data_on_the_node_are_told() -> None:
    listed = [
        volume("web"),
        volume("pg", type="none", o="bind", device="/srv/pg"),
        volume("a" * 64),
        volume("nfs", type="nfs", o="addr=10.0.0.9,rw", device=":/x"),
        volume("odd", o="addr=10.0.0.9"),
        volume("ram", type="tmpfs"),
        volume("rbd", "ceph/rbd"),
    ]
    assert with_data({"Volumes": listed}) == (["pg", "web"], False)
    assert with_data({"Volumes": None}) == ([], False)


def test_so_many_are_told_as_a_line_has_room_for() -> None:
    told, cut = with_data({"Volumes": [volume(f"v{n:04}") for n in range(2500)]})
    assert (len(told), cut) == (MOST, True)
    long, cut = with_data({"Volumes": [volume(f"{n:04}" + "x" * 250) for n in range(2500)]})
    assert cut
    assert 0 < len(json.dumps(long)) <= ROOM
    assert long == sorted(long)


def mount(**fields: Any) -> dict[str, Any]:
    return {"Type": "volume", "Source": "pg", "Target": "/data", **fields}


@pytest.mark.parametrize(
    ("fields", "made"),
    [
        ({}, {"pg"}),
        ({"Source": ""}, set()),
        ({"Type": "bind", "Source": "/s"}, set()),
        ({"VolumeOptions": {"DriverConfig": {"Name": "local"}}}, {"pg"}),
        ({"VolumeOptions": {"DriverConfig": {"Name": "rbd"}}}, set()),
        ({"VolumeOptions": {"DriverConfig": {"Options": {"type": "nfs"}}}}, set()),
    ],
)
def test_a_containers_own_volumes_are_those_of_its_mounts(fields: dict[str, Any], made: set[str]) -> None:
    assert made_with({"config": {"HostConfig": {"Mounts": [mount(**fields)]}}}) == made
    assert made_with({}) == set()


async def test_hello_tells_them_and_changes_on_the_node_follow(world: World) -> None:
    manager = await world.manager()
    hello = await manager.event("hello")
    assert hello["description"]["volumes"] == ["pgdata"]
    assert hello["description"]["volumes_cut"] is False
    await manager.until(lambda: world.engine._volume_streams)
    world.engine.add_volume("more")
    world.engine.add_volume("remote", type="nfs", o="addr=10.0.0.9")
    await manager.event("description", volumes=["more", "pgdata"])
    world.engine.remove_volume("pgdata")
    await manager.event("description", volumes=["more"])


async def test_a_tasks_volume_is_told_before_the_task_has_its_container(world: World) -> None:
    manager = await world.manager()
    config = {"HostConfig": {"Mounts": [mount(Source="data")]}}
    await manager.apply(ensure(desired="ready", config=config))
    await manager.task("t1", "ready")
    order = [
        "description" if one["event"] == "description" else one["data"].get("state")
        for one in manager.events
        if one["event"] in ("description", "task")
    ]
    told = [one for one in manager.events if one["event"] == "description"]
    assert told[0]["data"]["volumes"] == ["data", "pgdata"]
    assert order.index("description") < order.index("ready")


async def test_while_the_engine_does_not_answer_what_was_known_stands(world: World) -> None:
    manager = await world.manager()
    await world.engine.stop()
    await manager.event("engine", ok=False)
    world.engine.volumes["later"] = volume("later")
    assert world.helper is not None
    assert world.helper.description["volumes"] == ["pgdata"]
    await world.engine.start()
    await manager.event("description", volumes=["later", "pgdata"])
