"""Local named volumes: a task goes back to its data, or waits and says where that is."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from swarmsh.core.rebalance import immovable
from swarmsh.core.scheduler import SchedulingView, survey
from swarmsh.core.volumes import local_mounts
from swarmsh.manager.dirt import dirt_of
from swarmsh.model.actions import EnsureTask, TaskReport
from swarmsh.model.objects import Task
from swarmsh.model.snapshot import Changes
from swarmsh.model.specs import (
    Driver,
    Mount,
    Placement,
    Reservations,
    ResourceRequirements,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
    VolumeOptions,
)
from swarmsh.model.states import Availability

from . import samples
from .test_orchestrate import OPS, happen
from .world import World, make_job, make_spec

ALLOW = {"swarmsh.volume.move": "allow"}


class VolumeWorld(World):
    """A world whose nodes have disks: a container's volumes are made with it, and stay."""

    def __init__(self, nodes: int = 3) -> None:
        super().__init__(nodes)
        self.disks: dict[str, set[str]] = {node_id: set() for node_id in self.snapshot.nodes}
        self._at = ""
        self.most_told = 2000

    def work(self, node_id: str) -> None:
        self._at = node_id
        super().work(node_id)

    def _ensured(self, action: EnsureTask, known: TaskReport | None) -> TaskReport:
        report = super()._ensured(action, known)
        if report.state in ("ready", "running"):
            mounts = action.config["HostConfig"].get("Mounts") or ()
            self.disks[self._at].update(m["Source"] for m in mounts if m["Type"] == "volume")
        return report

    def _merge(self, node_id: str, *, connected: bool = False) -> None:
        self.tell_disk(node_id)
        super()._merge(node_id, connected=connected)

    def tell_disk(self, node_id: str) -> None:
        node = self.snapshot.nodes[node_id]
        names = tuple(sorted(self.disks[node_id]))
        said = {"volumes": names[: self.most_told], "volumes_cut": len(names) > self.most_told}
        told = replace(node, description=replace(node.description, **said))
        if told != node:
            self._apply(Changes(put_nodes=(told,)))

    def put_volume(self, number: int, *names: str) -> None:
        self.disks[f"node{number}"].update(names)
        self.tell_disk(f"node{number}")


def with_volume(spec: ServiceSpec, source: str = "pg", **labels: str) -> ServiceSpec:
    template = spec.task_template
    assert template.container_spec is not None
    container = replace(template.container_spec, mounts=(Mount(type="volume", source=source, target="/data"),))
    return replace(
        spec,
        labels={key.replace("_", "."): value for key, value in labels.items()},
        task_template=replace(template, container_spec=container),
    )


def volume_spec(source: str = "pg", labels: dict[str, str] | None = None, **changes: Any) -> ServiceSpec:
    return replace(with_volume(make_spec(**changes), source), labels=labels or {})


def made(nodes: int = 3, **changes: Any) -> VolumeWorld:
    world = VolumeWorld(nodes)
    world.create(volume_spec(**changes))
    world.settle()
    return world


def where(world: World) -> list[int]:
    """Numbers of the nodes of running tasks, by slot."""
    return [int(t.node_id[-1]) for t in sorted(world.running(), key=lambda t: t.slot)]


def waiting(world: World) -> list[Task]:
    return [t for t in world.tasks() if t.live and not t.placed]


# --- what counts as data of a node --------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("mount", "local"),
    [
        (Mount(type="volume", source="pg", target="/t"), True),
        (Mount(type="volume", target="/t"), False),
        (Mount(type="bind", source="/s", target="/t"), False),
        (Mount(type="tmpfs", target="/t"), False),
        (
            Mount(
                type="volume",
                source="v",
                volume_options=VolumeOptions(
                    driver_config=Driver(name="local", options={"type": "none", "o": "bind"})
                ),
            ),
            True,
        ),
        (
            Mount(
                type="volume",
                source="v",
                volume_options=VolumeOptions(driver_config=Driver(options={"type": "nfs", "o": "addr=10.0.0.9"})),
            ),
            False,
        ),
        (
            Mount(type="volume", source="v", volume_options=VolumeOptions(driver_config=Driver(name="ceph/rbd"))),
            False,
        ),
    ],
)
def test_data_lies_on_a_node_in_local_named_volumes_only(mount: Mount, local: bool) -> None:
    spec = samples.task_spec(mounts=(mount,))
    assert bool(local_mounts(spec)) is local
    assert local_mounts(TaskSpec()) == ()


# --- back to its data ---------------------------------------------------------------------------------------
def test_a_task_that_failed_is_followed_where_its_data_is_though_other_nodes_are_empty() -> None:
    world = made()
    (task,) = world.running()
    for _ in range(3):
        world.fail(world.running()[0])
        world.settle()
        assert world.running()[0].node_id == task.node_id
    assert sum(map(bool, world.disks.values())) == 1


def test_a_node_that_cannot_tell_all_of_its_volumes_keeps_the_tasks_that_had_one_there() -> None:
    world = made()
    (task,) = world.running()
    here = f"node.hostname=={world.snapshot.nodes[task.node_id].description.hostname}"
    world.create(make_spec(name="busy", replicas=3, constraints=(here,)), "busy")  # other nodes have more room
    world.settle()
    world.most_told = 0
    world.tell_disk(task.node_id)
    for _ in range(3):
        world.fail(next(t for t in world.running() if t.service_id == "svc"))
        world.settle()
        assert next(t for t in world.running() if t.service_id == "svc").node_id == task.node_id


@pytest.mark.parametrize("order", ["stop-first", "start-first"])
def test_an_update_stays_on_the_node(order: str) -> None:
    world = made(replicas=2)
    before = where(world)
    world.update(volume_spec(replicas=2, image="web:2", update=UpdateConfig(parallelism=1, order=order)))
    world.pass_time(20)
    assert where(world) == before
    assert {t.spec_version for t in world.running()} == {2}


@pytest.mark.parametrize("order", ["stop-first", "start-first"])
@pytest.mark.parametrize(
    "tight",
    [
        {"placement": Placement(max_replicas=1)},
        {"resources": ResourceRequirements(reservations=Reservations(memory_bytes=3 << 30))},
    ],
    ids=lambda tight: next(iter(tight)),
)
def test_where_two_do_not_fit_on_the_node_the_old_task_makes_way(order: str, tight: dict[str, Any]) -> None:
    def spec(image: str) -> ServiceSpec:
        made = volume_spec(image=image, update=UpdateConfig(parallelism=1, order=order))
        return replace(made, task_template=replace(made.task_template, **tight))

    world = VolumeWorld()
    world.create(spec("web:1"))
    world.settle()
    before = where(world)
    world.update(spec("web:2"))
    world.pass_time(20)
    assert where(world) == before
    assert [t.spec_version for t in world.running()] == [2]


def test_while_its_node_is_down_a_task_waits_and_says_for_what() -> None:
    world = made()
    (task,) = world.running()
    name = f"n{task.node_id[-1]}"
    world.power_off(int(task.node_id[-1]))
    world.settle()
    (waits,) = waiting(world)
    words = f"2 nodes without the data of volume pg, which is on {name} (down)"
    assert words in waits.status.err
    assert "1 node not available for new tasks" in waits.status.err
    (other, *_) = survey(waits, SchedulingView.of(world.snapshot, world.now))
    (refusal,) = other.refusals
    assert refusal[0] == "volumes"
    assert refusal[1].why == f"it has no data of volume pg, which is on {name} (down)"
    assert f"Bring {name} back" in refusal[1].fix
    assert "swarmsh service update --label-add swarmsh.volume.move=allow web" in refusal[1].fix
    world.find(int(task.node_id[-1]))
    world.pass_time(10)
    assert [t.node_id for t in world.running()] == [task.node_id]


def test_a_node_that_was_only_cut_off_keeps_its_task() -> None:
    world = made()
    (task,) = world.running()
    world.lose(int(task.node_id[-1]))
    world.settle()
    assert waiting(world)
    world.find(int(task.node_id[-1]))
    world.settle()
    assert [t.id for t in world.running()] == [task.id]
    assert not waiting(world)


def test_a_drained_nodes_task_stops_and_waits_for_the_node() -> None:
    world = made()
    (task,) = world.running()
    number = int(task.node_id[-1])
    world.set_node(number, availability=Availability.DRAIN)
    world.settle()
    assert not world.containers()
    (waits,) = waiting(world)
    assert f"the data of volume pg, which is on n{number} (drained)" in waits.status.err
    world.set_node(number, availability=Availability.ACTIVE)
    world.settle()
    assert where(world) == [number]


def test_a_constraint_that_rules_the_data_out_is_said() -> None:
    world = made()
    (task,) = world.running()
    world.update(volume_spec(constraints=(f"node.id!={task.node_id}",)))
    world.settle()
    (waits,) = waiting(world)
    assert "scheduling constraints not satisfied on 1 node" in waits.status.err
    assert f"2 nodes without the data of volume pg, which is on n{task.node_id[-1]}" in waits.status.err


def test_with_the_label_a_task_starts_without_its_data() -> None:
    world = made(labels=ALLOW)
    (task,) = world.running()
    world.power_off(int(task.node_id[-1]))
    world.settle()
    assert len(world.running()) == 1
    assert world.running()[-1].node_id != task.node_id


def test_the_label_lets_a_task_go_that_waits_already() -> None:
    world = made()
    (task,) = world.running()
    world.power_off(int(task.node_id[-1]))
    world.settle()
    assert waiting(world)
    before = world.service
    world.update(volume_spec(labels=ALLOW))
    dirt = dirt_of(world.snapshot, Changes(put_services=(before,)))
    assert dirt.pending
    world.settle()
    assert len(world.running()) == 1


def test_data_of_a_node_that_was_removed_is_waited_for_no_longer() -> None:
    world = made()
    (task,) = world.running()
    world.power_off(int(task.node_id[-1]))
    world.settle()
    world.remove_node(int(task.node_id[-1]))
    world.settle()
    assert len(world.running()) == 1


# --- data of slots that are gone ----------------------------------------------------------------------------
def test_a_new_service_takes_its_volume_up_where_it_is() -> None:
    world = VolumeWorld()
    world.put_volume(3, "pg")
    world.create(volume_spec())
    world.settle()
    assert where(world) == [3]


def test_a_new_service_does_not_begin_with_nothing_while_its_data_is_out_of_reach() -> None:
    world = VolumeWorld()
    world.put_volume(3, "pg")
    world.set_node(3, availability=Availability.DRAIN)
    world.create(volume_spec(replicas=2))
    world.settle()
    assert len(waiting(world)) == 2
    world.set_node(3, availability=Availability.ACTIVE)
    world.settle()
    assert where(world)[0] == 3


def test_further_replicas_take_free_data_first_and_then_any_node() -> None:
    world = VolumeWorld(4)
    world.put_volume(3, "pg")
    world.put_volume(4, "pg")
    world.create(volume_spec(replicas=2))
    world.settle()
    assert sorted(where(world)) == [3, 4]
    world.update(volume_spec(replicas=4))
    world.settle()
    assert sorted(where(world)) == [1, 2, 3, 4]


def test_a_further_replica_does_not_wait_for_data_that_others_have_too() -> None:
    world = VolumeWorld()
    world.put_volume(3, "pg")
    world.put_volume(2, "pg")
    world.create(volume_spec())
    world.settle()
    other = ({2, 3} - set(where(world))).pop()
    world.set_node(other, availability=Availability.DRAIN)
    world.update(volume_spec(replicas=2))
    world.settle()
    assert set(where(world)) == {1, 5 - other}


def test_scaled_to_nothing_and_back_each_slot_of_its_own_volume_is_where_it_was() -> None:
    world = made(source="data-{{.Task.Slot}}", replicas=3)
    world.update(volume_spec("data-{{.Task.Slot}}", replicas=0))
    world.settle()
    disks = {node: set(names) for node, names in world.disks.items()}
    assert sorted(map(sorted, disks.values())) == [["data-1"], ["data-2"], ["data-3"]]
    world.update(volume_spec("data-{{.Task.Slot}}", replicas=3))
    world.settle()
    assert len(world.running()) == 3
    assert world.disks == disks


# --- others -------------------------------------------------------------------------------------------------
def test_a_global_service_has_a_task_on_each_node_whatever_is_there() -> None:
    world = VolumeWorld()
    world.put_volume(3, "pg")
    world.create(volume_spec(replicas=None))
    world.settle()
    assert sorted(int(t.node_id[-1]) for t in world.running()) == [1, 2, 3]


def test_a_job_runs_where_the_volume_is() -> None:
    world = VolumeWorld()
    world.put_volume(2, "pg")
    world.create(with_volume(make_job()))
    world.settle()
    assert [t.node_id for t in world.tasks()] == ["node2"]


def test_a_rebalance_moves_no_task_off_its_data() -> None:
    world = made(1, replicas=3)
    world.add_node(2)
    world.disks["node2"] = set()
    world.settle()
    assert immovable(world.service) == "its data is on its nodes, in volume pg"
    assert world.rebalance() == 0
    world.update(volume_spec(labels=ALLOW, replicas=3))
    assert world.rebalance() == 1


@settings(max_examples=150, deadline=None)
@given(
    ops=st.lists(OPS, max_size=14),
    order=st.sampled_from(["stop-first", "start-first"]),
    delay=st.sampled_from([0.0, 5.0]),
)
def test_whatever_happens_no_slot_begins_anew_and_all_run_in_the_end(
    ops: list[tuple[str, int]], order: str, delay: float
) -> None:
    world = VolumeWorld(3)
    config = UpdateConfig(parallelism=2, order=order, failure_action="continue")

    def spec(replicas: int, image: str) -> ServiceSpec:
        return volume_spec("{{.Task.Slot}}", replicas=replicas, image=image, delay_s=delay, update=config)

    replicas, image = 3, "web:1"
    world.create(spec(replicas, image))
    for op, n in ops:
        match op:
            case "scale":
                replicas = n
            case "image":
                image = f"web:{n}"
            case "kill":
                world.restart_manager()
            case _:
                happen(world, op, n)
        if op in ("scale", "image"):
            world.update(spec(replicas, image))
        volumes = [name for names in world.disks.values() for name in names]
        assert len(volumes) == len(set(volumes)), f"a slot began anew: {world.disks}"
    for n in (1, 2, 3):
        if f"node{n}" in world.cut:
            world.find(n)
        world.set_node(n, availability=Availability.ACTIVE)
    world.pass_time(120)
    assert len(world.running()) == replicas
    volumes = [name for names in world.disks.values() for name in names]
    assert len(volumes) == len(set(volumes)), f"a slot began anew: {world.disks}"
