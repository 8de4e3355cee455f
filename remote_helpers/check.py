"""What this node offers, and how to mend what it lacks: the items of `node check`."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time

from .engine import Engine, EngineError, EngineGone, parse_version

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MODULES = (
    ("ip_vs", "the routing mesh"),
    ("vxlan", "overlay networks"),
    ("esp4", "encrypted overlay networks"),
    ("xfrm_user", "encrypted overlay networks"),
)
SETS = ("ip_set_hash_ip", "ip_set_hash_ipport", "ip_set_hash_netnet", "ip_set_bitmap_port", "xt_set")
# Command: Debian's package, Fedora's package.
COMMANDS = {
    "iptables": ("iptables", "iptables-nft"),
    "ip": ("iproute2", "iproute"),
    "bridge": ("iproute2", "iproute"),
    "tc": ("iproute2", "iproute-tc"),
}
LEAST_API = (1, 41)
LEAST_FREE_ROOT = 1024**3
LEAST_FREE_RUN = 32 * 1024**2
CLOCK_OFF_S = 2.0


async def run_checks(engine: Engine, manager_now, root: str) -> list:
    """All items, each `{"name", "ok", "detail", "fix"}`; `manager_now` is the manager's time, or None."""
    items = [_python()]
    items += await _engine(engine, root)
    items += [_module(name, purpose) for name, purpose in MODULES]
    items.append(_sets())
    items += [_command(name) for name in COMMANDS]
    items += [_clock(manager_now), _cgroup()]
    return items


def _item(name: str, ok: bool, detail: str, fix: str = "") -> dict:
    return {"name": name, "ok": bool(ok), "detail": detail, "fix": "" if ok else fix}


def _python() -> dict:
    fix = "Install Python 3.9 or newer and name it in the inventory (ansible_python_interpreter)"
    return _item("python", sys.version_info >= (3, 9), f"{platform.python_version()} at {sys.executable}", fix)


async def _engine(engine: Engine, root: str) -> list:
    try:
        await engine.negotiate(5.0)
        info = await engine.call("GET", "/info", timeout_s=20.0)
    except (EngineGone, EngineError) as e:
        fix = "systemctl enable --now docker (Debian: apt install docker.io; Fedora: dnf install moby-engine)"
        return [_item("engine", False, str(e), fix), _space("disk_run", root, LEAST_FREE_RUN)]
    version, api = info.get("ServerVersion", ""), engine.version.get("ApiVersion", "")
    ok = parse_version(api) >= LEAST_API
    fix = "Docker Engine 20.10 or newer is needed: https://docs.docker.com/engine/install/"
    return [
        _item("engine", ok, f"Docker Engine {version}, API {api}", fix),
        _item(
            "swarm_mode",
            (info.get("Swarm") or {}).get("LocalNodeState", "inactive") == "inactive",
            f"the Engine's own Swarm Mode is {(info.get('Swarm') or {}).get('LocalNodeState', 'inactive')}",
            "Two orchestrators want the same ports (7946, 4789): docker swarm leave --force",
        ),
        _space("disk_docker", info.get("DockerRootDir", "/var/lib/docker"), LEAST_FREE_ROOT),
        _space("disk_run", root, LEAST_FREE_RUN),
        *_user_namespace(info),
    ]


def _space(name: str, path: str, least: int) -> dict:
    fixes = {
        "disk_docker": "Free space: docker image prune --all; docker builder prune; or mount a larger disk there",
        "disk_run": "Free space in /run, or enlarge it: mount -o remount,size=128M /run (and in /etc/fstab)",
    }
    try:
        found = os.statvfs(path)
    except OSError as e:
        return _item(name, False, f"{path}: {e.strerror}", fixes[name])
    free = found.f_bavail * found.f_frsize
    inodes = f", {found.f_favail} inodes" if found.f_files else ""
    ok = free >= least and (not found.f_files or found.f_favail > 1000)
    return _item(name, ok, f"{free // 1024**2} MiB{inodes} free at {path}", fixes[name])


def _user_namespace(info: dict) -> list:
    """Nothing where containers have the host's users."""
    if not any(one.split(",")[0] == "name=userns" for one in info.get("SecurityOptions") or ()):
        return []
    fix = "Take userns-remap from /etc/docker/daemon.json, or give services --userns host"
    detail = "userns-remap: files of secrets and configs have owners that containers do not see as those asked for"
    return [_item("userns", False, detail, fix)]


def _module(name: str, purpose: str) -> dict:
    state = module_state(name, os.uname().release)
    fix = (
        f"The running kernel lacks {name}, which {purpose} need: Debian, Ubuntu: apt install linux-image-amd64 or "
        f"linux-modules-extra-$(uname -r); Fedora: dnf install kernel-modules-extra; then reboot"
    )
    return _item(name, bool(state), state or "not in this kernel", fix)


def _sets() -> dict:
    """No fault: without them networks work by rules."""
    lacks = [name for name in SETS if not module_state(name, os.uname().release)]
    words = f"not in this kernel ({', '.join(lacks)}): with many services each change costs more"
    return _item("ip_set", True, words if lacks else "in this kernel")


def module_state(name: str, release: str, sys_module: str = "/sys/module", lib: str = "/lib/modules") -> str:
    """`loaded`, `built in` or `can be loaded`; "" if the kernel does not have it. Nothing is loaded by asking."""
    if os.path.isdir(f"{sys_module}/{name}"):
        return "loaded"
    for file, words in (("modules.builtin", "built in"), ("modules.dep", "can be loaded")):
        try:
            with open(f"{lib}/{release}/{file}", encoding="utf-8") as lines:
                for line in lines:
                    base = line.split(":")[0].strip().rpartition("/")[2].partition(".ko")[0]
                    if base.replace("-", "_") == name:
                        return words
        except OSError:
            continue
    return ""


def _command(name: str) -> dict:
    path = shutil.which(name, path=PATH)
    debian, fedora = COMMANDS[name]
    fix = f"Debian, Ubuntu: apt install {debian}; Fedora: dnf install {fedora}"
    return _item(name, path is not None, path or "not found", fix)


def _clock(manager_now) -> dict:
    if not isinstance(manager_now, (int, float)):
        return _item("clock", True, "not compared")
    off = time.time() - manager_now
    side = "ahead of" if off > 0 else "behind"
    detail = f"{abs(off):.1f} s {side} the manager's"
    fix = "timedatectl set-ntp true (Debian, Ubuntu: apt install systemd-timesyncd; Fedora: dnf install chrony)"
    return _item("clock", abs(off) <= CLOCK_OFF_S, detail, fix)


def _cgroup() -> dict:
    if os.path.exists("/sys/fs/cgroup/cgroup.controllers"):
        return _item("cgroup", True, "version 2")
    fix = "Mount cgroups: boot with systemd.unified_cgroup_hierarchy=1, or apt install cgroupfs-mount"
    return _item("cgroup", os.path.isdir("/sys/fs/cgroup/memory"), "version 1", fix)
