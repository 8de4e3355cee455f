"""Inventories: Ansible's precedence, jump hosts, and errors that name file, line, key and the way out."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmsh.adapters.inventory import Inventory, InventoryHost, describe_changes, load_inventory
from swarmsh.errors import InventoryError
from swarmsh.model.states import Role

PIN = "SHA256:NmsXC7JgJCWFYMdHfQFBYqzbNmbv2YRZrFUMRYiGoUM"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGd0JlBCE6hNU6RcREd2nVbFRYoEAYzZQ0b0mVJ0SbBA"


@pytest.fixture
def load(tmp_path: Path):
    def read(text: str, name: str = "inventory.yml") -> Inventory:
        path = tmp_path / name
        path.write_text(textwrap.dedent(text))
        return load_inventory(path, default_user="me")

    return read


def hosts(inventory: Inventory) -> dict[str, InventoryHost]:
    return {h.name: h for h in inventory.hosts}


# --- what is understood -------------------------------------------------------------------------------------
def test_hosts_keep_their_order_and_lines(load) -> None:
    found = load("all:\n  hosts:\n    zeta:\n    alpha:\n      ansible_host: 10.0.0.1\n")
    assert [(h.name, h.line) for h in found.hosts] == [("zeta", 3), ("alpha", 4)]
    assert found.hosts[0].target.user == "me"


def test_a_child_groups_variables_win_over_its_parents_and_the_hosts_own_over_all(load) -> None:
    found = hosts(
        load(
            """
            all:
              vars: {ansible_user: from_all, ansible_port: 1}
              children:
                outer:
                  vars: {ansible_user: from_outer, ansible_port: 2}
                  children:
                    inner:
                      vars: {ansible_user: from_inner, ansible_port: 3}
                      hosts:
                        a:
                        b: {ansible_port: 4}
                another:
                  vars: {ansible_user: from_another}
                  hosts: {c: , a: }
            """
        )
    )
    assert (found["a"].target.user, found["a"].target.port) == ("from_inner", 3)
    assert (found["b"].target.user, found["b"].target.port) == ("from_inner", 4)
    assert (found["c"].target.user, found["c"].target.port) == ("from_another", 1)
    assert found["a"].groups == ("another", "inner", "outer")


def test_ini_reads_as_ansible_does(load) -> None:
    found = hosts(
        load(
            """
            ; a comment
            solo ansible_host=10.0.0.9   # behind it
            [web]
            w1:2201 ansible_user='my user' swarmsh_host_key="KEY"
            w2 ansible_become=True http_port=80 greeting="hello # not a comment"
            [web:vars]
            ansible_python_interpreter = /opt/py   # said once
            swarmsh_labels={'tier': 'front', 'n': 3}
            [top:children]
            web
            """.replace("KEY", KEY),
            "hosts",
        )
    )
    assert list(found) == ["solo", "w1", "w2"]
    assert (found["w1"].target.port, found["w1"].target.user) == (2201, "my user")
    assert found["w1"].target.host_keys == (KEY,)
    assert found["w2"].target.become
    assert found["w2"].target.python == "/opt/py"
    assert found["w2"].labels == {"group.web": "true", "group.top": "true", "tier": "front", "n": "3"}
    assert found["solo"].labels == {}


def test_ansibles_older_names_work(load) -> None:
    (host,) = load("a ansible_ssh_host=10.0.0.1 ansible_ssh_user=u ansible_ssh_port=23", "hosts.ini").hosts
    assert (host.target.address, host.target.user, host.target.port) == ("10.0.0.1", "u", 23)


def test_anchors_and_merge_keys_work(load) -> None:
    (a, b) = load(
        """
        all:
          hosts:
            a: &base {ansible_user: x, ansible_port: 5}
            b: {<<: *base, ansible_port: 6}
        """
    ).hosts
    assert (a.target.port, b.target.port, b.target.user) == (5, 6, "x")


def test_variables_of_playbooks_are_passed_over(load) -> None:
    load("all:\n  hosts:\n    a: {http_port: 80, nginx: {x: [1, 2]}, ansible_ssh_pipelining: true}\n")


def test_the_role_manager_is_the_groups_or_the_first_hosts(load) -> None:
    def managers(text: str) -> list[str]:
        return [h.name for h in load(text, "h.ini").hosts if h.role is Role.MANAGER]

    assert managers("a\nb\n") == ["a"]
    assert managers("a\nb\n[swarmsh_manager]\nb\n") == ["b"]
    assert managers("a\n[m]\nb\nc\n[swarmsh_manager:children]\nm\n") == ["b", "c"]


def test_several_pins(load) -> None:
    (a, b) = load(
        f"""
        all:
          hosts:
            a: {{swarmsh_host_key: ["{PIN}", "{KEY} root@a"]}}
            b: {{swarmsh_host_key: "{PIN}=,{KEY}"}}
        """
    ).hosts
    assert a.target.host_keys == b.target.host_keys == (PIN, KEY)


def test_other_nodes_may_reach_a_host_by_an_address_of_its_own(load) -> None:
    found = hosts(load("all:\n  hosts:\n    a: {ansible_host: n1.example, swarmsh_underlay: 10.9.0.1}\n    b:\n"))
    assert (found["a"].target.underlay, found["b"].target.underlay) == ("10.9.0.1", "")
    assert describe_changes(found["b"].target, found["a"].target).endswith("underlay as seen -> 10.9.0.1")


@pytest.mark.parametrize("address", ["n1.example", "::1", "127.0.0.1", "0.0.0.0", "10.0.0.0/8", "255.255.255.255"])
def test_what_no_other_node_can_reach_is_no_underlay_address(load, address: str) -> None:
    with pytest.raises(InventoryError, match="swarmsh_underlay of a: must be the IPv4 address"):
        load(f"all:\n  hosts:\n    a: {{swarmsh_underlay: '{address}'}}\n")


def test_key_files_are_found_from_the_inventorys_folder(load, tmp_path: Path) -> None:
    a, b, c = load(
        "a ansible_ssh_private_key_file=keys/a\nb ansible_ssh_private_key_file=/k/b\n"
        "c ansible_ssh_private_key_file=~/c\n",
        "h.ini",
    ).hosts
    assert a.target.identity_files == (str(tmp_path / "keys" / "a"),)
    assert b.target.identity_files == ("/k/b",)
    assert c.target.identity_files == (str(Path.home() / "c"),)


# --- jump hosts ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "args",
    ["-J op@gate:23", "-o ProxyJump=op@gate:23", "-oProxyJump=op@gate:23", "-Jop@gate:23", "-J ssh://op@gate:23"],
)
def test_ways_to_write_a_jump_host(load, args: str) -> None:
    (a,) = load(f"a ansible_ssh_common_args='{args}' swarmsh_jump_host_key={PIN}", "h.ini").hosts
    (jump,) = a.target.jump
    assert (jump.user, jump.address, jump.port, jump.host_keys) == ("op", "gate", 23, (PIN,))


def test_a_jump_host_of_the_inventory_brings_its_own_target_and_way(load) -> None:
    found = hosts(
        load(
            f"""
            all:
              hosts:
                gate: {{ansible_host: 192.0.2.1, ansible_user: op, swarmsh_host_key: "{PIN}"}}
                inner: {{ansible_host: 10.0.0.1, ansible_ssh_common_args: -J gate, ansible_become: true}}
                deep: {{ansible_ssh_common_args: "-J inner"}}
                by_address: {{ansible_ssh_common_args: "-J root@192.0.2.1"}}
            """
        )
    )
    (gate,) = found["inner"].target.jump
    assert (gate.address, gate.user, gate.host_keys) == ("192.0.2.1", "op", (PIN,))
    assert [j.address for j in found["deep"].target.jump] == ["192.0.2.1", "10.0.0.1"]
    assert not any(j.become for j in found["deep"].target.jump)
    (by_address,) = found["by_address"].target.jump
    assert (by_address.user, by_address.host_keys) == ("root", (PIN,))


def test_two_jump_hosts_each_with_its_key(load) -> None:
    text = """
    a:
      hosts:
        n: {{ansible_ssh_common_args: "-J g1,u@g2:5", swarmsh_jump_host_key: {}}}
    """
    (host,) = load(text.format(f'{{g1: "{PIN}", g2: "{KEY}"}}')).hosts
    assert [j.host_keys for j in host.target.jump] == [(PIN,), (KEY,)]
    with pytest.raises(InventoryError, match="2 jump hosts that are not in the inventory"):
        load(text.format(f'"{PIN}"'))
    with pytest.raises(InventoryError, match="gate is no jump host here"):
        load(text.format(f'{{gate: "{PIN}"}}'))


def test_a_way_through_itself_is_refused_unless_the_host_says_none(load) -> None:
    text = """
    all:
      vars: {{ansible_ssh_common_args: -J gate}}
      hosts:
        gate: {{{}}}
        n:
    """
    with pytest.raises(InventoryError, match=r"leads through itself: gate -> gate.*ProxyJump=none"):
        load(text.format(""))
    found = hosts(load(text.format("ansible_ssh_common_args: -o ProxyJump=none")))
    assert found["gate"].target.jump == ()
    assert len(found["n"].target.jump) == 1


# --- what is refused ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("all:\n  hosts:\n    web[01:50]:\n", "yml:3: the range web[01:50] cannot be read yet"),
        ("all:\n  hosts:\n    'web*':\n", "yml:3: the pattern web* cannot be read yet"),
        ("plugin: aws_ec2\n", "yml:1: an inventory plugin cannot be read yet"),
        ("all:\n  host:\n    a:\n", "yml:2: group all has no part 'host'; did you mean hosts?"),
        ("all:\n  hosts:\n    - a\n", "yml:3: hosts of group all must be a mapping, not a list"),
        ("- a\n", "yml:1: an inventory must be a mapping, not a list"),
        ("all:\n  hosts:\n    a:\n    b:\n    a:\n", "yml:5: a stands here twice, first in line 3"),
        ("all:\n  hosts:\n    a: {b\n", "not YAML"),
        (
            "all:\n  vars:\n    ansible_prot: 1\n  hosts:\n    a:\n",
            "yml:3: there is no ansible_prot; did you mean",
        ),
        ("a:\n  children:\n    b:\n      children:\n        a: {hosts: {x: }}\n", "group a contains itself"),
        ("all:\n  vars: {}\n", "names no host"),
        ("", "names no host"),
    ],
)
def test_yaml_errors_name_place_and_way_out(load, text: str, message: str) -> None:
    with pytest.raises(InventoryError) as e:
        load(text)
    assert message in str(e.value)


@pytest.mark.parametrize(
    ("variable", "message"),
    [
        ("ansible_user: !vault abc", "ansible_user: a value from Ansible's vault cannot be read yet"),
        ("ansible_user: '{{ x }}'", "ansible_user of a: a template cannot be read yet"),
        ("ansible_user: [x]", "ansible_user of a: must be text"),
        ("ansible_hots: x", "there is no ansible_hots; did you mean ansible_host?"),
        ("ansible_port: 70000", "ansible_port of a: must be a port from 1 to 65535"),
        ("ansible_become: perhaps", "ansible_become of a: must be yes or no"),
        ("ansible_password: x", "ansible_password cannot be read yet. Log in with a key"),
        ("ansible_connection: local", "ansible_connection=local cannot be read yet"),
        ("ansible_become_user: joe", "ansible_become_user=joe cannot be read yet"),
        ("ansible_ssh_common_args: -o StrictHostKeyChecking=no", "-o StrictHostKeyChecking cannot be read yet"),
        ("ansible_ssh_extra_args: -v", "ansible_ssh_extra_args of a: -v cannot be read yet"),
        ("swarmsh_label: {x: y}", "there is no swarmsh_label; did you mean swarmsh_labels?"),
        ("swarmsh_availability: pasue", "must be active, pause, drain, not 'pasue'; did you mean pause?"),
        ("swarmsh_host_key: abc", "neither a fingerprint nor a public key: 'abc'"),
        ("swarmsh_host_key: SHA256:abc", "SHA256:abc is no whole fingerprint"),
        ("swarmsh_host_key: MD5:ab:cd", "MD5 fingerprints are too weak"),
        ("swarmsh_labels: [x]", "swarmsh_labels of a must be a mapping"),
        ("swarmsh_labels: {'a b': x}", "'a b' is no name for a label"),
    ],
)
def test_a_wrong_variable_is_named_with_its_line(load, variable: str, message: str) -> None:
    with pytest.raises(InventoryError) as e:
        load(f"all:\n  hosts:\n    a:\n      {variable}\n")
    assert "inventory.yml:4: " in str(e.value)
    assert message in str(e.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("web[01:50]\n", "ini:1: the range web[01:50] cannot be read yet"),
        ("[a\nb\n", "ini:1: not a section: [a"),
        ("[a:var]\nb\n", "ini:1: section [a:var] has no kind 'var'; did you mean vars?"),
        ("[a:children]\nbb\n[b]\nx\n", "ini:2: there is no group bb"),
        ("a b\n", "ini:1: expected key=value, found 'b'"),
        ("a x='y\n", "ini:1: not a host line: No closing quotation"),
        ("[a]\nn\n[a:vars]\nansible_usr=x\n", "ini:4: there is no ansible_usr; did you mean ansible_user?"),
        ("a swarmsh_labels=x\n", "ini:1: swarmsh_labels of a: expected a=b,c=d, found 'x'"),
        ("[a:children]\nb\n[b:children]\na\n[b]\nx\n", "contains itself"),
        ("a ansible_ssh_common_args='-J @x'\n", "no jump host: '@x'"),
    ],
)
def test_ini_errors_name_place_and_way_out(load, text: str, message: str) -> None:
    with pytest.raises(InventoryError) as e:
        load(text, "h.ini")
    assert message in str(e.value)


def test_folders_are_not_read_yet(load, tmp_path: Path) -> None:
    with pytest.raises(InventoryError, match="is a folder"):
        load_inventory(tmp_path)
    (tmp_path / "group_vars").mkdir()
    with pytest.raises(InventoryError, match="group_vars cannot be read yet"):
        load("a\n", "h.ini")
    with pytest.raises(InventoryError, match="No such file"):
        load_inventory(tmp_path / "absent")


# --- whatever is written ------------------------------------------------------------------------------------
_WORDS = (
    "all: hosts: children: vars: a: b [web] [web:vars] ansible_host = x { } swarmsh_labels swarmsh_host_key"
    " \" ' *x !vault # 1 é ansible_ssh_common_args : [1:3] ~ \x00"
)
_SPACES = ["- ", "<<: ", "&x ", "-J ", " ", "? ", "\t", "{{ y }}", "\n", "\n  ", "\n    ", "\n      "]
_PIECES = st.sampled_from([*_WORDS.split(), *_SPACES])


@given(st.lists(_PIECES, max_size=40).map("".join), st.sampled_from(["h.yml", "h.ini", "h"]))
def test_any_text_is_read_or_refused_in_words(
    tmp_path_factory: pytest.TempPathFactory, text: str, name: str
) -> None:
    path = tmp_path_factory.mktemp("inventory") / name
    path.write_text(text)
    try:
        load_inventory(path, default_user="me")
    except InventoryError as e:
        refusal = str(e)
    else:
        refusal = str(path)
    assert str(path) in refusal
