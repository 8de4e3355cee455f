"""Disk images of the machines, one a Debian suite: built once, cached by a hash of their recipe."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from .compile import ensure_program
from .errors import LabError
from .host import Mirror, find_mirror, locked
from .paths import VAGRANT_DIR, cache_dir
from .process import run

SUITES = ("bullseye", "trixie", "forky", "bookworm")  # in the order in which `mixed` deals them
DISK_SIZE_BYTES = 4 << 30
PACKAGES = (
    "systemd-sysv,udev,dbus,docker.io,crun,openssh-server,iproute2,iptables,nftables,ipvsadm,kmod,procps,"
    "python3,ca-certificates,iputils-ping,tcpdump,busybox-static,curl,conntrack,sudo"
).split(",")
SEPARATE_CLI = {"trixie", "forky"}  # their docker.io package has no client any more
MASKED = (
    "apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer "
    "e2scrub_reap.service getty@tty1.service getty.target console-getty.service systemd-timesyncd.service "
    "systemd-logind.service systemd-udev-trigger.service systemd-update-utmp.service "
    "systemd-update-utmp-runlevel.service systemd-journal-flush.service systemd-journal-catalog-update.service "
    "systemd-tmpfiles-clean.timer systemd-pstore.service systemd-random-seed.service "
    "systemd-machine-id-commit.service systemd-firstboot.service systemd-hwdb-update.service "
    "systemd-binfmt.service systemd-network-generator.service sshd-keygen.service ipvsadm.service "
    "kmod-static-nodes.service ldconfig.service systemd-update-done.service systemd-hibernate-clear.service "
    "systemd-repart.service systemd-pcrphase.service systemd-pcrphase-sysinit.service dev-hugepages.mount "
    "sys-kernel-debug.mount sys-kernel-tracing.mount "
    "systemd-boot-update.service systemd-tpm2-setup.service systemd-tpm2-setup-early.service "
    "systemd-sysusers.service modprobe@configfs.service modprobe@dm_mod.service modprobe@fuse.service "
    "modprobe@loop.service modprobe@drm.service modprobe@efi_pstore.service sys-fs-fuse-connections.mount "
    "sys-kernel-config.mount getty-static.service"
).split()


def ensure_image(suite: str, say: Callable[[str], None]) -> Path:
    """The root disk of `suite`, built if this recipe never was. Two labs do not build it twice."""
    mirror = find_mirror()
    folder = _image_dir(suite, mirror)
    if (folder / "done").exists():
        return folder / "root.img"
    with locked(cache_dir() / f"{suite}.lock"):
        if not (folder / "done").exists():
            _build(suite, mirror, folder, say)
        _forget_older(suite, keep=folder)
    return folder / "root.img"


def docker_cli(suite: str, say: Callable[[str], None]) -> Path:
    """The path of an executable docker CLI of `suite` that runs on this host, whatever its libc."""
    return ensure_image(suite, say).parent / "cli" / "docker"


def recipe_hash(suite: str, mirror: Mirror) -> str:
    """A short hash of all that makes an image what it is, except the day's state of the archive."""
    recipe = hashlib.sha256(repr((suite, mirror.uri, PACKAGES, MASKED, DISK_SIZE_BYTES, kernel_version())).encode())
    recipe.update(Path(__file__).read_bytes())
    files = [VAGRANT_DIR / "images/modprobe/modprobe.c", *(VAGRANT_DIR / "guest").rglob("*")]
    for file in sorted(p for p in files if p.is_file()):
        recipe.update(str(file.relative_to(VAGRANT_DIR)).encode() + b"\0" + file.read_bytes())
    return recipe.hexdigest()[:16]


def kernel_version() -> str:
    """The version of the host's user-mode-linux package, for example 6.1.176."""
    return run(["/usr/bin/linux.uml", "--version"]).strip()


def _image_dir(suite: str, mirror: Mirror) -> Path:
    return cache_dir() / f"{suite}-{recipe_hash(suite, mirror)}"


def _build(suite: str, mirror: Mirror, folder: Path, say: Callable[[str], None]) -> None:
    """Build in a temporary folder, then rename: a cut-off build leaves nothing that looks whole."""
    cache = cache_dir()
    for stale in cache.glob(f"tmp-{suite}-*"):  # of a build that was killed; we hold the lock
        shutil.rmtree(stale)
    work = Path(tempfile.mkdtemp(prefix=f"tmp-{suite}-", dir=cache))
    os.chmod(work, 0o755)
    try:
        rootfs = work / "rootfs"
        say("fetching and installing Debian packages")
        _bootstrap(suite, mirror, rootfs)
        say("adding kernel modules and settings")
        _customize(suite, rootfs)
        _extract_cli(rootfs, work / "cli")
        say("making the disk")
        image = work / "root.img"
        with image.open("wb") as file:
            file.truncate(DISK_SIZE_BYTES)
        run(["mke2fs", "-q", "-t", "ext4", "-E", "root_owner=0:0,lazy_itable_init=1", "-m", "0",
             "-d", str(rootfs), str(image)], timeout_s=300)
        image.chmod(0o444)
        shutil.rmtree(rootfs)
        (work / "done").touch()
        if folder.exists():
            shutil.rmtree(folder)
        work.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _bootstrap(suite: str, mirror: Mirror, rootfs: Path) -> None:
    packages = [*PACKAGES, *(["docker-cli"] if suite in SEPARATE_CLI else [])]
    run(["/usr/bin/mmdebstrap", "--mode=root", "--variant=minbase", "--format=directory", "--quiet",
         # Suites without a valid-until that covers today (archived or frozen mirrors) are fine here.
         "--aptopt=Acquire::Check-Valid-Until \"false\"",
         "--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/doc/*",
         "--dpkgopt=path-exclude=/usr/share/locale/*",
         f"--include={','.join(packages)}", suite, str(rootfs), mirror.source_line(suite)], timeout_s=1500)


def _customize(suite: str, rootfs: Path) -> None:
    version = kernel_version()
    shutil.copytree(f"/usr/lib/uml/modules/{version}", rootfs / "lib/modules" / version, symlinks=True)
    run(["chroot", str(rootfs), "depmod", version])
    run(["chroot", str(rootfs), "useradd", "--create-home", "--uid", "1000", "--shell", "/bin/bash", "ops"])
    for tool in ("iptables", "ip6tables"):  # the user-mode kernel has no nftables ip family
        run(["chroot", str(rootfs), "update-alternatives", "--set", tool, f"/usr/sbin/{tool}-legacy"])
    shutil.copytree(VAGRANT_DIR / "guest", rootfs, dirs_exist_ok=True, symlinks=True)
    _own_by_root(rootfs)
    if suite == "bullseye":
        shutil.copy(ensure_program("modprobe/modprobe.c"), rootfs / "usr/sbin/lab-modprobe")
        (rootfs / "etc/sysctl.d/lab.conf").write_text("kernel.modprobe = /usr/sbin/lab-modprobe\n")
    for key in (rootfs / "etc/ssh").glob("ssh_host_*"):
        key.unlink()
    for unit in MASKED:
        link = rootfs / "etc/systemd/system" / unit
        link.unlink(missing_ok=True)
        link.symlink_to("/dev/null")
    (rootfs / "etc/swarmsh-lab").mkdir()
    (rootfs / "etc/machine-id").write_text("")
    (rootfs / "etc/fstab").write_text("")
    (rootfs / "etc/resolv.conf").unlink(missing_ok=True)
    (rootfs / "etc/resolv.conf").write_text("nameserver 10.98.0.1\n")
    # The image's packages are final: apt in a machine has nowhere to go.
    (rootfs / "etc/apt/sources.list").write_text("")
    for cache in ("var/cache/apt", "var/lib/apt/lists"):
        shutil.rmtree(rootfs / cache, ignore_errors=True)


def _own_by_root(rootfs: Path) -> None:
    """The checkout's owner need not be root, but what it gave to the image must be."""
    for source in (VAGRANT_DIR / "guest").rglob("*"):
        target = rootfs / source.relative_to(VAGRANT_DIR / "guest")
        os.chown(target, 0, 0, follow_symlinks=False)
        if source.is_dir():
            target.chmod(0o755)
        elif "sudoers.d" in source.parts:
            target.chmod(0o440)
        else:
            target.chmod(0o755 if os.access(source, os.X_OK) and "sbin" in source.parts else 0o644)


def _extract_cli(rootfs: Path, folder: Path) -> None:
    """Take the docker client out with its own loader and libraries, so that it runs on any libc."""
    listing = run(["chroot", str(rootfs), "ldd", "/usr/bin/docker"])
    libraries = re.findall(r"(?:=>\s+)?(/\S+)\s+\(0x", listing)
    if not libraries:
        raise LabError(f"the docker client in {rootfs} names no libraries:\n{listing}")
    (folder / "lib").mkdir(parents=True)
    for library in libraries:
        source = _inside(rootfs, library)
        shutil.copy(source, folder / "lib" / Path(library).name)
    shutil.copy(rootfs / "usr/bin/docker", folder / "lib" / "docker")
    loader = next(Path(lib).name for lib in libraries if Path(lib).name.startswith("ld-linux"))
    wrapper = folder / "docker"
    wrapper.write_text('#!/bin/sh\nlib=${0%/*}/lib\n'
                       f'exec "$lib/{loader}" --library-path "$lib" "$lib/docker" "$@"\n')
    for file in (wrapper, folder / "lib" / loader, folder / "lib" / "docker"):
        file.chmod(0o755)


def _inside(rootfs: Path, path: str) -> Path:
    """Resolve `path` as a process whose root is `rootfs` would."""
    return rootfs / run(["chroot", str(rootfs), "readlink", "-f", path]).strip().lstrip("/")


def _forget_older(suite: str, keep: Path) -> None:
    """Drop older recipes' images unless a machine still stands on one (its COW needs the base)."""
    for old in cache_dir().glob(f"{suite}-*"):
        if old != keep and old.is_dir() and not _in_use(old / "root.img"):
            shutil.rmtree(old)


def _in_use(image: Path) -> bool:
    users = image.parent / "users"
    return users.is_dir() and any(Path(os.readlink(link)).exists() for link in users.iterdir())


def claim(base: Path, user: str, folder: Path) -> None:
    """Note that a machine's disk stands on this image, so that it is kept as long as `folder` exists."""
    users = base.parent / "users"
    users.mkdir(exist_ok=True)
    link = users / user
    link.unlink(missing_ok=True)
    link.symlink_to(folder)


def release(tag: str) -> None:
    """Forget the notes of one lab's machines."""
    for link in cache_dir().glob(f"*/users/{tag}-n*"):
        link.unlink(missing_ok=True)
