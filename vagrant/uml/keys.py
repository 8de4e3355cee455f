"""SSH keys, and the seed disk that gives a machine its own name, keys and address."""

from __future__ import annotations

import io
import tarfile
import uuid
from dataclasses import dataclass
from pathlib import Path

from .network import ADMIN_ADDRESS, ADMIN_MAC, HOST_ADDRESS, PREFIX_BITS
from .process import run


@dataclass(frozen=True, slots=True)
class KeyPair:
    """An OpenSSH ed25519 key pair as text."""

    private: str
    public: str


def ensure_key(path: Path, comment: str) -> KeyPair:
    """The key pair at `path` and `path`.pub, made if missing."""
    public = path.with_name(path.name + ".pub")
    if not (path.exists() and public.exists()):
        path.unlink(missing_ok=True)
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)])
    return KeyPair(path.read_text(), public.read_text())


def fingerprint(public_key_file: Path) -> str:
    """The `SHA256:…` fingerprint of a public key file."""
    return run(["ssh-keygen", "-l", "-f", str(public_key_file)]).split()[1]


def write_seed(
    path: Path, *, name: str, address: str, host_key: KeyPair, login_key: KeyPair, hosts: dict[str, str]
) -> None:
    """Write the tar that is a machine's second disk; `hosts` maps machine names to addresses."""
    aliases = "".join(f"{addr} {host}\n" for host, addr in sorted(hosts.items()))
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        _add(tar, "etc/hostname", f"{name}\n")
        _add(tar, "etc/hosts", f"127.0.0.1 localhost\n{aliases}")
        _add(tar, "etc/machine-id", f"{uuid.uuid4().hex}\n", 0o444)
        _add(tar, "etc/ssh/ssh_host_ed25519_key", host_key.private, 0o600)
        _add(tar, "etc/ssh/ssh_host_ed25519_key.pub", host_key.public)
        _add(
            tar,
            "etc/swarmsh-lab/network",
            f"ADDRESS={address}/{PREFIX_BITS}\nGATEWAY={HOST_ADDRESS}\n"
            f"ADMIN_ADDRESS={ADMIN_ADDRESS}\nADMIN_MAC={ADMIN_MAC}\n",
        )
        for home, owner in (("root", 0), ("home/ops", 1000)):
            _add_folder(tar, f"{home}/.ssh", owner)
            _add(tar, f"{home}/.ssh/authorized_keys", login_key.public, 0o600, owner)


def _add(tar: tarfile.TarFile, name: str, text: str, mode: int = 0o644, owner: int = 0) -> None:
    data = text.encode()
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.uid, entry.gid = len(data), mode, owner, owner
    tar.addfile(entry, io.BytesIO(data))


def _add_folder(tar: tarfile.TarFile, name: str, owner: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.uid, entry.gid = tarfile.DIRTYPE, 0o700, owner, owner
    tar.addfile(entry)
