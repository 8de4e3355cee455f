"""What `docker run` can and Docker's services cannot, as the container labels `swarmsh.run.*`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable

from swarmsh.compose.convert.files import Sources
from swarmsh.compose.convert.spot import Spot
from swarmsh.core.run_devices import DeviceRequest, requests_text
from swarmsh.core.run_options import RUN_PREFIX, join_list, option_named, parse_value
from swarmsh.errors import InvalidSpec

_ALL = -1


def _text(spot: Spot) -> str:
    return spot.text()


def _list(spot: Spot) -> str:
    return join_list(spot.texts())


def _pairs(spot: Spot) -> str:
    return join_list(f"{key}={value}" for key, value in spot.pairs().items())


def _microseconds(spot: Spot) -> str:
    """A number of µs, or a duration."""
    return spot.text() if spot.text().isdecimal() else str((spot.duration() or 0) // 1000)


def _devices(spot: Spot) -> str:
    return join_list(_device(device) for device in spot.each())


def _device(spot: Spot) -> str:
    source, target = spot["source"].text(), spot["target"].text()
    if not source.startswith("/"):
        return source  # a CDI name
    return f"{source}:{target or source}:{spot['permissions'].text('rwm')}"


def _weights(spot: Spot) -> str:
    return join_list(f"{entry['path'].text()}:{entry['weight'].text()}" for entry in spot.each())


def _rates(spot: Spot) -> str:
    return join_list(f"{entry['path'].text()}:{entry['rate'].text()}" for entry in spot.each())


def _gpus(spot: Spot) -> str:
    return requests_text(tuple(_request(entry, ("gpu",)) for entry in spot.each()), gpus=True)


def _requests(spot: Spot) -> str:
    return requests_text(tuple(_request(entry, ()) for entry in spot.each()), gpus=False)


def _request(spot: Spot, capabilities: tuple[str, ...]) -> DeviceRequest:
    count, ids = spot["count"], spot["device_ids"].texts()
    if count.given and ids:
        raise count.wrong("excludes device_ids")
    number = 0 if ids else _ALL  # as compose: nothing said is every one
    if count.given and count.text() != "all":
        number = count.number() or 0
    return DeviceRequest(
        driver=spot["driver"].text(),
        count=number,
        device_ids=ids,
        capabilities=tuple(dict.fromkeys((*spot["capabilities"].texts(), *capabilities))),
        options=tuple(spot["options"].pairs().items()),
    )


# (where it is in a service, the option's name, how it is written)
TRANSLATED: tuple[tuple[tuple[str, ...], str, Callable[[Spot], str]], ...] = (
    (("privileged",), "privileged", _text),
    (("devices",), "device", _devices),
    (("device_cgroup_rules",), "device-cgroup-rule", _list),
    (("gpus",), "gpus", _gpus),
    (("deploy", "resources", "reservations", "devices"), "device-request", _requests),
    (("ipc",), "ipc", _text),
    (("pid",), "pid", _text),
    (("uts",), "uts", _text),
    (("userns_mode",), "userns", _text),
    (("cgroup",), "cgroupns", _text),
    (("cgroupns_mode",), "cgroupns", _text),
    (("cgroup_parent",), "cgroup-parent", _text),
    (("cpuset",), "cpuset-cpus", _text),
    (("cpu_shares",), "cpu-shares", _text),
    (("cpu_period",), "cpu-period", _microseconds),
    (("cpu_quota",), "cpu-quota", _microseconds),
    (("cpu_rt_period",), "cpu-rt-period", _microseconds),
    (("cpu_rt_runtime",), "cpu-rt-runtime", _microseconds),
    (("oom_kill_disable",), "oom-kill-disable", _text),
    (("blkio_config", "weight"), "blkio-weight", _text),
    (("blkio_config", "weight_device"), "blkio-weight-device", _weights),
    (("blkio_config", "device_read_bps"), "device-read-bps", _rates),
    (("blkio_config", "device_write_bps"), "device-write-bps", _rates),
    (("blkio_config", "device_read_iops"), "device-read-iops", _rates),
    (("blkio_config", "device_write_iops"), "device-write-iops", _rates),
    (("storage_opt",), "storage-opt", _pairs),
    (("annotations",), "annotation", _pairs),
    (("runtime",), "runtime", _text),
    (("domainname",), "domainname", _text),
)


def run_labels_of(service: Spot, sources: Sources) -> dict[str, str]:
    """Container labels for a service's run options; those of `labels` are not among them. Raises ComposeError."""
    found: dict[str, str] = {}
    for path, option, write in TRANSLATED:
        spot = service
        for key in path:
            spot = spot[key]
        if spot:
            _put(found, spot, option, write(spot))
    if service["shm_size"]:
        _put(found, service["shm_size"], "shm-size", str(service["shm_size"].size()))
    if service["security_opt"]:
        entries = [_security_option(spot, sources) for spot in service["security_opt"].each()]
        _put(found, service["security_opt"], "security-opt", join_list(entries))
    _check_twice(service, found)
    return found


def _put(found: dict[str, str], spot: Spot, name: str, text: str) -> None:
    option = option_named(name)
    try:
        normal = option.text(parse_value(option, text))
    except InvalidSpec as e:
        raise spot.wrong(e.message.removeprefix(f"container label {option.label}: "), e.hint) from e
    if found.setdefault(option.label, normal) != normal:
        raise spot.wrong(f"differs from what another key says of {name}")


def _security_option(spot: Spot, sources: Sources) -> str:
    """A seccomp profile's file is on no node: the option takes its text along."""
    text = spot.text().replace("no-new-privileges:", "no-new-privileges=", 1)
    key, _, value = text.partition("=") if "=" in text else text.partition(":")
    if key != "seccomp" or value in ("", "unconfined", "builtin") or value.lstrip().startswith("{"):
        return text
    profile = sources.file(Spot(spot.project, spot.path, value))
    try:
        return f"seccomp={json.dumps(json.loads(profile), separators=(',', ':'))}"
    except ValueError as e:
        raise spot.wrong(f"{value} is no JSON: {e}") from e


def _check_twice(service: Spot, found: Iterable[str]) -> None:
    for label in found:
        if label in service["labels"]:
            option = label.removeprefix(RUN_PREFIX)
            raise service["labels"][label].wrong(
                f"says again what the service says of {option} with a key of its own"
            )
