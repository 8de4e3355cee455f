"""What `docker run` can and Docker's services cannot: container labels `swarmsh.run.<option>` of a task template.

`RUN_OPTIONS` is the one table; `docs/run-options.md` says the same to users, and a test compares them. An option
has the name and the form of `docker run`'s flag. As labels of the container they are part of what makes tasks: all
clients' updates keep them, and a change of one replaces tasks as any change of the template does.
A list is written with commas between its entries, or as a JSON list where an entry has a comma in it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

from swarmsh.core.run_devices import (
    CDI_NAME,
    DeviceRequest,
    device_mapping,
    normal_device,
    requests_of,
    requests_text,
)
from swarmsh.core.words import nearest
from swarmsh.errors import InvalidSpec

RUN_PREFIX = "swarmsh.run."


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """All of them, with what holds when nothing was said: empty, 0 or False. Sizes in bytes, rates per second."""

    privileged: bool = False
    devices: tuple[str, ...] = ()  # SOURCE[:TARGET][:rwm], or a CDI name
    device_cgroup_rules: tuple[str, ...] = ()
    gpus: tuple[DeviceRequest, ...] = ()
    device_requests: tuple[DeviceRequest, ...] = ()
    shm_size: int = 0
    security_opt: tuple[str, ...] = ()
    ipc: str = ""
    pid: str = ""
    uts: str = ""
    userns: str = ""
    cgroupns: str = ""
    cgroup_parent: str = ""
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    cpu_shares: int = 0
    cpu_period: int = 0  # µs
    cpu_quota: int = 0  # µs
    cpu_rt_period: int = 0  # µs
    cpu_rt_runtime: int = 0  # µs
    memory_reservation: int = 0
    oom_kill_disable: bool = False
    blkio_weight: int = 0
    blkio_weight_devices: tuple[str, ...] = ()  # PATH:WEIGHT
    device_read_bps: tuple[str, ...] = ()  # PATH:SIZE
    device_write_bps: tuple[str, ...] = ()
    device_read_iops: tuple[str, ...] = ()  # PATH:COUNT
    device_write_iops: tuple[str, ...] = ()
    storage_opt: tuple[str, ...] = ()  # KEY=VALUE
    annotations: tuple[str, ...] = ()  # KEY=VALUE
    runtime: str = ""
    domainname: str = ""


class _Wrong(ValueError):
    """What is wrong with a value, and perhaps the way out."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class RunOption:
    """One option: its name (`docker run`'s flag), the form of its value and what it is for.

    `parse` turns a label's text into the value of `attribute`, and raises ValueError; `text` turns it back. Of a
    list, `key_of` gives what names an entry (to remove it by), `key` says so in words.
    """

    name: str
    attribute: str
    form: str
    meaning: str
    parse: Callable[[str], Any]
    text: Callable[[Any], str] = str
    since: tuple[int, int] | None = None  # Engine API version of `POST /containers/create` that has it
    key: str = ""
    key_of: Callable[[str], str] = str

    @property
    def label(self) -> str:
        """The container label that asks for it."""
        return RUN_PREFIX + self.name

    @property
    def is_list(self) -> bool:
        """Whether its value has entries that come and go one by one."""
        return bool(self.key)


# --- values -------------------------------------------------------------------------------------------------
_SIZE = re.compile(r"(\d+(?:\.\d*)?|\.\d+) ?([kmgtp]?)(?:i?b)?", re.IGNORECASE | re.ASCII)
_CPUSET = re.compile(r"[0-9]+(?:-[0-9]+)?(?:,[0-9]+(?:-[0-9]+)?)*")
_CGROUP_RULE = re.compile(r"[acb] (?:[0-9]+|\*):(?:[0-9]+|\*) [rwm]{1,3}")
_CGROUP = re.compile(r"\S+")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/+-]*")
_DOMAIN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?")
_BOTTOMLESS = 2**63 - 1  # the Engine's numbers are Go's int64
_SECURITY_KEYS = ("apparmor", "label", "no-new-privileges", "seccomp", "systempaths", "writable-cgroups")
_LONGEST = 300  # characters of a refusal: it repeats the value
_LEAST_RESERVATION = 6 * 1024 * 1024  # moby `daemon/daemon_unix.go`, linuxMinMemory


def parse_size(text: str) -> int:
    """Bytes of `64m`, `1.5GiB` or `1024` (docker/go-units, RAMInBytes). Raises ValueError."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise _Wrong(f"'{text}' is not a size", "Write it as 64m or 1g")
    size = float(found[1]) * 1024 ** " kmgtp".index(found[2].lower() or " ")
    if size >= _BOTTOMLESS:  # infinity too
        raise _Wrong(f"'{text}' is too large a size")
    return int(size)


def _switch(text: str) -> bool:
    if text not in ("true", "false"):
        raise _Wrong(f"'{text}' is neither true nor false")
    return text == "true"


def _switch_text(value: bool) -> str:
    return "true" if value else "false"


def _size(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        size = parse_size(text)
        if size < least:
            raise _Wrong(f"'{text}' is less than {least} bytes")
        return size

    return parse


def _number(least: int, most: int = _BOTTOMLESS) -> Callable[[str], int]:
    bounds = f"from {least} to {most}" if most < _BOTTOMLESS else f"of {least} or more"

    def parse(text: str) -> int:
        if not re.fullmatch(r"-?[0-9]{1,19}", text) or not least <= int(text) <= most:
            raise _Wrong(f"'{text}' is not a number {bounds}")
        return int(text)

    return parse


def _choice(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.startswith("container:"):
            raise _Wrong(
                f"'{text}' names a container of one node, which no task can count on",
                f"Known are {', '.join(words)}",
            )
        if text not in words:
            raise _Wrong(f"'{text}' is not {' or '.join(words)}")
        return text

    return parse


def _matching(pattern: re.Pattern[str], what: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if not pattern.fullmatch(text):
            raise _Wrong(f"'{text}' is not {what}")
        return text

    return parse


def _path(text: str) -> str:
    if not text.startswith("/"):
        raise _Wrong(f"'{text}' is no absolute path")
    return text


def _pair(text: str) -> str:
    if not text.partition("=")[0] or "=" not in text:
        raise _Wrong(f"'{text}' is not KEY=VALUE")
    return text


def _on_device(value: Callable[[str], int]) -> Callable[[str], str]:
    """Of PATH:VALUE."""

    def parse(text: str) -> str:
        path, colon, amount = text.rpartition(":")
        if not colon:
            raise _Wrong(f"'{text}' is not PATH:VALUE")
        _path(path)
        value(amount)
        return text

    return parse


def _security_option(text: str) -> str:
    """One of `docker run --security-opt`. Whoever asks reads a seccomp profile's file; the label has its text."""
    key, separator, value = text.partition("=") if "=" in text else text.partition(":")
    if text == "no-new-privileges":
        return text
    if key not in _SECURITY_KEYS:
        raise _Wrong(f"security option '{text}' is not known", f"Did you mean {nearest(key, _SECURITY_KEYS)}?")
    if not separator or not value:
        raise _Wrong(f"security option {key} has no value")
    if key == "seccomp" and value not in ("unconfined", "builtin"):
        _check_profile(value)
    if key == "systempaths" and value != "unconfined":
        raise _Wrong(f"systempaths={value} is not known, only systempaths=unconfined")
    if key in ("no-new-privileges", "writable-cgroups"):
        _switch(value)
    return text


def _check_profile(text: str) -> None:
    try:
        profile = json.loads(text)
    except (ValueError, RecursionError):
        profile = None
    if not isinstance(profile, dict):
        raise _Wrong(
            "the seccomp profile is not JSON",
            "A file is on no node: give its text, as `--security-opt seccomp=FILE` of swarmsh service create does",
        )


def split_list(text: str) -> tuple[str, ...]:
    """The entries of a list's text, as they are written. Raises ValueError."""
    if text.lstrip().startswith("["):
        try:
            entries = json.loads(text)
        except (ValueError, RecursionError):
            entries = None
        if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
            raise _Wrong(f"'{text}' is not a JSON list of texts")
        return tuple(entries)
    return tuple(entry.strip() for entry in text.split(","))


def join_list(entries: Iterable[str]) -> str:
    """The text of a list, such that `split_list` gives its entries again."""
    known = list(entries)
    plain = all(entry and entry == entry.strip() and "," not in entry for entry in known)
    return ",".join(known) if plain and known and not known[0].startswith("[") else json.dumps(known)


def _list_of(entry: Callable[[str], str], key: Callable[[str], str]) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        found = tuple(entry(one) for one in split_list(text))
        names = [key(one) for one in found]
        for name in names:
            if names.count(name) > 1:
                raise _Wrong(f"{name} is there twice")
        return found

    return parse


def _before(separator: str) -> Callable[[str], str]:
    return lambda entry: entry.partition(separator)[0]


def _listed(
    name: str,
    attribute: str,
    form: str,
    meaning: str,
    entry: Callable[[str], str],
    key: tuple[str, Callable[[str], str]],
    since: tuple[int, int] | None = None,
) -> RunOption:
    words, key_of = key
    return RunOption(
        name, attribute, form, meaning, _list_of(entry, key_of), join_list, since, key=words, key_of=key_of
    )


_BY_PATH = ("by its path", _before(":"))
_BY_KEY = ("by its key", _before("="))
_WHOLE = ("as it is written", str)
_RATE = "PATH:SIZE, …"
_COUNT = "PATH:COUNT, …"

RUN_OPTIONS: tuple[RunOption, ...] = (
    RunOption(
        "privileged",
        "privileged",
        "true or false",
        "all capabilities and devices, and no confinement",
        _switch,
        _switch_text,
    ),
    _listed(
        "device",
        "devices",
        "SOURCE[:TARGET][:rwm], …",
        "devices of the node; also CDI names, as vendor.com/class=name (they need Engine API 1.44)",
        normal_device,
        ("by its path on the node", _before(":")),
    ),
    _listed(
        "device-cgroup-rule",
        "device_cgroup_rules",
        "'c 42:* rwm', …",
        "which devices may be used, by type and numbers",
        _matching(_CGROUP_RULE, "of the form 'c 42:* rwm'"),
        _WHOLE,
    ),
    RunOption(
        "gpus",
        "gpus",
        "all, a number, or device=…,capabilities=…,driver=…,options=…",
        "GPUs of the node, through its driver's container toolkit; several requests with ; between",
        partial(requests_of, gpus=True),
        partial(requests_text, gpus=True),
    ),
    RunOption(
        "device-request",
        "device_requests",
        "driver=…,count=…,device=…,capabilities=…,options=…",
        "as gpus, for any device driver; several requests with ; between; not docker run's",
        partial(requests_of, gpus=False),
        partial(requests_text, gpus=False),
    ),
    RunOption("shm-size", "shm_size", "a size, as 64m", "size of /dev/shm", _size(1)),
    _listed(
        "security-opt",
        "security_opt",
        "apparmor=…, label=…, no-new-privileges, seccomp=…, systempaths=unconfined",
        "what confines the container; seccomp takes unconfined, or the text of a profile",
        _security_option,
        _WHOLE,
    ),
    RunOption(
        "ipc",
        "ipc",
        "none, private, shareable or host",
        "shared memory and semaphores of its own, or the node's",
        _choice("none", "private", "shareable", "host"),
    ),
    RunOption("pid", "pid", "host", "see and signal all processes of the node", _choice("host")),
    RunOption("uts", "uts", "host", "have the node's host name", _choice("host")),
    RunOption("userns", "userns", "host", "no user namespace, where the Engine has them", _choice("host")),
    RunOption(
        "cgroupns",
        "cgroupns",
        "host or private",
        "see the node's cgroups, or only its own",
        _choice("host", "private"),
    ),
    RunOption(
        "cgroup-parent",
        "cgroup_parent",
        "a cgroup",
        "the cgroup on the node below which it runs",
        _matching(_CGROUP, "a cgroup"),
    ),
    RunOption("cpuset-cpus", "cpuset_cpus", "0-3,5", "the CPUs it may run on", _matching(_CPUSET, "like 0-3,5")),
    RunOption("cpuset-mems", "cpuset_mems", "0-1", "the memory nodes it may use", _matching(_CPUSET, "like 0-1")),
    RunOption(
        "cpu-shares", "cpu_shares", "2 or more", "its weight where CPUs are short; 1024 is usual", _number(2)
    ),
    RunOption(
        "cpu-period", "cpu_period", "1000 to 1000000 (µs)", "period of the CPU limit", _number(1000, 1_000_000)
    ),
    RunOption("cpu-quota", "cpu_quota", "1000 or more (µs)", "CPU time in a period", _number(1000)),
    RunOption("cpu-rt-period", "cpu_rt_period", "1 or more (µs)", "period of real-time tasks", _number(1)),
    RunOption("cpu-rt-runtime", "cpu_rt_runtime", "1 or more (µs)", "real-time CPU time in a period", _number(1)),
    RunOption(
        "memory-reservation",
        "memory_reservation",
        "a size of 6m or more",
        "what it is pressed back to when the node's memory is short; the scheduler looks at --reserve-memory",
        _size(_LEAST_RESERVATION),
    ),
    RunOption(
        "oom-kill-disable",
        "oom_kill_disable",
        "true or false",
        "wait rather than be killed at the memory limit (cgroup v1 only)",
        _switch,
        _switch_text,
    ),
    RunOption("blkio-weight", "blkio_weight", "10 to 1000", "its weight for block devices", _number(10, 1000)),
    _listed(
        "blkio-weight-device",
        "blkio_weight_devices",
        "PATH:WEIGHT, …",
        "its weight for one block device",
        _on_device(_number(10, 1000)),
        _BY_PATH,
    ),
    _listed(
        "device-read-bps", "device_read_bps", _RATE, "most bytes read in a second", _on_device(_size(1)), _BY_PATH
    ),
    _listed(
        "device-write-bps",
        "device_write_bps",
        _RATE,
        "most bytes written in a second",
        _on_device(_size(1)),
        _BY_PATH,
    ),
    _listed(
        "device-read-iops", "device_read_iops", _COUNT, "most reads in a second", _on_device(_number(1)), _BY_PATH
    ),
    _listed(
        "device-write-iops",
        "device_write_iops",
        _COUNT,
        "most writes in a second",
        _on_device(_number(1)),
        _BY_PATH,
    ),
    _listed(
        "storage-opt", "storage_opt", "KEY=VALUE, …", "options of the storage driver, as size=10G", _pair, _BY_KEY
    ),
    _listed(
        "annotation", "annotations", "KEY=VALUE, …", "annotations for the OCI runtime", _pair, _BY_KEY, (1, 43)
    ),
    RunOption(
        "runtime",
        "runtime",
        "a runtime of the Engine",
        "another OCI runtime, as runsc",
        _matching(_WORD, "a name"),
    ),
    RunOption("domainname", "domainname", "a domain", "its NIS domain name", _matching(_DOMAIN, "a domain name")),
)
_BY_NAME = {option.name: option for option in RUN_OPTIONS}

# What people look for here and find elsewhere.
_ELSEWHERE = {
    **{name: f"Services have it: --{name}" for name in ("cap-add", "cap-drop", "init", "read-only", "hostname")},
    **{
        name: f"Services have it: --{name}"
        for name in ("sysctl", "ulimit", "oom-score-adj", "stop-signal", "user")
    },
    "group-add": "Services have it: --group",
    "pids-limit": "Services have it: --limit-pids",
    "tmpfs": "Services have it: --mount type=tmpfs,target=PATH",
    "volume": "Services have it: --mount",
    "add-host": "Services have it: --host",
    "mac-address": "The addresses of tasks are swarmsh's to choose",
    "ip": "The addresses of tasks are swarmsh's to choose",
    "network": "Services have it: --network",
    "link": "Services find each other by name on a network that both have",
    "volumes-from": "Containers of one node are nothing that tasks can count on: name the volumes with --mount",
    "restart": "Services have it: --restart-condition",
}


def parse_run_options(container_labels: Mapping[str, str]) -> RunOptions:
    """What the container labels of a task template ask for; other labels are passed over. Raises InvalidSpec."""
    values: dict[str, Any] = {}
    for key, text in container_labels.items():
        if key.startswith(RUN_PREFIX):
            option = option_named(key.removeprefix(RUN_PREFIX))
            values[option.attribute] = parse_value(option, text)
    return RunOptions(**values)


def option_named(name: str) -> RunOption:
    """The option of that name. Raises InvalidSpec with the nearest one, or with where the thing is found."""
    if name in _BY_NAME:
        return _BY_NAME[name]
    hint = _ELSEWHERE.get(name) or f"Did you mean {RUN_PREFIX}{nearest(name, _BY_NAME)}?"
    raise InvalidSpec(f"container label {RUN_PREFIX}{name} is not known", hint=hint)


def parse_value(option: RunOption, text: str) -> Any:
    """The value of an option's text. Raises InvalidSpec naming the label."""
    try:
        return option.parse(text)
    except ValueError as e:
        words = str(e)
        shown = words if len(words) <= _LONGEST else f"{words[:_LONGEST]}…"
        raise InvalidSpec(f"container label {option.label}: {shown}", hint=getattr(e, "hint", "")) from e


def run_labels(options: RunOptions) -> dict[str, str]:
    """The container labels that ask for these options, in the order of the table; none for what is not set."""
    return {
        option.label: option.text(value)
        for option in RUN_OPTIONS
        if (value := getattr(options, option.attribute)) != _DEFAULTS[option.attribute]
    }


_DEFAULTS = {field.name: field.default for field in fields(RunOptions)}


# --- the Engine's words -------------------------------------------------------------------------------------
def host_config_of(options: RunOptions) -> dict[str, Any]:
    """The part of `HostConfig` of `POST /containers/create` that says this; only what is set."""
    security = [option for option in options.security_opt if not option.startswith("systempaths")]
    cdi = tuple(name for name in options.devices if CDI_NAME.fullmatch(name))
    requests = [*options.gpus, *options.device_requests]
    if cdi:
        requests.append(DeviceRequest(driver="cdi", device_ids=cdi))
    found: dict[str, Any] = {
        "Privileged": options.privileged,
        "Devices": [device_mapping(device) for device in options.devices if device not in cdi],
        "DeviceCgroupRules": list(options.device_cgroup_rules),
        "DeviceRequests": [request.wire() for request in requests],
        "ShmSize": options.shm_size,
        "SecurityOpt": security,
        "IpcMode": options.ipc,
        "PidMode": options.pid,
        "UTSMode": options.uts,
        "UsernsMode": options.userns,
        "CgroupnsMode": options.cgroupns,
        "CgroupParent": options.cgroup_parent,
        "CpusetCpus": options.cpuset_cpus,
        "CpusetMems": options.cpuset_mems,
        "CpuShares": options.cpu_shares,
        "CpuPeriod": options.cpu_period,
        "CpuQuota": options.cpu_quota,
        "CpuRealtimePeriod": options.cpu_rt_period,
        "CpuRealtimeRuntime": options.cpu_rt_runtime,
        "MemoryReservation": options.memory_reservation,
        "OomKillDisable": options.oom_kill_disable,
        "BlkioWeight": options.blkio_weight,
        "BlkioWeightDevice": [_throttle(entry, "Weight", int) for entry in options.blkio_weight_devices],
        "BlkioDeviceReadBps": [_throttle(entry, "Rate", parse_size) for entry in options.device_read_bps],
        "BlkioDeviceWriteBps": [_throttle(entry, "Rate", parse_size) for entry in options.device_write_bps],
        "BlkioDeviceReadIOps": [_throttle(entry, "Rate", int) for entry in options.device_read_iops],
        "BlkioDeviceWriteIOps": [_throttle(entry, "Rate", int) for entry in options.device_write_iops],
        "StorageOpt": _pairs(options.storage_opt),
        "Annotations": _pairs(options.annotations),
        "Runtime": options.runtime,
    }
    given = {key: value for key, value in found.items() if value}
    if len(security) < len(options.security_opt):
        # systempaths=unconfined is the docker CLI's word for these two being empty, where their absence is not.
        given |= {"MaskedPaths": [], "ReadonlyPaths": []}
    return given


def _throttle(entry: str, key: str, amount: Callable[[str], int]) -> dict[str, Any]:
    path, _, value = entry.rpartition(":")
    return {"Path": path, key: amount(value)}


def _pairs(entries: Iterable[str]) -> dict[str, str]:
    return {key: value for key, _, value in (entry.partition("=") for entry in entries)}


def newest_option(options: RunOptions) -> tuple[str, tuple[int, int]] | None:
    """(name, Engine API version) of the option in use that asks for the newest Engine; None if any will do."""
    used = [
        (option.name, option.since)
        for option in RUN_OPTIONS
        if option.since is not None and getattr(options, option.attribute) != _DEFAULTS[option.attribute]
    ]
    if any(CDI_NAME.fullmatch(device) for device in options.devices):
        used.append(("device of CDI", (1, 44)))
    return max(used, key=lambda found: found[1], default=None)
