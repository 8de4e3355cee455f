"""Disk images of the machines, one a Debian suite: built once, cached by a hash of their recipe."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from .errors import LabError
from .host import Mirror, find_mirror, locked
from .paths import cache_dir
from .process import run
from .recipe import DISK_SIZE_BYTES, bootstrap, customize, recipe_hash

SUITES = ("bullseye", "trixie", "forky", "bookworm")  # in the order in which `mixed` deals them


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
        bootstrap(suite, mirror, rootfs)
        say("adding kernel modules and settings")
        customize(suite, rootfs)
        _extract_cli(rootfs, work / "cli")
        say("making the disk")
        image = work / "root.img"
        with image.open("wb") as file:
            file.truncate(DISK_SIZE_BYTES)
        run(
            [
                "mke2fs",
                "-q",
                "-t",
                "ext4",
                "-E",
                "root_owner=0:0,lazy_itable_init=1",
                "-m",
                "0",
                "-d",
                str(rootfs),
                str(image),
            ],
            timeout_s=300,
        )
        image.chmod(0o444)
        shutil.rmtree(rootfs)
        (work / "done").touch()
        if folder.exists():
            shutil.rmtree(folder)
        work.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


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
    wrapper.write_text(
        f'#!/bin/sh\nlib=${{0%/*}}/lib\nexec "$lib/{loader}" --library-path "$lib" "$lib/docker" "$@"\n'
    )
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
