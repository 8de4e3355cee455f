"""The lab as an Ansible inventory, which the manager reads."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Host:
    """One machine as the inventory tells of it."""

    name: str
    address: str
    suite: str
    fingerprint: str  # SHA256:… of its ed25519 host key


def write(path: Path, hosts: Sequence[Host], key: Path) -> None:
    """Write the inventory as YAML, whole or not at all."""
    lines = ["all:", "  hosts:"]
    for host in hosts:
        lines += [
            f"    {host.name}:",
            f"      ansible_host: {host.address}",
            "      ansible_user: root",
            f"      ansible_ssh_private_key_file: {json.dumps(str(key))}",
            f'      swarmsh_host_key: "{host.fingerprint}"',
            f"      swarmsh_labels: {{suite: {host.suite}}}",
        ]
    temporary = path.with_name(f"{path.name}.tmp{os.getpid()}")
    temporary.write_text("\n".join(lines) + "\n")
    temporary.rename(path)
