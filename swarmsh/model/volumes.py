"""Volumes as the Engines of nodes tell them: they are read when asked for, never stored."""

from __future__ import annotations

from msgspec import field

from swarmsh.model.wire import Record


class EngineVolume(Record, kw_only=True):
    """A volume of one Engine. Sizes and numbers of containers are known only where they were asked for."""

    name: str
    driver: str = "local"
    mountpoint: str = ""
    created_at: str = ""  # RFC 3339, as the Engine writes it
    labels: dict[str, str] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)
    scope: str = "local"
    in_use: bool = False  # some container has it, running or not
    size_bytes: int | None = None
