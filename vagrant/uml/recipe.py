"""What is in a machine's root file system. Whatever changes here makes new images; nothing else does."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from .compile import ensure_program
from .host import Mirror
from .paths import VAGRANT_DIR
from .process import run

DISK_SIZE_BYTES = 4 << 30
# fmt: off
PACKAGES = (
    "systemd-sysv", "udev", "dbus", "docker.io", "crun", "openssh-server", "iproute2", "iptables",
    "nftables", "ipvsadm", "kmod", "procps", "python3", "ca-certificates", "iputils-ping", "tcpdump",
    "busybox-static", "curl", "conntrack", "sudo",
)
# fmt: on
SEPARATE_CLI = {"trixie", "forky"}  # their docker.io package has no client any more
# fmt: off
MASKED = (
    "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer",
    "fstrim.timer", "e2scrub_reap.service", "getty@tty1.service", "getty.target", "console-getty.service",
    "systemd-timesyncd.service", "systemd-logind.service", "systemd-udev-trigger.service",
    "systemd-update-utmp.service", "systemd-update-utmp-runlevel.service", "systemd-journal-flush.service",
    "systemd-journal-catalog-update.service", "systemd-tmpfiles-clean.timer", "systemd-pstore.service",
    "systemd-random-seed.service", "systemd-machine-id-commit.service", "systemd-firstboot.service",
    "systemd-hwdb-update.service", "systemd-binfmt.service", "systemd-network-generator.service",
    "sshd-keygen.service", "ipvsadm.service", "systemd-udev-load-credentials.service",
    "systemd-logind-varlink.socket", "run-lock.mount", "kmod-static-nodes.service", "ldconfig.service",
    "systemd-update-done.service", "systemd-hibernate-clear.service", "systemd-repart.service",
    "systemd-pcrphase.service", "systemd-pcrphase-sysinit.service", "dev-hugepages.mount",
    "sys-kernel-debug.mount", "sys-kernel-tracing.mount", "systemd-boot-update.service",
    "systemd-tpm2-setup.service", "systemd-tpm2-setup-early.service", "systemd-sysusers.service",
    "modprobe@configfs.service", "modprobe@dm_mod.service", "modprobe@fuse.service",
    "modprobe@loop.service", "modprobe@drm.service", "modprobe@efi_pstore.service",
    "sys-fs-fuse-connections.mount", "sys-kernel-config.mount", "getty-static.service",
)
# fmt: on


def recipe_hash(suite: str, mirror: Mirror) -> str:
    """A short hash of all that makes an image what it is, except the day's state of the archive."""
    recipe = hashlib.sha256(repr((suite, mirror.uri, kernel_version())).encode())
    files = [Path(__file__), *(p for p in (VAGRANT_DIR / "guest").rglob("*") if p.is_file())]
    if suite == "bullseye":
        files.append(VAGRANT_DIR / "images/modprobe/modprobe.c")
    for file in sorted(files):
        recipe.update(str(file.relative_to(VAGRANT_DIR)).encode() + b"\0" + file.read_bytes())
    return recipe.hexdigest()[:16]


def kernel_version() -> str:
    """The version of the host's user-mode-linux package, for example 6.1.176."""
    return run(["/usr/bin/linux.uml", "--version"]).strip()


def bootstrap(suite: str, mirror: Mirror, rootfs: Path) -> None:
    """Install Debian into the folder `rootfs`, which must not exist."""
    packages = [*PACKAGES, *(["docker-cli"] if suite in SEPARATE_CLI else [])]
    run(
        [
            "/usr/bin/mmdebstrap",
            "--mode=root",
            "--variant=minbase",
            "--format=directory",
            "--quiet",
            # Suites without a valid-until that covers today (archived or frozen mirrors) are fine here.
            '--aptopt=Acquire::Check-Valid-Until "false"',
            "--dpkgopt=path-exclude=/usr/share/man/*",
            "--dpkgopt=path-exclude=/usr/share/doc/*",
            "--dpkgopt=path-exclude=/usr/share/locale/*",
            f"--include={','.join(packages)}",
            suite,
            str(rootfs),
            mirror.source_line(suite),
        ],
        timeout_s=1500,
    )


def customize(suite: str, rootfs: Path) -> None:
    """Turn a plain Debian into a machine of the lab."""
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
