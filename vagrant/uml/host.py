"""What the lab needs of its host: packages, the Debian mirror it already uses, one build at a time."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .errors import LabError
from .paths import cache_dir
from .process import run

# What must be there, and the Debian package that brings it.
NEEDED = {
    "/usr/bin/linux.uml": "user-mode-linux",
    "/usr/bin/mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
    "ip": "iproute2",
    "ssh": "openssh-client",
    "nft": "nftables",
    "gcc": "gcc",
    "/usr/lib/x86_64-linux-gnu/libc.a": "libc6-dev",
}
SBIN_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Mirror:
    """The Debian archive that this host's apt uses."""

    uri: str
    signed_by: str  # a keyring's path, or "" for apt's trusted ones

    def source_line(self, suite: str) -> str:
        """A one-line apt source for the main component of `suite`."""
        options = f"[signed-by={self.signed_by}] " if self.signed_by else ""
        return f"deb {options}{self.uri} {suite} main"


def require_root() -> None:
    """Namespaces, taps and root file systems need root."""
    if os.geteuid() != 0:
        raise LabError(
            "the lab makes network namespaces and root file systems: it must run as root",
            "Use sudo, or a root shell.",
        )
    os.environ["PATH"] = f"{os.environ.get('PATH', '')}:{SBIN_PATH}"


def missing_packages() -> list[str]:
    """Names of the Debian packages that are needed and not there."""
    return sorted(
        {
            package
            for thing, package in NEEDED.items()
            if not (Path(thing).exists() if thing.startswith("/") else shutil.which(thing))
        }
    )


def ensure_packages() -> bool:
    """Install what is missing by apt; True if anything was."""
    missing = missing_packages()
    if not missing:
        return False
    if not shutil.which("apt-get"):
        raise LabError(
            f"this host lacks {', '.join(missing)}, and has no apt-get to install them",
            "The lab runs on Debian and its kin (amd64).",
        )
    apt_get(["update"])
    apt_get(["install", "-y", "--no-install-recommends", *missing])
    still = missing_packages()
    if still:
        raise LabError(f"apt-get installed {', '.join(still)}, but what they should bring is not there")
    return True


def apt_get(arguments: Sequence[str], *, timeout_s: float = 900.0) -> str:
    """Run apt-get without questions, waiting for another apt that is at work."""
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    return run(["apt-get", "-o", "DPkg::Lock::Timeout=300", *arguments], timeout_s=timeout_s, env=env)


def find_mirror(apt_dir: Path = Path("/etc/apt")) -> Mirror:
    """The Debian archive named by the host's apt sources, deb822 or one-line.

    SWARMSH_LAB_MIRROR (a URI) goes first, for hosts that are not Debian.
    """
    own = os.environ.get("SWARMSH_LAB_MIRROR")
    if own:
        return Mirror(own, "")
    parts = apt_dir / "sources.list.d"
    files = [*sorted(parts.glob("*.sources")), apt_dir / "sources.list", *sorted(parts.glob("*.list"))]
    for file in files:
        if file.is_file():
            parse = _parse_deb822 if file.suffix == ".sources" else _parse_one_line
            for mirror in parse(file.read_text()):
                return mirror
    raise LabError(
        f"no Debian archive is named in {apt_dir}/sources.list or sources.list.d",
        "Set SWARMSH_LAB_MIRROR to the URI of a Debian mirror.",
    )


def _is_archive(uri: str, suites: Sequence[str], components: Sequence[str]) -> bool:
    """A main archive rather than security, backports or a third party's."""
    return (
        re.search(r"/debian/?$", uri) is not None
        and "main" in components
        and any(re.fullmatch(r"[a-z]+", suite) for suite in suites)
    )


def _parse_deb822(text: str) -> Iterator[Mirror]:
    for stanza in re.split(r"\n\s*\n", re.sub(r"(?m)^#.*\n?", "", text)):
        fields: dict[str, str] = {}
        key = ""
        for line in stanza.splitlines():
            if line[:1].isspace():
                fields[key] = f"{fields.get(key, '')} {line.strip()}"
            elif ":" in line:
                key, _, value = line.partition(":")
                key = key.strip().lower()
                fields[key] = value.strip()
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() == "no":
            continue
        signed_by = fields.get("signed-by", "")
        for uri in fields.get("uris", "").split():
            if _is_archive(uri, fields.get("suites", "").split(), fields.get("components", "").split()):
                yield Mirror(uri, signed_by if signed_by.startswith("/") else "")


def _parse_one_line(text: str) -> Iterator[Mirror]:
    for line in text.splitlines():
        match = re.match(r"deb\s+(?:\[([^]]*)\]\s+)?(\S+)\s+(\S+)\s+([^#]+)", line.strip())
        if match and _is_archive(match[2], [match[3]], match[4].split()):
            options = dict(part.split("=", 1) for part in (match[1] or "").split() if "=" in part)
            yield Mirror(match[2], options.get("signed-by", ""))


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock file; another holder is waited for (it ends, or dies and frees it)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def unpack_package(*names: str) -> Path:
    """A folder with the files of Debian packages, downloaded by apt and unpacked but not installed.

    Nothing of them is configured or started on the host. Cached under the first one's name.
    """
    folder = cache_dir() / "packages" / names[0]
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(cache_dir() / "packages.lock"), tempfile.TemporaryDirectory(dir=folder.parent) as work:
        if folder.exists():
            return folder
        os.chmod(work, 0o755)  # apt downloads as another user
        _download(names, work)
        tree = Path(work) / "tree"
        tree.mkdir()
        for archive in sorted(Path(work).glob("*.deb")):
            run(["dpkg-deb", "-x", str(archive), str(tree)])
        tree.rename(folder)
    return folder


def _download(names: Sequence[str], folder: str) -> None:
    argv = ["apt-get", "-o", "APT::Sandbox::User=root", "download", *names]
    try:
        run(argv, timeout_s=300, cwd=folder)
    except LabError:
        apt_get(["update"])  # lists that are old or missing
        run(argv, timeout_s=300, cwd=folder)
