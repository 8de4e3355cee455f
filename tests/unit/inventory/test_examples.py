"""Every example inventory loads, and says what its comments say."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarmsh.adapters.inventory import Inventory, load_inventory
from swarmsh.model.states import Availability, Role

EXAMPLES = Path(__file__).parents[3] / "inventories"
PIN = "SHA256:NmsXC7JgJCWFYMdHfQFBYqzbNmbv2YRZrFUMRYiGoUM"


def load(name: str) -> Inventory:
    return load_inventory(EXAMPLES / name, default_user="me")


@pytest.mark.parametrize("path", sorted(EXAMPLES.iterdir()), ids=lambda p: p.name)
def test_every_example_loads(path: Path) -> None:
    assert load(path.name).hosts


def test_the_two_minimal_ones_say_the_same() -> None:
    yaml, ini = load("minimal.yml"), load("minimal.ini")
    assert [(h.name, h.target, h.role) for h in yaml.hosts] == [(h.name, h.target, h.role) for h in ini.hosts]
    first, second, _ = yaml.hosts
    assert (first.target.address, first.target.user, first.target.port) == ("web1.example.com", "root", 22)
    assert first.target.host_keys == first.target.identity_files == ()
    assert (first.role, second.role) == (Role.MANAGER, Role.WORKER)


def test_groups() -> None:
    found = load("groups.yml")
    by_name = {h.name: h for h in found.hosts}
    db1, web1, web2 = by_name["db1"], by_name["web1"], by_name["web2"]
    assert db1.role is Role.MANAGER
    assert web1.role is Role.WORKER
    assert db1.labels == {"group.database": "true", "group.production": "true"}
    assert web2.labels == {"group.web": "true", "group.production": "true", "tier": "front", "disk": "ssd"}
    assert web1.target.host_keys == (PIN,)
    assert web1.target.become
    assert web2.target.port == 2222
    assert web1.target.identity_files == (str(EXAMPLES / "keys" / "production"),)
    assert db1.target.python == "/usr/bin/python3.11"
    assert db1.availability is Availability.DRAIN
    assert found.groups["production"] == ("db1", "web1", "web2")


def test_jump_host() -> None:
    for host in load("jump-host.yml").hosts:
        (jump,) = host.target.jump
        assert (jump.address, jump.port, jump.user) == ("bastion.example.com", 2222, "admin")
        assert jump.host_keys == (PIN,)
        assert host.target.user == "root"


def test_sudo() -> None:
    web1, web2, db1 = load("sudo.ini").hosts
    assert web1.labels == {"group.web": "true", "group.production": "true", "disk": "ssd", "rack": "1"}
    assert web2.target.user == "deploy"
    assert web2.target.become
    assert web2.target.identity_files == (str(Path("~/.ssh/production").expanduser()),)
    assert db1.target.port == 2222
    assert db1.availability is Availability.PAUSE
