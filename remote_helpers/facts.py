"""The node's description, as the Engine and this machine tell it."""

from __future__ import annotations

import os
import platform
import socket
import struct

ROUTES = "/proc/net/route"
_UP, _REJECT = 0x1, 0x200  # linux: include/uapi/linux/route.h
_SIOCGIFCONF = 0x8912  # netdevice(7)
_IFREQ = 16 + 2 * struct.calcsize("P") + 8  # a name, and a union whose largest member is `struct ifmap`
_MOST_ADDRESSES = 256


def own_facts() -> dict:
    """What is known without the Engine."""
    found = {"python": platform.python_version(), "kernel": os.uname().release}
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            found["boot_id"] = file.read().strip()
    except OSError:
        pass
    try:
        with open(ROUTES, encoding="ascii") as file:
            found["routes"] = parse_routes(file.read())
    except OSError:
        pass
    try:
        found["mtus"] = own_mtus()
    except OSError:
        pass
    return found


def own_mtus() -> list:
    """`[["10.98.0.12", 1500]]`: the node's IPv4 addresses but for loopback and ours, with their devices' MTUs."""
    # Imported here: the helper asks once for each time that the Engine was away.
    import array
    import fcntl

    room = array.array("B", bytes(_MOST_ADDRESSES * _IFREQ))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        asked = bytearray(struct.pack("iP", len(room), room.buffer_info()[0]))
        fcntl.ioctl(sock, _SIOCGIFCONF, asked)
    found = set()
    for device, address in parse_addresses(room.tobytes()[: struct.unpack_from("i", asked)[0]]):
        if device == "lo" or is_ours(device):
            continue
        try:
            with open(f"/sys/class/net/{device}/mtu", encoding="ascii") as file:
                found.add((address, int(file.read())))
        except OSError:
            pass  # it went
    return [list(one) for one in sorted(found)]


def parse_addresses(answer: bytes) -> list:
    """(device, address) of each `struct ifreq` that SIOCGIFCONF gives, second addresses of a device too."""
    found = []
    for at in range(0, len(answer), _IFREQ):
        label = answer[at : at + 16].partition(b"\0")[0].decode("ascii", "replace")
        # The name of an address may have the device's and a number: eth0:1.
        found.append((label.partition(":")[0], socket.inet_ntoa(answer[at + 20 : at + 24])))
    return found


def parse_routes(text: str) -> list:
    """Subnets in CIDR of /proc/net/route (the main table, IPv4) that are reached without us; sorted, each once.

    A network of ours must not overlap them. The default route is none, Docker's own bridges are.
    """
    found = set()
    for line in text.splitlines()[1:]:
        words = line.split()
        if len(words) < 8 or is_ours(words[0]):
            continue
        destination, flags, mask = int(words[1], 16), int(words[3], 16), int(words[7], 16)
        if mask and flags & _UP and not flags & _REJECT:
            found.add((struct.pack("=I", destination), bin(mask).count("1")))
    return [f"{socket.inet_ntoa(packed)}/{length}" for packed, length in sorted(found)]


def is_ours(device: str) -> bool:
    """Whether a device is one of our networks', by its name: `net/numbers.py` is not loaded for this."""
    if device in ("swgw0", "swgwv", "swlo0", "swlo1"):
        return True
    digits = device[2:]
    return device[:2] in ("sb", "sv") and 4 <= len(digits) <= 6 and not digits.strip("0123456789abcdef")


def from_info(info: dict, version: dict) -> dict:
    """The Engine's part, of `GET /info` and `GET /version`."""
    labels = dict(_pair(label) for label in info.get("Labels") or ())
    plugins = [
        [kind, name] for kind, names in sorted((info.get("Plugins") or {}).items()) for name in sorted(names or ())
    ]
    return {
        "hostname": info.get("Name", ""),
        "architecture": info.get("Architecture", ""),
        "os": info.get("OSType", "linux"),
        "nano_cpus": int(info.get("NCPU") or 0) * 1_000_000_000,
        "memory_bytes": int(info.get("MemTotal") or 0),
        "generic_resources": [_generic(one) for one in info.get("GenericResources") or ()],
        "engine_version": info.get("ServerVersion", ""),
        "engine_api": version.get("ApiVersion", ""),
        "engine_labels": labels,
        "plugins": plugins,
    }


def _pair(label: str) -> tuple:
    key, _, value = label.partition("=")
    return key, value


def _generic(one: dict) -> list:
    """`["gpu", "UUID1"]` for a named resource, `["ssd", 3]` for a count."""
    spec = one.get("NamedResourceSpec") or one.get("DiscreteResourceSpec") or {}
    return [spec.get("Kind", ""), spec.get("Value", 0)]
