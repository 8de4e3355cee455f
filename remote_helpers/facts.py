"""The node's description, as the Engine and this machine tell it."""

from __future__ import annotations

import os
import platform


def own_facts() -> dict:
    """What is known without the Engine."""
    found = {"python": platform.python_version(), "kernel": os.uname().release}
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            found["boot_id"] = file.read().strip()
    except OSError:
        pass
    return found


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
