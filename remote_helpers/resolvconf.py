"""The /etc/resolv.conf of tasks on networks of ours: they ask our name server, not the Engine's.

The Engine's own resolver (127.0.0.11) answers by itself what is in any network of the container, and all tasks
of a node share `swgw`. So it would tell one stack the names of another's containers and hosts (20.10, 26.1 and
28.5 list them there alike) before our server is asked. A file mounted there takes the place of the Engine's (moby,
container/container_unix.go, TrySetNetworkMount).
"""

from __future__ import annotations

import hashlib
import os

PLACE = "/etc/resolv.conf"
NODES_OWN = "/etc/resolv.conf"
_SELINUX = "/sys/fs/selinux/enforce"
_LABEL = b"system_u:object_r:container_file_t:s0\0"  # what containers may read


def servers_of(config: dict) -> tuple:
    """The name servers that the config of a container names."""
    return tuple((config.get("HostConfig") or {}).get("Dns") or ())


def content(server: str, host: dict, nodes_own: str) -> str:
    """The file that names our server, with search list and options of a HostConfig as the Engine makes them.

    Where none are given they are those of the node's file, and names without a dot are asked for as they are.
    """
    search = [name for name in host.get("DnsSearch") or _words(nodes_own, "search") if name != "."]
    options = list(host.get("DnsOptions") or _words(nodes_own, "options"))
    if not any(option.startswith("ndots:") for option in options):
        options.append("ndots:0")
    lines = [f"search {' '.join(search)}"] if search else []
    return "\n".join([f"nameserver {server}", *lines, f"options {' '.join(options)}", ""])


def _words(text: str, key: str) -> list:
    """The words after the last line with this key (resolv.conf(5))."""
    found: list = []
    for line in text.splitlines():
        words = line.split()
        if words and words[0] == key:
            found = words[1:]
    return found


def has_own(host: dict) -> bool:
    """Whether the task's spec mounts a file there itself."""
    binds = [bind.split(":")[1:2] for bind in host.get("Binds") or ()]
    return [PLACE] in binds or any(one.get("Target") == PLACE for one in host.get("Mounts") or ())


def with_file(body: dict, root: str, server: str) -> dict:
    """The body of a create with the mount of its file, which is made if it is not there. Raises OSError.

    Servers in `Dns` are asked by ours for what it does not know. A body that has a mount there is left as it is.
    """
    host = body.get("HostConfig") or {}
    if not server or has_own(host):
        return body
    try:
        with open(NODES_OWN, encoding="utf-8", errors="replace") as file:
            text = content(server, host, file.read(65536))
    except OSError:
        text = content(server, host, "")
    mount = {"Type": "bind", "Source": _keep(root, text), "Target": PLACE, "ReadOnly": True}
    return {**body, "HostConfig": {**host, "Mounts": [*(host.get("Mounts") or ()), mount]}}


def _keep(root: str, text: str) -> str:
    """The path of a file with this content. It is named by it: tasks share it, and none ever changes."""
    folder = f"{root}/resolv"
    path = f"{folder}/{hashlib.sha256(text.encode()).hexdigest()[:16]}.conf"
    if not os.path.exists(path):
        os.makedirs(folder, mode=0o700, exist_ok=True)
        with open(path + ".new", "w", encoding="utf-8") as file:
            file.write(text)
            os.fchmod(file.fileno(), 0o644)  # for whatever user the task has
        if os.path.exists(_SELINUX):
            os.setxattr(path + ".new", "security.selinux", _LABEL)
        os.rename(path + ".new", path)
    return path
