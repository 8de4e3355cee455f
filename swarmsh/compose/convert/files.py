"""Secrets and configs: the stack's own, and a service's references to them by full name."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swarmsh.compose.convert.names import Names
from swarmsh.compose.convert.spot import Spot
from swarmsh.model.specs import ConfigReference, Driver, FileTarget, SecretReference
from swarmsh.model.stacks import StackConfig, StackSecret

_READABLE = 0o444
_SOURCES = ("file", "environment", "content", "driver")


def read_file(path: str) -> bytes:
    """Raises OSError."""
    return Path(path).read_bytes()


@dataclass(frozen=True, slots=True)
class Sources:
    """Where data comes from: the caller's variables, and files, relative ones below `directory`."""

    environment: Mapping[str, str]
    directory: str
    read: Callable[[str], bytes] = read_file

    def file(self, spot: Spot) -> bytes:
        """The contents of the file that is named there. Raises ComposeError."""
        path = os.path.normpath(os.path.join(self.directory, os.path.expanduser(spot.text())))
        try:
            return self.read(path)
        except (OSError, ValueError) as e:  # a path with a NUL is the latter
            raise spot.wrong(f"{path!r} cannot be read: {getattr(e, 'strerror', '') or e}") from e

    def variable(self, spot: Spot) -> bytes:
        """The value of the variable that is named there. Raises ComposeError."""
        value = self.environment.get(spot.text())
        if value is None:
            raise spot.wrong(f"variable {spot.text()} is not set", hint="Export it, or put it in .env")
        return os.fsencode(value)  # the very bytes, also where they are no text


# --- declared -----------------------------------------------------------------------------------------------
def secrets_of(declared: Spot, names: Names, sources: Sources) -> dict[str, StackSecret]:
    """All that the file declares, by short name, used or not. Raises ComposeError."""
    return {short: _secret(spot, short, names, sources) for short, spot in sorted(declared.items())}


def configs_of(declared: Spot, names: Names, sources: Sources) -> dict[str, StackConfig]:
    return {short: StackConfig(**_common(spot, short, names, sources)) for short, spot in sorted(declared.items())}


def _secret(spot: Spot, short: str, names: Names, sources: Sources) -> StackSecret:
    driver = None
    if spot["driver"]:
        driver = Driver(name=spot["driver"].text(), options=spot["driver_opts"].pairs())
    elif spot["driver_opts"]:
        raise spot["driver_opts"].wrong("needs a driver")
    return StackSecret(**_common(spot, short, names, sources), driver=driver)


def _common(spot: Spot, short: str, names: Names, sources: Sources) -> dict[str, Any]:
    name = names.of(spot, short)
    if spot["external"].flag():
        return {"name": name, "external": True}
    source = next((key for key in _SOURCES if spot[key].given), None)
    if source is None:
        raise spot.wrong("says nothing of its contents", hint="Give a file, or `external: true`")
    templating = Driver(name=spot["template_driver"].text()) if spot["template_driver"] else None
    return {
        "name": name,
        "labels": names.labelled(spot["labels"].pairs()),
        "data": _data(spot[source], source, sources),
        "templating": templating,
    }


def _data(spot: Spot, key: str, sources: Sources) -> bytes:
    match key:
        case "file":
            return sources.file(spot)
        case "environment":
            return sources.variable(spot)
        case "content":
            return spot.text().encode()
        case _:
            return b""  # a driver's secret has its data elsewhere


# --- references ---------------------------------------------------------------------------------------------
def secret_references(service: Spot, declared: Spot, names: Names) -> tuple[SecretReference, ...]:
    """In the order of full names, as the docker CLI sends them. Raises ComposeError."""
    found = [
        SecretReference(file=target, secret_name=name)
        for name, target in _references(service["secrets"], declared, names, "secret")
    ]
    return tuple(sorted(found, key=lambda reference: reference.secret_name))


def config_references(service: Spot, declared: Spot, names: Names) -> tuple[ConfigReference, ...]:
    """As for secrets, and the config of a credential spec, which is no file in the container."""
    found = [
        ConfigReference(file=target, config_name=name)
        for name, target in _references(service["configs"], declared, names, "config")
    ]
    if service["credential_spec"]["config"]:
        found.append(ConfigReference(runtime={}, config_name=credential_config(service, declared, names)))
    return tuple(sorted(found, key=lambda reference: reference.config_name))


def credential_config(service: Spot, declared: Spot, names: Names) -> str:
    """The full name of a credential spec's config. Raises ComposeError."""
    spot = service["credential_spec"]["config"]
    return names.of(_declared(spot, declared, "config"), spot.text())


def _declared(spot: Spot, declared: Spot, kind: str) -> Spot:
    if spot.text() not in declared:
        raise spot.wrong(f"undefined {kind} '{spot.text()}'", hint=f"Declare it at the top, below `{kind}s:`")
    return declared[spot.text()]


def _references(entries: Spot, declared: Spot, names: Names, kind: str) -> list[tuple[str, FileTarget]]:
    found: list[tuple[str, FileTarget]] = []
    targets: set[str] = set()
    for spot in entries.each():
        source = spot["source"]
        target = FileTarget(
            name=spot["target"].text() or source.text(),
            uid=spot["uid"].text() or "0",
            gid=spot["gid"].text() or "0",
            mode=_READABLE if not spot["mode"].given else spot["mode"].mode() or 0,
        )
        if target.name in targets:
            raise spot.wrong(f"duplicate {kind} target {target.name}")
        targets.add(target.name)
        found.append((names.of(_declared(source, declared, kind), source.text()), target))
    return found
