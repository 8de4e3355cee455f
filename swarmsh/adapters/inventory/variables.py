"""The variables that are understood, each read into its own type; errors name file, line and key."""

from __future__ import annotations

import base64
import binascii
import difflib
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from swarmsh.adapters.inventory.names import nearest
from swarmsh.adapters.inventory.records import RawInventory, RawValue
from swarmsh.errors import InventoryError
from swarmsh.model.states import Availability

# Ansible's older names for the same, as it still reads them.
ALIASES = {
    "ansible_ssh_host": "ansible_host",
    "ansible_ssh_port": "ansible_port",
    "ansible_ssh_user": "ansible_user",
    "ansible_private_key_file": "ansible_ssh_private_key_file",
}
KNOWN = (
    "ansible_host",
    "ansible_port",
    "ansible_user",
    "ansible_ssh_private_key_file",
    "ansible_become",
    "ansible_python_interpreter",
    "ansible_ssh_common_args",
    "ansible_ssh_extra_args",
    "swarmsh_labels",
    "swarmsh_availability",
    "swarmsh_underlay",
    "swarmsh_host_key",
    "swarmsh_jump_host_key",
)
# They change how a host is reached in ways that we cannot follow; silence would surprise later.
_REFUSED = {
    "ansible_password": "Log in with a key: ssh-copy-id puts it there",
    "ansible_ssh_pass": "Log in with a key: ssh-copy-id puts it there",
    "ansible_become_password": "Let the user run sudo without a password (NOPASSWD in sudoers)",
    "ansible_become_pass": "Let the user run sudo without a password (NOPASSWD in sudoers)",
    "ansible_ssh_args": "Give ProxyJump in ansible_ssh_common_args; the rest is swarmsh's own choice",
}
# Accepted with these values only.
_FIXED = {
    "ansible_connection": ("ssh", "smart", "paramiko", "ansible.builtin.ssh"),
    "ansible_become_method": ("sudo", "ansible.builtin.sudo"),
    "ansible_become_user": ("root",),
}
# Real ones that look like ours, and do not concern us.
_OTHERS_OF_ANSIBLE = ("ansible_sftp_extra_args", "ansible_scp_extra_args", "ansible_ssh_host_key_checking")
_NOT_FOR_HOSTS = tuple(map(IPv4Network, ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3")))  # RFC 6890
_KEY_KIND = re.compile(r"^(ssh-|ecdsa-sha2-|sk-)[\w@.-]+$")
_LABEL = re.compile(r"^[A-Za-z0-9_]([A-Za-z0-9_.\-/]*[A-Za-z0-9_])?$")


@dataclass(frozen=True, slots=True)
class Jump:
    """One host of ProxyJump, as written."""

    host: str
    user: str | None
    port: int | None


def check_keys(inventory: RawInventory, variables: Mapping[str, RawValue]) -> None:
    """Refuse what would be silently wrong: misspelt keys, and ways to connect that we do not have."""
    for key, found in variables.items():
        if key in KNOWN or key in ALIASES:
            continue
        if key in _REFUSED:
            raise inventory.not_yet(found.line, key, _REFUSED[key])
        if key in _FIXED:
            if found.value not in _FIXED[key]:
                raise inventory.not_yet(found.line, f"{key}={found.value}", f"Only {_FIXED[key][0]} is understood")
            continue
        if key.startswith("swarmsh_"):
            hint = f"Known are {', '.join(k for k in KNOWN if k.startswith('swarmsh_'))}"
            raise inventory.error(found.line, f"there is no {key}{nearest(key, KNOWN)}", hint)
        # Anything else may be a variable of the user's playbooks, unless it is one letter off.
        meant = difflib.get_close_matches(key, [*KNOWN, *ALIASES], 1, 0.9)
        if meant and key not in _OTHERS_OF_ANSIBLE:
            raise inventory.error(found.line, f"there is no {key}; did you mean {meant[0]}?")


class Variables:
    """Typed access to one host's merged variables."""

    def __init__(self, inventory: RawInventory, host: str, line: int, found: Mapping[str, RawValue]) -> None:
        self._inventory = inventory
        self._host = host
        self._line = line
        self._found = {ALIASES.get(key, key): value for key, value in found.items()}

    def line(self, key: str) -> int:
        return self._found[key].line if key in self._found else self._line

    def error(self, key: str, message: str, hint: str = "") -> InventoryError:
        return self._inventory.error(self.line(key), f"{key} of {self._host}: {message}", hint)

    def _get(self, key: str) -> Any:
        raw = self._found.get(key)
        value = None if raw is None else raw.value
        if isinstance(value, str) and ("{{" in value or "{%" in value):
            raise self._inventory.not_yet(self.line(key), f"{key} of {self._host}: a template", "Write the value")
        return value

    def text(self, key: str, default: str) -> str:
        value = self._get(key)
        if value is None:
            return default
        if isinstance(value, (dict, list, bool)) or not str(value).strip():
            raise self.error(key, f"must be text, not {value!r}")
        return str(value).strip()

    def port(self, key: str, default: int) -> int:
        value = self._get(key)
        if value is None:
            return default
        return self._port(key, value)

    def _port(self, key: str, value: object) -> int:
        if isinstance(value, bool) or not str(value).isdigit() or not 0 < int(str(value)) < 65536:
            raise self.error(key, f"must be a port from 1 to 65535, not {value!r}")
        return int(str(value))

    def flag(self, key: str, default: bool) -> bool:
        value = self._get(key)
        if value is None:
            return default
        word = str(value).lower()
        if word in ("yes", "true", "on", "1", "y", "t"):
            return True
        if word in ("no", "false", "off", "0", "n", "f"):
            return False
        raise self.error(key, f"must be yes or no, not {value!r}")

    def availability(self) -> Availability:
        value = self.text("swarmsh_availability", Availability.ACTIVE.value)
        try:
            return Availability(value)
        except ValueError as e:
            words = [a.value for a in Availability]
            raise self.error(
                "swarmsh_availability", f"must be {', '.join(words)}, not {value!r}{nearest(value, words)}"
            ) from e

    def underlay(self) -> str:
        value = self.text("swarmsh_underlay", "")
        try:
            usable = not value or not any(IPv4Address(value) in block for block in _NOT_FOR_HOSTS)
        except AddressValueError:
            usable = False
        if not usable:
            raise self.error(
                "swarmsh_underlay",
                f"must be the IPv4 address by which the other nodes reach it, not {value!r}",
            )
        return value

    def identity_files(self) -> tuple[str, ...]:
        """`~` is the user's home; a relative path is relative to the inventory's folder."""
        value = self.text("ansible_ssh_private_key_file", "")
        if not value:
            return ()
        return (str(self._inventory.file.parent.absolute() / Path(value).expanduser()),)

    # --- labels and pins ---
    def host_keys(self) -> tuple[str, ...]:
        return self._pins("swarmsh_host_key", self._get("swarmsh_host_key"))

    def jump_host_keys(self) -> dict[str, tuple[str, ...]] | tuple[str, ...]:
        """By the name of the jump host, or bare if there is but one."""
        key = "swarmsh_jump_host_key"
        value = self._get(key)
        if isinstance(value, str) and "=" in value:
            words = [w.strip() for w in value.split(",")]
            if all("=" in w and not _is_pin(w) for w in words):
                value = dict(w.split("=", 1) for w in words)
        if isinstance(value, dict):
            return {str(name): self._pins(key, pins) for name, pins in value.items()}
        return self._pins(key, value)

    def _pins(self, key: str, value: object) -> tuple[str, ...]:
        if value is None:
            return ()
        words = value if isinstance(value, list) else str(value).split(",")
        return tuple(self._pin(key, str(word).strip()) for word in words)

    def _pin(self, key: str, word: str) -> str:
        if word.upper().startswith("MD5:"):
            raise self.error(key, "MD5 fingerprints are too weak", "Take the one that `ssh-keygen -lf` prints")
        if word.startswith("SHA256:"):
            if re.fullmatch(r"[A-Za-z0-9+/]{43}=?", word[7:]):
                return word.rstrip("=")
            raise self.error(key, f"{word} is no whole fingerprint", "SHA256: is followed by 43 characters")
        if _is_pin(word):
            return " ".join(word.split()[:2])
        raise self.error(
            key,
            f"neither a fingerprint nor a public key: {word[:60]!r}",
            'Give "SHA256:…" as `ssh-keygen -lf` prints it, or the line of the host\'s ssh_host_*_key.pub',
        )

    # --- jump hosts ---
    def jumps(self) -> tuple[Jump, ...]:
        """From -J or -o ProxyJump; any other argument of ssh is refused by name."""
        found: tuple[Jump, ...] = ()
        for key in ("ansible_ssh_common_args", "ansible_ssh_extra_args"):
            value = self.text(key, "") if self._get(key) not in (None, "") else ""
            for written in self._proxy_jumps(key, value):
                parts = [] if written.lower() == "none" else written.split(",")
                found = tuple(self._jump(key, part.strip()) for part in parts)
        return found

    def _proxy_jumps(self, key: str, value: str) -> list[str]:
        try:
            words = shlex.split(value)
        except ValueError as e:
            raise self.error(key, f"cannot be read: {e}") from e
        found: list[str] = []
        while words:
            word = words.pop(0)
            flag, rest = word[:2], word[2:]
            if flag in ("-J", "-o") and not rest and words:
                rest = words.pop(0)
            option, equals, given = rest.partition("=")
            if flag == "-J" and rest:
                found.append(rest)
            elif flag == "-o" and equals and option.strip().lower() == "proxyjump":
                found.append(given.strip())
            else:
                name = f"-o {option}" if flag == "-o" and rest else word
                raise self._inventory.not_yet(
                    self.line(key),
                    f"{key} of {self._host}: {name}",
                    "Understood are -J and -o ProxyJump=user@host:port; swarmsh_host_key pins host keys",
                )
        return found

    def _jump(self, key: str, written: str) -> Jump:
        rest = written.removeprefix("ssh://").rstrip("/")
        user, at, rest = rest.rpartition("@")
        host, port = rest, ""
        if rest.startswith("["):
            host, _, port = rest[1:].partition("]")
            port = port.removeprefix(":")
        elif rest.count(":") == 1:
            host, port = rest.split(":")
        if not host or (at and not user):
            raise self.error(key, f"no jump host: {written!r}", "Write user@host:port")
        return Jump(host, user or None, self._port(key, port) if port else None)


def read_labels(inventory: RawInventory, host: str, found: RawValue) -> dict[str, str]:
    """A mapping, or `a=b,c=d`. Values become text as Docker's labels are."""
    value = found.value
    where = f"swarmsh_labels of {host}"
    if isinstance(value, str):
        pairs: dict[str, Any] = {}
        for word in filter(None, (w.strip() for w in value.split(","))):
            key, equals, label = word.partition("=")
            if not equals:
                raise inventory.error(found.line, f"{where}: expected a=b,c=d, found {word!r}")
            pairs[key.strip()] = label.strip()
        value = pairs
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise inventory.error(found.line, f"{where} must be a mapping, or text like a=b,c=d")
    labels: dict[str, str] = {}
    for key, label in value.items():
        if not _LABEL.match(str(key)):
            raise inventory.error(found.line, f"{where}: {key!r} is no name for a label")
        if isinstance(label, (dict, list)):
            raise inventory.error(found.line, f"{where}: the value of {key} must be text")
        labels[str(key)] = "" if label is None else str(label).lower() if isinstance(label, bool) else str(label)
    return labels


def _is_pin(word: str) -> bool:
    """Whether it has the form of a fingerprint, or of a public key line whose parts agree (RFC 4253, 6.6)."""
    if word.startswith("SHA256:"):
        return True
    kind, _, rest = word.partition(" ")
    if not _KEY_KIND.match(kind) or not rest.strip():
        return False
    try:
        blob = base64.b64decode(rest.split()[0], validate=True)
    except (binascii.Error, ValueError):
        return False
    length = int.from_bytes(blob[:4])
    return blob[4 : 4 + length] == kind.encode()
