"""How subnets are divided and found free."""

from __future__ import annotations

from ipaddress import IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmsh.core.subnets import divide, first_free, gateway_on


@pytest.mark.parametrize(
    ("subnet", "ip_range", "gateways", "tasks", "vips"),
    [
        ("10.50.0.0/16", "", "10.50.0.0/24", "10.50.1.0-10.50.127.255", "10.50.128.0/17"),
        ("10.48.16.0/20", "", "10.48.16.0/24", "10.48.17.0-10.48.23.255", "10.48.24.0/21"),
        ("10.9.8.0/21", "", "10.9.8.0/24", "10.9.9.0-10.9.13.255", "10.9.14.0/23"),
        ("10.9.9.0/24", "", "10.9.9.0/26", "10.9.9.64-10.9.9.191", "10.9.9.192/26"),
        ("10.9.9.16/28", "", "10.9.9.16/30", "10.9.9.20-10.9.9.27", "10.9.9.28/30"),
        # A range at the beginning, in the middle, and one that leaves an odd room in front of it.
        ("10.9.0.0/16", "10.9.0.0/24", "10.9.0.0/26", "10.9.0.64-10.9.0.191", "10.9.0.192/26"),
        ("10.9.0.0/16", "10.9.5.0/24", "10.9.0.0/24", "10.9.5.0-10.9.5.191", "10.9.5.192/26"),
        ("10.9.9.0/24", "10.9.9.48/28", "10.9.9.0/27", "10.9.9.48-10.9.9.59", "10.9.9.60/30"),
        ("10.9.0.0/16", "10.9.0.0/16", "10.9.0.0/24", "10.9.1.0-10.9.127.255", "10.9.128.0/17"),
    ],
)
def test_a_subnet_is_divided_by_the_table(
    subnet: str, ip_range: str, gateways: str, tasks: str, vips: str
) -> None:
    division = divide(IPv4Network(subnet), IPv4Network(ip_range) if ip_range else None)
    assert str(division.gateways) == gateways
    assert f"{division.first_task}-{division.last_task}" == tasks
    assert str(division.vips) == vips


@st.composite
def subnets_with_range(draw: st.DrawFn) -> tuple[IPv4Network, IPv4Network | None]:
    prefix = draw(st.integers(16, 28))
    subnet = IPv4Network((0x0A000000 + (draw(st.integers(0, 255)) << (32 - prefix)), prefix))
    if draw(st.booleans()):
        return subnet, None
    inner = draw(st.integers(prefix, 28))
    number = draw(st.integers(0, (1 << (inner - prefix)) - 1))
    return subnet, IPv4Network((int(subnet.network_address) + (number << (32 - inner)), inner))


@given(subnets_with_range())
def test_the_three_parts_are_in_the_subnet_are_not_empty_and_touch_no_other(
    asked: tuple[IPv4Network, IPv4Network | None],
) -> None:
    subnet, ip_range = asked
    division = divide(subnet, ip_range)
    tasks = range(int(division.first_task), int(division.last_task) + 1)
    vips = range(int(division.vips.network_address), int(division.vips.broadcast_address) + 1)
    gateways = range(int(division.gateways.network_address), int(division.gateways.broadcast_address) + 1)
    for part in (tasks, vips, gateways):
        assert part[0] >= int(subnet.network_address) and part[-1] <= int(subnet.broadcast_address)
    assert gateways[-1] < tasks[0] and tasks[-1] < vips[0]
    assert len(tasks) >= 8 and len(vips) >= 4 and len(gateways) >= 4
    assert gateway_on(division.gateways, 1) == subnet.network_address + 1
    if ip_range is not None:
        assert tasks[0] >= int(ip_range.network_address) and vips[-1] <= int(ip_range.broadcast_address)


def test_a_node_beyond_the_gateways_has_none() -> None:
    gateways = IPv4Network("10.9.9.0/30")
    assert str(gateway_on(gateways, 3)) == "10.9.9.3"
    assert gateway_on(gateways, 4) is None


POOL = IPv4Network("10.48.0.0/20")


@given(
    taken=st.lists(st.tuples(st.integers(0, 40), st.sampled_from([22, 24, 25, 30, 32])), max_size=12),
    prefix=st.sampled_from([22, 24, 26]),
)
def test_the_lowest_subnet_that_touches_none_of_the_taken_ones_is_found(
    taken: list[tuple[int, int]], prefix: int
) -> None:
    base = int(POOL.network_address)
    blocks = [IPv4Network((base + (number * 128 >> (32 - p) << (32 - p)), p)) for number, p in taken]
    free = [s for s in POOL.subnets(new_prefix=prefix) if not any(s.overlaps(b) for b in blocks)]
    assert first_free(POOL, prefix, blocks) == next(iter(free), None)


def test_a_block_larger_than_the_pool_takes_it_all() -> None:
    assert first_free(POOL, 24, [IPv4Network("10.0.0.0/8")]) is None
    assert first_free(POOL, 24, [IPv4Network("10.0.0.0/12"), IPv4Network("10.64.0.0/12")]) == IPv4Network(
        "10.48.0.0/24"
    )
