"""Short forms of what services list, each turned into the long one: ports, volumes, devices, hosts and so on."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from ipaddress import AddressValueError, IPv4Address, IPv6Address

from swarmsh.compose.errors import ComposeError, Path
from swarmsh.compose.load.plain_scalars import spell
from swarmsh.compose.load.readers import (
    Reader,
    as_written,
    boolean,
    choice,
    either,
    filled,
    list_of,
    map_of,
    mode,
    pairs,
    record,
    refuse,
    size,
    text,
    unknown_key,
    whole,
)
from swarmsh.compose.load.tree import Mapping, Node, Scalar, Sequence, Value, scalar

_PORT = re.compile(
    r"(?:(?P<ip>\[[^\]]*\]|[^\[\]:/]*):)??(?:(?P<published>[0-9-]*):)?(?P<target>[0-9]+(?:-[0-9]+)?)(?:/(?P<protocol>.*))?"
)
_PROTOCOLS = ("tcp", "udp", "sctp")
_HIGHEST = 65535
_PROPAGATION = ("private", "rprivate", "shared", "rshared", "slave", "rslave")
_CONSISTENCY = ("consistent", "cached", "delegated")
_VOLUME_OPTIONS = ("ro", "rw", "nocopy", "z", "Z", *_PROPAGATION, *_CONSISTENCY)
VOLUME_TYPES = ("volume", "bind", "tmpfs", "npipe", "cluster", "image")


def mapping(node: Node, entries: Iterable[tuple[str, Node | Value]]) -> Mapping:
    """A long form of our own making at the place of a short one; entries of None are left out."""
    made = Mapping(place=node.place)
    for key, value in entries:
        if value is not None:
            made.put(key, value if isinstance(value, Node) else scalar(value, node.place), node.place)
    return made


def with_defaults(node: Node, **defaults: Value) -> Node:
    """A mapping with entries added where it has none."""
    if not isinstance(node, Mapping):
        return node
    made = replace(node, items=dict(node.items), keys=dict(node.keys))
    for key, value in defaults.items():
        if key not in made.items:
            made.put(key, scalar(value, node.place))
    return made


# --- ports ---
def _published(node: Node, path: Path) -> Node:
    value = as_written(node, path)
    written = str(value.value) if isinstance(value, Scalar) else ""
    if isinstance(node, Scalar) and isinstance(node.value, int):
        written = str(node.value)  # 0x50 is a number too
    if written and _range(written) is None:
        refuse(node, path, f"a port from 1 to {_HIGHEST}, or a range such as 8000-8010")
    return scalar(written, node.place)


_LONG_PORT = record(
    {
        "name": text,
        "mode": choice("ingress", "host"),
        "host_ip": text,
        "target": whole(1, _HIGHEST),
        "published": _published,
        "protocol": choice(*_PROTOCOLS),
        "app_protocol": text,
    },
    required=("target",),
)


def ports(node: Node, path: Path) -> list[Node]:
    """One entry of `ports` as the long forms that it stands for: a range is one each."""
    if isinstance(node, Mapping):
        made = _LONG_PORT(node, path)
        address = made.items.get("host_ip") if isinstance(made, Mapping) else None
        if address is not None:
            _check_address(node_text(address), address, (*path, "host_ip"))
        return [with_defaults(made, mode="ingress", protocol="tcp")]
    if not isinstance(node, Scalar) or node.value is None or isinstance(node.value, bool | float):
        refuse(node, path, "a port such as 80, 8080:80 or 127.0.0.1:53:53/udp, or a mapping")
    return list(_short_port(node, spell(node.value), path))


def _short_port(node: Node, written: str, path: Path) -> Iterable[Node]:
    match = _PORT.fullmatch(written)
    hint = 'Ports are written as "80", "8080:80", "127.0.0.1:53:53/udp" or "8000-8002:80-82"'
    if match is None:
        refuse(node, path, "a port", hint)
    targets = _range(match["target"])
    published = _range(match["published"]) if match["published"] else None
    if targets is None or (match["published"] and published is None):
        refuse(node, path, f"ports from 1 to {_HIGHEST}, a range from low to high", hint)
    if published is not None and len(published) != len(targets) and len(targets) > 1:
        refuse(node, path, "two ranges of the same length", hint)
    protocol = match["protocol"] if match["protocol"] is not None else "tcp"
    if protocol.lower() not in _PROTOCOLS:
        raise ComposeError(unknown_key(protocol, _PROTOCOLS, "protocol"), node.place, path)
    address = (match["ip"] or "").removeprefix("[").removesuffix("]")
    if match["ip"] is not None:
        _check_address(address, node, path)
    outside_ports: Iterable[int | None] = published or [None] * len(targets)
    # A range for one port in the container: each of them leads to it.
    inside_ports = targets if len(targets) > 1 else [targets[0]] * len(published or targets)
    for outside, inside in zip(outside_ports, inside_ports, strict=True):
        yield mapping(
            node,
            (
                ("mode", "ingress"),
                ("host_ip", address or None),
                ("target", inside),
                ("published", None if outside is None else str(outside)),
                ("protocol", protocol.lower()),
            ),
        )


def _range(written: str) -> range | None:
    """The ports of `80` or `80-90`; None if they are none."""
    first, dash, last = written.partition("-")
    if not (first.isascii() and first.isdigit() and len(first) <= 5):
        return None
    if dash and not (last.isascii() and last.isdigit() and len(last) <= 5):
        return None
    low, high = int(first), int(last) if dash else int(first)
    return range(low, high + 1) if 0 < low <= high <= _HIGHEST else None


def _check_address(address: str, node: Node, path: Path) -> None:
    try:
        if ":" in address:
            IPv6Address(address)
        elif address:
            IPv4Address(address)
    except AddressValueError:
        refuse(node, path, "a port on an IP address such as 127.0.0.1:80:80")


def expose(node: Node, path: Path) -> Node:
    """A port or a range, perhaps with a protocol, as text."""
    made = as_written(node, path)
    is_number = isinstance(node, Scalar) and not isinstance(node.value, str)
    written = spell(node.value) if is_number and isinstance(node, Scalar) else node_text(made)
    port, _, protocol = written.partition("/")
    if _range(port) is None or protocol.lower() not in ("", *_PROTOCOLS):
        refuse(node, path, "a port such as 80 or 53/udp")
    return scalar(written, node.place)


def node_text(node: Node | None) -> str:
    """A scalar's text; empty for anything else."""
    return node.value if isinstance(node, Scalar) and isinstance(node.value, str) else ""


# --- volumes ---
_LONG_VOLUME = record(
    {
        "type": choice(*VOLUME_TYPES),
        "source": text,
        "target": filled,
        "read_only": boolean,
        "consistency": text,
        "bind": record(
            {
                "propagation": choice(*_PROPAGATION),
                "create_host_path": boolean,
                "recursive": choice("enabled", "disabled", "writable", "readonly"),
                "selinux": choice("z", "Z"),
            }
        ),
        "volume": record({"labels": pairs(), "nocopy": boolean, "subpath": text}),
        "tmpfs": record({"size": size, "mode": mode}),
        "image": record({"subpath": text}),
        "cluster": record({}),
    },
    required=("type", "target"),
)


def volume(node: Node, path: Path) -> Node:
    """One entry of a service's `volumes`."""
    if isinstance(node, Scalar) and isinstance(node.value, str) and node.value:
        return _short_volume(node, node.value, path)
    if not isinstance(node, Mapping):
        refuse(node, path, "a volume such as data:/var/lib/data:ro, or a mapping")
    return _LONG_VOLUME(node, path)


def _short_volume(node: Node, written: str, path: Path) -> Node:
    parts = written.split(":")
    hint = "Volumes are written as NAME:/target, /path:/target or /target, with :ro and other options behind"
    if not all(parts):
        refuse(node, path, "a volume without an empty part between colons", hint)
    if len(parts) > 3:
        refuse(node, path, "a volume with at most two colons", hint)
    if len(parts) == 1:
        return mapping(node, (("type", "volume"), ("target", parts[0])))
    source, target = parts[0], parts[1]
    kind = "bind" if source[0] in "./~" else "volume"
    options = parts[2].split(",") if len(parts) == 3 else []
    bind: list[tuple[str, Value]] = []
    of_volume: list[tuple[str, Value]] = []
    consistency = None
    for option in options:
        if option not in _VOLUME_OPTIONS:
            raise ComposeError(unknown_key(option, _VOLUME_OPTIONS, "option of a volume"), node.place, path)
        if option in _PROPAGATION:
            bind.append(("propagation", option))
        elif option in ("z", "Z"):
            bind.append(("selinux", option))
        elif option in _CONSISTENCY:
            consistency = option
        elif option == "nocopy":
            of_volume.append(("nocopy", True))
    return mapping(
        node,
        (
            ("type", kind),
            ("source", source),
            ("target", target),
            ("read_only", True if "ro" in options else None),
            ("consistency", consistency),
            ("bind", mapping(node, bind) if bind else None),
            ("volume", mapping(node, of_volume) if of_volume else None),
        ),
    )


# --- what is named elsewhere ---
_LONG_FILE = record(
    {"source": filled, "target": text, "uid": text, "gid": text, "mode": mode}, required=("source",)
)


def file_reference(node: Node, path: Path) -> Node:
    """One entry of a service's `secrets` or `configs`."""
    if isinstance(node, Scalar) and isinstance(node.value, str) and node.value:
        return mapping(node, (("source", node.value),))
    if not isinstance(node, Mapping):
        refuse(node, path, "a name, or a mapping with source")
    return _LONG_FILE(node, path)


_CONDITIONS = ("service_started", "service_healthy", "service_completed_successfully")
_LONG_DEPENDENCIES = map_of(
    record({"condition": choice(*_CONDITIONS), "required": boolean, "restart": boolean}), names=True
)


def depends_on(node: Node, path: Path) -> Node:
    """Services by name, each with its condition."""
    if isinstance(node, Sequence):
        made = Mapping(place=node.place, override=node.override)
        for i, item in enumerate(node.items):
            name = node_text(filled(item, (*path, i)))
            made.put(name, mapping(item, (("condition", _CONDITIONS[0]), ("required", True))))
        return made
    if not isinstance(node, Mapping):
        refuse(node, path, "a list of services or a mapping")
    made_of = _LONG_DEPENDENCIES(node, path)
    if isinstance(made_of, Mapping):
        return replace(made_of, items={k: with_defaults(v, required=True) for k, v in made_of.items.items()})
    return made_of


def networks(long: Reader) -> Reader:
    """Networks by name, each with how the service is in it."""
    many = map_of(long, names=True, empty=False)

    def read(node: Node, path: Path) -> Node:
        if not isinstance(node, Sequence):
            if not isinstance(node, Mapping):
                refuse(node, path, "a list of networks or a mapping")
            return many(node, path)
        made = Mapping(place=node.place, override=node.override)
        for i, item in enumerate(node.items):
            made.put(node_text(filled(item, (*path, i))), Mapping(place=item.place), item.place)
        return made

    return read


# --- the rest ---
def ulimit(node: Node, path: Path) -> Node:
    """A soft and a hard limit; one number is both."""
    limit = whole(-1)
    if isinstance(node, Mapping):
        return record({"soft": limit, "hard": limit}, required=("soft", "hard"))(node, path)
    value = limit(node, path)
    return mapping(node, (("soft", value), ("hard", value)))


def extra_hosts(node: Node, path: Path) -> Node:
    """Addresses by host name, each a list."""
    if isinstance(node, Mapping):
        many = list_of(filled)
        addresses = either((Scalar, _one_address), (Sequence, many), wanted="an address or a list of them")
        made = map_of(addresses)(node, path)
        # As `docker stack`: a list keeps its order, a mapping has none, and is sorted.
        return replace(made, items=dict(sorted(made.items.items()))) if isinstance(made, Mapping) else made
    if not isinstance(node, Sequence):
        refuse(node, path, "a list of host:address or a mapping")
    found: dict[str, Sequence] = {}
    for i, item in enumerate(node.items):
        here = (*path, i)
        written = node_text(text(item, here))
        host, sign, address = written.partition("=" if "=" in written else ":")
        host, address = host.strip(), address.strip()
        if not (host and sign and address):
            refuse(item, here, "text such as somehost:10.0.0.1")
        if address.startswith("[") and address.endswith("]"):
            address = address[1:-1]
        found.setdefault(host, Sequence(place=item.place)).items.append(scalar(address, item.place))
    return Mapping(
        place=node.place, override=node.override, items=dict(found), keys={k: v.place for k, v in found.items()}
    )


def _one_address(node: Node, path: Path) -> Node:
    return Sequence(place=node.place, items=[filled(node, path)])


_LONG_DEVICE = record({"source": filled, "target": text, "permissions": text}, required=("source",))


def device(node: Node, path: Path) -> Node:
    """One entry of `devices`."""
    if isinstance(node, Mapping):
        made = _LONG_DEVICE(node, path)
        source = made.items.get("source") if isinstance(made, Mapping) else None
        made = with_defaults(made, target=node_text(source), permissions="rwm")
    elif isinstance(node, Scalar) and isinstance(node.value, str):
        parts = node.value.split(":")
        if not all(parts) or len(parts) > 3:
            refuse(node, path, "a device such as /dev/ttyUSB0:/dev/ttyUSB0:rwm")
        source_path, target, permissions = (*parts, *(parts[0], "rwm")[len(parts) - 1 :])
        if len(parts) == 2 and not parts[1].startswith("/") and set(parts[1]) <= set("rwm"):
            target, permissions = source_path, parts[1]
        entries = (("source", source_path), ("target", target), ("permissions", permissions))
        made = mapping(node, entries)
    else:
        refuse(node, path, "a device such as /dev/ttyUSB0, or a mapping")
    permissions_node = made.items.get("permissions") if isinstance(made, Mapping) else None
    if permissions_node is not None and not re.fullmatch(r"[rwm]{1,3}", node_text(permissions_node)):
        refuse(permissions_node, path, "a device with permissions of r, w and m")
    return made


_LONG_ENV_FILE = record(
    {"path": filled, "required": boolean, "format": choice("raw", "")}, required=("path",), extensions=False
)


def env_file(node: Node, path: Path) -> Node:
    """`env_file` as a list of mappings."""
    if isinstance(node, Sequence):
        made = [_env_file_entry(item, (*path, i)) for i, item in enumerate(node.items)]
        return replace(node, items=made)
    if isinstance(node, Scalar):
        return Sequence(place=node.place, items=[_env_file_entry(node, path)], override=node.override)
    refuse(node, path, "a path or a list")


def _env_file_entry(node: Node, path: Path) -> Node:
    if isinstance(node, Mapping):
        return with_defaults(_LONG_ENV_FILE(node, path), required=True)
    return mapping(node, (("path", filled(node, path)), ("required", True)))


def health_test(node: Node, path: Path) -> Node:
    """The test as a list; text is run by a shell."""
    if isinstance(node, Scalar) and isinstance(node.value, str):
        items: list[Node] = [scalar("CMD-SHELL", node.place), node]
        return Sequence(place=node.place, items=items if node.value else [], override=node.override)
    if not isinstance(node, Sequence):
        refuse(node, path, "text or a list")
    made = list_of(text)(node, path)
    if isinstance(made, Sequence) and made.items:
        choice("NONE", "CMD", "CMD-SHELL")(made.items[0], (*path, 0))
    return made


def external(node: Node, path: Path) -> Node:
    """A boolean, or the old mapping with a name (which the table above moves up)."""
    if isinstance(node, Mapping):
        return record({"name": filled})(node, path)
    return boolean(node, path)


def build(table_reader: Reader) -> Reader:
    """A build's mapping; text is its context."""

    def read(node: Node, path: Path) -> Node:
        if isinstance(node, Scalar):
            return mapping(node, (("context", filled(node, path)),))
        return table_reader(node, path)

    return read


def restart(node: Node, path: Path) -> Node:
    """no, always, unless-stopped, on-failure or on-failure:N."""
    word, colon, count = node_text(node).partition(":")
    if colon and word == "on-failure" and count.isascii() and count.isdigit() and len(count) < 10:
        return node
    if isinstance(node, Scalar) and node.value is False:  # `no` of YAML 1.1, written by tools that read it so
        return scalar("no", node.place)
    return choice("no", "always", "unless-stopped", "on-failure")(node, path)
