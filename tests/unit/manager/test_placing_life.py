"""Whatever users and nodes do: what must always hold of addresses, VIPs, marks and ports, after each pass."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Coroutine
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec.structs import replace

from swarmsh.core.allocate import QUARANTINE_S, SAME_NODE_QUARANTINE_S
from swarmsh.errors import Exhausted, InvalidSpec, NotFound
from swarmsh.manager.usecases.networks import forget_lapsed, remove_network
from swarmsh.manager.usecases.nodes import remove_node
from swarmsh.manager.usecases.services import remove_service
from swarmsh.model.objects import NodeDescription, NodeStatus
from swarmsh.model.pools import claims_of, released_at
from swarmsh.model.snapshot import Changes
from swarmsh.model.states import NodeState
from tests.fakes.objects import a_node

from .test_placing import Scene

T = TypeVar("T")

NAMES = st.sampled_from(["a", "b", "c", "everywhere"])  # the last is global
SPECS = st.fixed_dictionaries(
    {
        "replicas": st.sampled_from([0, 1, 2, 5]),
        "networks": st.lists(st.sampled_from(["small", "ranged", "inner"]), max_size=3, unique=True).map(tuple),
        "ports": st.lists(st.sampled_from([0, 0, 80, 81, 30000]), max_size=3)
        .filter(lambda ports: all(ports.count(p) == 1 for p in ports if p))
        .map(lambda ports: tuple((p, 1000 + i) for i, p in enumerate(ports))),
        "endpoint_mode": st.sampled_from(["vip", "vip", "dnsrr"]),
        "Image": st.sampled_from(["web:1", "web:2"]),
    }
).map(lambda spec: spec | ({"ports": ()} if spec["endpoint_mode"] == "dnsrr" else {}))


class Life(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.scene = Scene()

    def run_now(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        self.loop.close()

    @initialize()
    def begin(self) -> None:
        self.run_now(self.scene.begin(nodes=3))
        self.run_now(self.scene.network("small", "10.9.9.0/28"))
        self.run_now(self.scene.network("ranged", "10.8.0.0/24"))
        self.run_now(self.scene.network("inner", "10.7.0.0/27", Internal=True))

    def names(self) -> list[str]:
        return sorted(self.scene.snapshot.service_ids)

    # --- what happens ---
    @rule(name=NAMES, spec=SPECS)
    def specify(self, name: str, spec: dict[str, Any]) -> None:
        """Create or update; what is refused changes nothing."""
        before = self.scene.snapshot
        work = self.scene.update if name in self.names() else self.scene.create
        with contextlib.suppress(InvalidSpec, NotFound, Exhausted):
            self.run_now(work(name, **spec | ({"replicas": None} if name == "everywhere" else {})))
            return
        assert self.scene.snapshot is before

    @precondition(lambda self: self.names())
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.names()))
        self.run_now(remove_service(self.scene.store, self.scene.clock, name))

    @rule(name=st.sampled_from(["small", "ranged", "inner"]))
    def exchange_network(self, name: str) -> None:
        """Remove a network, if it is not in use, and make another one of its name."""
        with contextlib.suppress(InvalidSpec):
            self.run_now(remove_network(self.scene.store, self.scene.clock, name))
            self.run_now(self.scene.network(name))

    @rule()
    def settle(self) -> None:
        self.run_now(self.scene.settle())

    @rule()
    def one_pass(self) -> None:
        self.scene.orchestrator.touch_all()
        self.run_now(self.scene.orchestrator.one_pass())

    @precondition(lambda self: self.placed())
    @rule(data=st.data())
    def fail_a_task(self, data: st.DataObject) -> None:
        self.scene.fail(data.draw(st.sampled_from(self.placed())))

    @rule(number=st.integers(1, 3), state=st.sampled_from([NodeState.READY, NodeState.DOWN]))
    def turn_node(self, number: int, state: NodeState) -> None:
        node = self.scene.snapshot.nodes.get(a_node(number).id)
        if node is not None:
            turned = replace(node, status=NodeStatus(state=state, since=self.scene.clock.now()))
            self.run_now(self.scene.store.commit(lambda _: Changes(put_nodes=(turned,))))

    @rule(number=st.integers(1, 3), routes=st.sampled_from([(), ("10.9.9.8/30",), ("10.255.0.0/18",)]))
    def route_node(self, number: int, routes: tuple[str, ...]) -> None:
        node = self.scene.snapshot.nodes.get(a_node(number).id)
        if node is not None:
            routed = replace(node, description=NodeDescription(routes=routes))
            self.run_now(self.scene.store.commit(lambda _: Changes(put_nodes=(routed,))))

    @precondition(lambda self: len(self.scene.snapshot.nodes) > 2)
    @rule(number=st.integers(1, 3))
    def remove_node(self, number: int) -> None:
        with contextlib.suppress(NotFound):
            self.run_now(remove_node(self.scene.store, self.scene.clock, f"n{number}", force=True))

    @rule(seconds=st.sampled_from([1.0, SAME_NODE_QUARANTINE_S, QUARANTINE_S]))
    def pass_time(self, seconds: float) -> None:
        self.scene.clock.pass_time(seconds)
        self.run_now(forget_lapsed(self.scene.store, self.scene.clock))

    # --- what holds ---
    def placed(self) -> list[Any]:
        return sorted((t for t in self.scene.snapshot.tasks.values() if t.placed and t.live), key=lambda t: t.id)

    @invariant()
    def nothing_has_two_living_holders(self) -> None:
        snapshot = self.scene.snapshot
        holders = [h for h in (*snapshot.services.values(), *snapshot.tasks.values()) if released_at(h) is None]
        claims = Counter(claim for holder in holders for claim in claims_of(holder))
        assert not [claim for claim, count in claims.items() if count > 1]
        for pool, key in claims:
            assert snapshot.pools[pool].holdings[key].released_at is None

    @invariant()
    def services_have_what_their_specs_say_and_no_more(self) -> None:
        for service in self.scene.snapshot.services.values():
            spec = service.spec.endpoint_spec
            assert spec is not None
            targets = [n.target for n in service.spec.task_template.networks]
            vips = [vip.network_id for vip in service.endpoint.virtual_ips]
            assert vips == ([] if spec.mode == "dnsrr" else targets)
            assert [p.target_port for p in service.endpoint.ports] == [p.target_port for p in spec.ports]
            for asked, given in zip(spec.ports, service.endpoint.ports, strict=True):
                assert given.published_port == asked.published_port or not asked.published_port

    @invariant()
    def tasks_have_addresses_from_their_placing_on_and_not_before(self) -> None:
        snapshot = self.scene.snapshot
        for task in snapshot.tasks.values():
            targets = [n.target for n in task.spec.networks]
            if not task.placed:
                assert (task.addresses, task.egress_address) == ((), "")
                continue
            ports = task.endpoint is not None and task.endpoint.ports
            assert [on.network_id for on in task.addresses] == targets or task.status.state.terminal
            if task.live:
                assert all(snapshot.networks[target].removed_at is None for target in targets)
                outside = any(not snapshot.networks[target].spec.internal for target in targets)
                assert bool(task.egress_address) is bool(ports or outside)


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
