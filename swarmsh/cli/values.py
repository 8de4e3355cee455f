"""Values of flags as the docker CLI reads them, made into the Engine API's JSON. Pure, but for `resolve_env`.

Each `parse_…` raises ValueError with the reason; `Value` makes a click type of it. Formats: docker/cli `opts`,
docker/go-units, Go's `time.ParseDuration`.
"""

from __future__ import annotations

import csv
import ipaddress
import os
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from swarmsh.core.quantities import parse_bytes, parse_duration, parse_nano_cpus

Json = dict[str, Any]

if TYPE_CHECKING:
    ParamType = click.ParamType[Any]
else:  # generic for type checkers only: click 8.1 cannot subscript it at run time
    ParamType = click.ParamType

_LONG_PORT = re.compile(r"\w+=\w+(,\w+=\w+)*")
_ULIMITS = frozenset(
    [
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ]
)
_TRUE = frozenset(("1", "t", "T", "true", "TRUE", "True"))
_FALSE = frozenset(("0", "f", "F", "false", "FALSE", "False"))


class Value(ParamType):
    """A click type from a parser that raises ValueError."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


# --- scalars ------------------------------------------------------------------------------------------------
def parse_bool(text: str) -> bool:
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError(f"invalid boolean {text!r}: use true or false")


def parse_positive_duration(text: str) -> int:
    value = parse_duration(text)
    if value < 0:
        raise ValueError("duration cannot be negative")
    return value


def parse_unsigned(text: str) -> int:
    try:
        value = int(text, 0)
    except ValueError:
        value = -1
    if value < 0 or value >= 1 << 64:
        raise ValueError(f"{text!r} is not a number from 0 up")
    return value


def parse_ratio(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a number") from None


def parse_words(text: str) -> list[str]:
    """Words as a shell splits them."""
    import shlex

    return shlex.split(text, comments=True)


# --- pairs and names ----------------------------------------------------------------------------------------
def parse_label(text: str) -> str:
    key, _, _ = text.partition("=")
    if not key.strip():
        raise ValueError(f"invalid label {text!r}: empty name")
    return text


def parse_env(text: str) -> str:
    """`A=b` as it is; `A` alone takes its value from our environment, and stays `A` where there is none."""
    key, equals, _ = text.partition("=")
    if not key:
        raise ValueError(f"invalid environment variable: {text}")
    if not equals and key in os.environ:
        return f"{key}={os.environ[key]}"
    return text


def read_env_file(path: str) -> list[str]:
    """Variables of a file: `A=b` a line, `#` comments, `A` alone from our environment if it is set there."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            lines = file.read().splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"env file {path} contains invalid utf8 bytes") from None
    except OSError as error:
        raise ValueError(f"env file {path}: {error.strerror}") from None
    found = []
    for number, raw in enumerate(lines, 1):
        line = raw.lstrip()
        if not line or line.startswith("#"):
            continue
        key, equals, value = line.partition("=")
        if not key:
            raise ValueError(f"env file {path}, line {number}: no variable name")
        if re.search(r"\s", key):
            raise ValueError(f"env file {path}, line {number}: variable '{key}' contains whitespaces")
        if equals:
            found.append(f"{key}={value}")
        elif key in os.environ:
            found.append(f"{key}={os.environ[key]}")
    return found


def pairs(values: tuple[str, ...]) -> dict[str, str]:
    """`("a=b", "c")` as `{"a": "b", "c": ""}`."""
    split = (value.partition("=") for value in values)
    return {key: value for key, _, value in split}


def parse_ip(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text.strip()))
    except ValueError:
        raise ValueError(f"{text} is not an ip address") from None


def parse_dns_search(text: str) -> str:
    text = text.strip()
    if text == "." or re.fullmatch(r"[A-Za-z0-9_.-]+", text):
        return text
    raise ValueError(f"{text!r} is not a valid domain")


def parse_extra_host(text: str) -> str:
    """`HOST:IP` (also `HOST=IP`) as `HOST:IP`."""
    host, separator, address = text.partition("=") if "=" in text else text.partition(":")
    if not separator or not host:
        raise ValueError(f"bad format for add-host: {text!r}; write HOST:IP")
    if address != "host-gateway":
        address = address.removeprefix("[").removesuffix("]")
        try:
            ipaddress.ip_address(address)
        except ValueError:
            raise ValueError(f"invalid IP address in add-host: {address!r}") from None
    return f"{host}:{address}"


def parse_placement_pref(text: str) -> Json:
    strategy, equals, descriptor = text.partition("=")
    if not equals or not strategy:
        raise ValueError('placement preference must be of the format "<strategy>=<arg>"')
    if strategy != "spread":
        raise ValueError(f"unsupported placement preference {strategy} (only spread is supported)")
    return {"Spread": {"SpreadDescriptor": descriptor}}


def parse_generic_resource(text: str) -> Json:
    kind, equals, value = text.partition("=")
    if not equals or not kind:
        raise ValueError(f"invalid generic resource {text!r}: write KIND=NUMBER")
    if not re.fullmatch(r"-?\d+", value):
        raise ValueError(
            f"invalid generic-resource request `{text}`, Named Generic Resources is not supported for service "
            "create or update"
        )
    if int(value) <= 0:
        raise ValueError(f"invalid generic-resource request `{text}`: the number must be above 0")
    return {"DiscreteResourceSpec": {"Kind": kind, "Value": int(value)}}


def parse_ulimit(text: str) -> Json:
    name, equals, limits = text.partition("=")
    if not equals:
        raise ValueError(f"invalid ulimit argument: {text}")
    if name not in _ULIMITS:
        raise ValueError(f"invalid ulimit type: {name}")
    try:
        soft, hard = (int(number) for number in (limits.split(":") if ":" in limits else (limits, limits)))
    except ValueError:
        raise ValueError(f"invalid ulimit {text!r}: write NAME=SOFT[:HARD]") from None
    if hard != -1 and (soft == -1 or soft > hard):
        raise ValueError(f"ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}")
    return {"Name": name, "Hard": hard, "Soft": soft}


# --- ports --------------------------------------------------------------------------------------------------
def parse_port(text: str) -> list[Json]:
    """`[PUBLISHED:]TARGET[/PROTOCOL]`, with ranges, or `published=,target=,protocol=,mode=`."""
    return [_long_port(text)] if _LONG_PORT.search(text) else _short_ports(text)


def _long_port(text: str) -> Json:
    protocol, mode, target, published = "tcp", "ingress", 0, 0
    for part in _csv(text):
        key, equals, value = part.lower().partition("=")
        if not equals or not key:
            raise ValueError(f"invalid field: {part}")
        if key == "protocol":
            protocol = _protocol(value)
        elif key == "mode":
            if value not in ("ingress", "host"):
                raise ValueError(f"invalid publish mode value ({value}): must be either 'ingress' or 'host'")
            mode = value
        elif key == "target":
            target = _port_number(value, "target")
        elif key == "published":
            published = _port_number(value, "published")
        else:
            raise ValueError(f"invalid field key: {key}")
    if not target:
        raise ValueError("missing mandatory field 'target'")
    return _port(protocol, target, published, mode)


def _short_ports(text: str) -> list[Json]:
    ports, slash, protocol = text.partition("/")
    protocol = _protocol(protocol.lower()) if slash else "tcp"
    address, _, rest = ports.rpartition(":")
    if ":" in address:
        raise ValueError(
            "hostip is not supported: with --label swarmsh.publish.bind=ADDRESS all ports answer on one address"
        )
    targets = _port_range(rest, "target")
    if not address:
        return [_port(protocol, target, 0, "ingress") for target in targets]
    published = _port_range(address, "published")
    if len(targets) == 1:
        return [_port(protocol, targets[0], port, "ingress") for port in published]
    if len(targets) != len(published):
        raise ValueError(f"invalid ranges specified for container and host ports: {rest} and {address}")
    return [_port(protocol, target, port, "ingress") for target, port in zip(targets, published, strict=True)]


def _port(protocol: str, target: int, published: int, mode: str) -> Json:
    found: Json = {"Protocol": protocol, "TargetPort": target}
    if published:
        found["PublishedPort"] = published
    return found | {"PublishMode": mode}


def _protocol(text: str) -> str:
    if text not in ("tcp", "udp", "sctp"):
        raise ValueError(f"invalid protocol value '{text}'")
    return text


def _port_number(text: str, which: str) -> int:
    if not re.fullmatch(r"\d{1,5}", text) or int(text) > 65535:
        raise ValueError(f"invalid {which} port ({text}): value must be an integer from 0 to 65535")
    return int(text)


def _port_range(text: str, which: str) -> list[int]:
    first, dash, last = text.partition("-")
    start = _port_number(first, which)
    end = _port_number(last, which) if dash else start
    if end < start:
        raise ValueError(f"invalid range format for {which} port: {text}")
    return list(range(start, end + 1))


# --- mounts -------------------------------------------------------------------------------------------------
_BARE_MOUNT_KEYS = frozenset(("readonly", "ro", "volume-nocopy", "bind-nonrecursive"))


def parse_mount(text: str) -> Json:
    """`type=,source=,target=,…` as a Mount. A relative bind source is refused: it means nothing on a node."""
    mount: Json = {"Type": "volume"}
    for part in _csv(text):
        key, equals, value = part.partition("=")
        key = key.lower()
        if not equals:
            if key not in _BARE_MOUNT_KEYS:
                raise ValueError(f"invalid field '{part}' must be a key=value pair")
            value = "true"
        _set_mount_key(mount, key, value, part)
    _check_mount(mount)
    return {key: value for key, value in mount.items() if value not in ("", False)}


def _set_mount_key(mount: Json, key: str, value: str, part: str) -> None:
    match key:
        case "type":
            mount["Type"] = value.lower()
        case "source" | "src":
            mount["Source"] = value
        case "target" | "dst" | "destination":
            mount["Target"] = value
        case "readonly" | "ro":
            mount["ReadOnly"] = _mount_bool(key, value)
        case "consistency":
            mount["Consistency"] = value.lower()
        case "image-subpath":
            mount.setdefault("ImageOptions", {})["Subpath"] = value
        case _ if key.startswith("bind-"):
            if (key, value) != ("bind-recursive", "enabled"):  # the default, and no option to send
                _set_bind_key(mount.setdefault("BindOptions", {}), key, value, part)
        case _ if key.startswith("volume-"):
            _set_volume_key(mount.setdefault("VolumeOptions", {"DriverConfig": {}}), key, value, part)
        case _ if key.startswith("tmpfs-"):
            _set_tmpfs_key(mount.setdefault("TmpfsOptions", {}), key, value, part)
        case _:
            raise ValueError(f"unexpected key '{key}' in '{part}'")


def _set_bind_key(options: Json, key: str, value: str, part: str) -> None:
    recursive = {
        "disabled": "NonRecursive",
        "writable": "ReadOnlyNonRecursive",
        "readonly": "ReadOnlyForceRecursive",
    }
    if key == "bind-propagation":
        options["Propagation"] = value.lower()
    elif key == "bind-nonrecursive":
        _set_true(options, "NonRecursive", _mount_bool(key, value))
    elif key == "bind-create-src":
        _set_true(options, "CreateMountpoint", _mount_bool(key, value))
    elif key == "bind-recursive":
        if value not in recursive:
            raise ValueError(
                f'invalid value for {key}: {value} (must be "enabled", "disabled", "writable", or "readonly")'
            )
        options[recursive[value]] = True
    else:
        raise ValueError(f"unexpected key '{key}' in '{part}'")


def _set_volume_key(options: Json, key: str, value: str, part: str) -> None:
    name, _, text = value.partition("=")
    match key:
        case "volume-nocopy":
            _set_true(options, "NoCopy", _mount_bool(key, value))
        case "volume-subpath":
            options["Subpath"] = value
        case "volume-label":
            if name:
                options.setdefault("Labels", {})[name] = text
        case "volume-driver":
            options["DriverConfig"]["Name"] = value
        case "volume-opt":
            if name:
                options["DriverConfig"].setdefault("Options", {})[name] = text
        case _:
            raise ValueError(f"unexpected key '{key}' in '{part}'")


def _set_tmpfs_key(options: Json, key: str, value: str, part: str) -> None:
    try:
        if key == "tmpfs-size":
            options["SizeBytes"] = parse_bytes(value)
        elif key == "tmpfs-mode":
            options["Mode"] = int(value, 8)
        else:
            raise LookupError
    except ValueError:
        raise ValueError(f"invalid value for {key}: {value}") from None
    except LookupError:
        raise ValueError(f"unexpected key '{key}' in '{part}'") from None


def _check_mount(mount: Json) -> None:
    kind = mount["Type"]
    if not kind:
        raise ValueError("type is required")
    if not mount.get("Target"):
        raise ValueError("target is required")
    for options in ("Volume", "Image", "Bind", "Tmpfs"):
        if f"{options}Options" in mount and kind != options.lower():
            raise ValueError(f"cannot mix '{options.lower()}-*' options with mount type '{kind}'")
    source = str(mount.get("Source", ""))
    if kind == "bind" and not source.startswith("/"):
        raise ValueError(
            f"the bind source {source!r} is relative, but is looked up on the node: give an absolute path"
        )
    bind = mount.get("BindOptions", {})
    for key, word in (("ReadOnlyNonRecursive", "writable"), ("ReadOnlyForceRecursive", "readonly")):
        if bind.get(key) and not mount.get("ReadOnly"):
            raise ValueError(f"option 'bind-recursive={word}' requires 'readonly' to be specified in conjunction")
    if bind.get("ReadOnlyForceRecursive") and bind.get("Propagation") != "rprivate":
        raise ValueError(
            "option 'bind-recursive=readonly' requires 'bind-propagation=rprivate' to be specified in conjunction"
        )


def _mount_bool(key: str, value: str) -> bool:
    try:
        return parse_bool(value)
    except ValueError:
        raise ValueError(f"invalid value for {key}: {value}") from None


def _set_true(options: Json, key: str, value: bool) -> None:
    if value:
        options[key] = True
    else:
        options.pop(key, None)


def _csv(text: str) -> list[str]:
    return next(csv.reader([text], strict=True))


# --- secrets and configs ------------------------------------------------------------------------------------
def parse_secret(text: str) -> Json:
    """`NAME`, or `source=NAME,target=…,uid=…,gid=…,mode=0400`, as a SecretReference without its id."""
    return _reference(text, "secret")


def parse_config(text: str) -> Json:
    return _reference(text, "config")


def _reference(text: str, kind: str) -> Json:
    parts = _csv(text)
    name, file = "", {"Name": "", "UID": "0", "GID": "0", "Mode": 0o444}
    if len(parts) == 1 and "=" not in text:
        name = file["Name"] = parts[0]
        parts = []
    for part in parts:
        key, equals, value = part.partition("=")
        if not equals or not key:
            raise ValueError(f"invalid field '{part}' must be a key=value pair")
        match key.lower():
            case "source" | "src":
                name = value
            case "target":
                file["Name"] = value
            case "uid" | "gid":
                file[key.upper()] = value
            case "mode":
                file["Mode"] = _file_mode(value)
            case _:
                raise ValueError(f"invalid field in {kind} request: {key}")
    if not name:
        raise ValueError("source is required")
    file["Name"] = file["Name"] or name
    return {"File": file, f"{kind.title()}Name": name}


def _file_mode(text: str) -> int:
    """As Go reads it with base 0: `0440` and `0o440` are octal, `288` is not."""
    try:
        mode = int(text, 8) if re.fullmatch("0[0-7_]+", text) else int(text, 0)
    except ValueError:
        raise ValueError(f"invalid mode specified: {text}") from None
    if not 0 <= mode < 1 << 32:
        raise ValueError(f"invalid mode specified: {text} is out of range")
    return mode


# --- networks and credentials -------------------------------------------------------------------------------
def parse_network(text: str) -> Json:
    """`NAME`, or `name=NAME,alias=…,driver-opt=KEY=VALUE`, whose words Docker reads in lower case."""
    if not _LONG_PORT.search(text):
        return {"Target": text}
    found: Json = {}
    for part in _csv(text):
        key, equals, value = (piece.strip() for piece in part.lower().partition("="))
        if not equals or not key:
            raise ValueError(f"invalid field {part}")
        if key == "name":
            found["Target"] = value
        elif key == "alias":
            found.setdefault("Aliases", []).append(value)
        elif key == "driver-opt":
            option, equals, setting = (piece.strip() for piece in value.partition("="))
            if not equals or not option:
                raise ValueError(f"invalid key value pair format in driver options: {value!r}")
            found.setdefault("DriverOpts", {})[option] = setting
        else:
            raise ValueError(f"invalid field key {key}")
    if not found.get("Target"):
        raise ValueError("network name/id is not specified")
    return found


def parse_credential_spec(text: str) -> Json:
    """`config://`, `file://` or `registry://` and a name; empty for none."""
    source, separator, name = text.partition("://")
    if not text:
        return {}
    if not separator or source not in ("config", "file", "registry"):
        raise ValueError(
            'invalid credential spec: value must be prefixed with "config://", "file://", or "registry://"'
        )
    return {"Config": "", "File": "", "Registry": ""} | {source.capitalize(): name}


# --- click types --------------------------------------------------------------------------------------------
DURATION = Value("duration", parse_duration)
POSITIVE_DURATION = Value("duration", parse_positive_duration)
BYTES = Value("bytes", parse_bytes)
CPUS = Value("decimal", parse_nano_cpus)
UNSIGNED = Value("uint", parse_unsigned)
RATIO = Value("float", parse_ratio)
WORDS = Value("command", parse_words)
LABEL = Value("list", parse_label)
ENV = Value("list", parse_env)
IP = Value("list", parse_ip)
DNS_SEARCH = Value("list", parse_dns_search)
EXTRA_HOST = Value("list", parse_extra_host)
PREFERENCE = Value("pref", parse_placement_pref)
GENERIC_RESOURCE = Value("list", parse_generic_resource)
ULIMIT = Value("ulimit", parse_ulimit)
PORT = Value("port", parse_port)
MOUNT = Value("mount", parse_mount)
LIST = Value("list", str)
SECRET = Value("secret", parse_secret)
CONFIG = Value("config", parse_config)
NETWORK = Value("network", parse_network)
CREDENTIAL_SPEC = Value("credential-spec", parse_credential_spec)
