"""Devices as in `docker run`: `--device` and `--gpus` (docker/cli `cli/command/container`, `opts/gpus.go`)."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass
from typing import Any

# vendor/class=name of the Container Device Interface (its specification, `pkg/parser`).
CDI_NAME = re.compile(r"[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?/[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?=[A-Za-z0-9][\w.:-]*")
_MODE = re.compile(r"[rwm]{1,3}")
ALL = -1  # a request's count: every device


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRequest:
    """The Engine API's DeviceRequest. `count` -1 is all; `capabilities` must all be there."""

    driver: str = ""
    count: int = 0
    device_ids: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    options: tuple[tuple[str, str], ...] = ()

    def wire(self) -> dict[str, Any]:
        """Its JSON in the Engine API; only what is set."""
        found = {
            "Driver": self.driver,
            "Count": self.count,
            "DeviceIDs": list(self.device_ids),
            # The Engine's lists are alternatives, of which each wants all of its own.
            "Capabilities": [list(self.capabilities)] if self.capabilities else [],
            "Options": dict(self.options),
        }
        return {key: value for key, value in found.items() if value}


def normal_device(text: str) -> str:
    """A device as `docker run --device` takes it, checked; a CDI name is left as it is. Raises ValueError."""
    if not CDI_NAME.fullmatch(text):
        device_mapping(text)
    return text


def device_mapping(text: str) -> dict[str, str]:
    """`SOURCE[:TARGET][:MODE]` as the Engine API's DeviceMapping. Raises ValueError."""
    parts = text.split(":")
    source, target, mode = parts[0], "", "rwm"
    if len(parts) == 3:
        target, mode = parts[1:]
    elif len(parts) == 2 and _MODE.fullmatch(parts[1]):
        mode = parts[1]
    elif len(parts) == 2:
        target = parts[1]
    elif len(parts) > 3:
        raise ValueError(f"'{text}' is not SOURCE[:TARGET][:rwm]")
    for path in (source, target or source):
        if not path.startswith("/"):
            raise ValueError(f"'{text}' names no absolute path, and no CDI device either")
    if not _MODE.fullmatch(mode) or len(set(mode)) < len(mode):
        raise ValueError(f"'{mode}' is no mode: it is of the letters r, w and m")
    return {"PathOnHost": source, "PathInContainer": target or source, "CgroupPermissions": mode}


def requests_of(text: str, *, gpus: bool) -> tuple[DeviceRequest, ...]:
    """Requests with `;` between; each has capability gpu if they are of `gpus`. Raises ValueError."""
    return tuple(_request(part.strip(), gpus) for part in text.split(";"))


def _request(text: str, gpus: bool) -> DeviceRequest:
    found: dict[str, str] = {}
    try:
        cells = next(csv.reader(io.StringIO(text), strict=True), [])
    except csv.Error as e:
        raise ValueError(f"'{text}' is not well quoted: {e}") from None
    if not cells:
        raise ValueError("it says nothing")
    for cell in cells:
        key, equals, value = cell.partition("=")
        if not equals:
            key, value = "count", key
        if key not in ("driver", "count", "device", "capabilities", "options"):
            raise ValueError(f"'{key}' is not known: there are driver, count, device, capabilities and options")
        if key in found:
            raise ValueError(f"{key} is there twice: quote several values, as '\"device=0,1\"'")
        if not value:
            raise ValueError(f"{key} has no value")
        found[key] = value
    if "count" in found and "device" in found:
        raise ValueError("count and device exclude each other")
    capabilities = _words(found.get("capabilities", ""))
    if not gpus and not capabilities and "driver" not in found:
        raise ValueError("it names neither a driver nor capabilities")
    return DeviceRequest(
        driver=found.get("driver", ""),
        count=_count(found["count"]) if "count" in found else (0 if "device" in found else 1),
        device_ids=_words(found.get("device", "")),
        capabilities=tuple(dict.fromkeys((*capabilities, "gpu"))) if gpus else capabilities,
        options=tuple(_option(option) for option in _words(found.get("options", ""))),
    )


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _count(text: str) -> int:
    if text == "all":
        return ALL
    if not re.fullmatch(r"-1|[0-9]{1,6}", text):
        raise ValueError(f"count {text} is neither all nor a number")
    return int(text)


def _option(text: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    return key, value


def requests_text(requests: tuple[DeviceRequest, ...], *, gpus: bool) -> str:
    """Such that `requests_of` makes the same of it."""
    return ";".join(_request_text(request, gpus) for request in requests)


def _request_text(request: DeviceRequest, gpus: bool) -> str:
    cells: list[str] = []
    if request.driver:
        cells.append(f"driver={request.driver}")
    if request.device_ids:
        cells.append(f"device={','.join(request.device_ids)}")
    else:
        cells.append("all" if request.count == ALL else str(request.count))
    if request.capabilities and not (gpus and request.capabilities == ("gpu",)):
        cells.append(f"capabilities={','.join(request.capabilities)}")
    if request.options:
        cells.append("options=" + ",".join(f"{key}={value}" for key, value in request.options))
    out = io.StringIO()
    csv.writer(out, lineterminator="").writerow(cells)
    return out.getvalue()
