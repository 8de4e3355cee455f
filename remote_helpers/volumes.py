"""The node's volumes that hold data of their own: their names, as far as tasks are placed by them.

Anonymous volumes belong to one container, remote ones (NFS and the like) are the same on every node, and what is
on tmpfs is gone with its container: none of them is told.
"""

from __future__ import annotations

import asyncio
import json
import re

from .engine import Engine, EngineError, EngineGone
from .log import log
from .timing import Expired, deadline

MOST = 2000  # names in a description,
ROOM = 128 * 1024  # and bytes of them: a line has no room for any number
_ANONYMOUS = re.compile(r"[0-9a-f]{64}")
_ELSEWHERE = frozenset(("tmpfs", "nfs", "nfs3", "nfs4", "cifs", "smb3", "9p", "ceph", "glusterfs", "fuse.sshfs"))
_SETTLED_S = 0.2  # after an event: a prune brings many
_LOST_S = 2.0


def with_data(listed: dict) -> tuple:
    """Names, sorted, of the volumes of `GET /volumes` that are tied to this node; and whether there are more."""
    found = (one for one in listed.get("Volumes") or () if one.get("Driver") == "local")
    names = sorted(
        one["Name"] for one in found if not _ANONYMOUS.fullmatch(one["Name"]) and on_disk(one.get("Options") or {})
    )
    told, room = [], ROOM
    for name in names[:MOST]:
        room -= len(name) + 4  # quotes, comma, space
        if room < 0:
            break
        told.append(name)
    if len(told) < len(names):
        log("volumes_not_all_told", volumes=len(names), told=len(told))
    return told, len(told) < len(names)


def on_disk(options: dict) -> bool:
    """Whether the options of a local volume leave its data on this node."""
    return options.get("type", "") not in _ELSEWHERE and "addr=" not in options.get("o", "")


def made_with(action: dict) -> set:
    """Names of volumes with data that the container of an `ensure_task` has, and so this node."""
    found = set()
    for mount in ((action.get("config") or {}).get("HostConfig") or {}).get("Mounts") or ():
        driver = (mount.get("VolumeOptions") or {}).get("DriverConfig") or {}
        local = driver.get("Name", "") in ("", "local") and on_disk(driver.get("Options") or {})
        if mount.get("Type") == "volume" and mount.get("Source") and local:
            found.add(mount["Source"])
    return found


class Volumes:
    """`known` are their names, None before the Engine has told, and `cut` that there are more of them.

    `changed()` is called when they did.
    """

    def __init__(self, engine: Engine, wait_ok, changed) -> None:
        self.known = None
        self.cut = False
        self._engine, self._wait_ok, self._changed = engine, wait_ok, changed
        self._dirty = asyncio.Event()

    async def refresh(self) -> None:
        """Ask the Engine. What it does not tell stays as it was."""
        try:
            found = with_data(await self._engine.call("GET", "/volumes", timeout_s=30.0) or {})
        except (EngineGone, EngineError) as e:
            log("volumes_not_listed", cause=e)
            return
        self._take(*found)

    def made(self, names: set) -> None:
        """A container was made that has these: they are here, whatever a list that is on its way says."""
        if self.known is not None and not names <= set(self.known):
            self._take(sorted(names | set(self.known)), self.cut)

    def _take(self, names: list, cut: bool) -> None:
        if (names, cut) != (self.known, self.cut):
            self.known, self.cut = names, cut
            self._changed()

    async def run(self) -> None:
        """Follow the Engine's events of volumes for ever; each makes the list be read again."""
        await asyncio.gather(self._follow_all(), self._read_all())

    async def _read_all(self) -> None:
        while True:
            await self._dirty.wait()
            await asyncio.sleep(_SETTLED_S)
            self._dirty.clear()
            await self.refresh()

    async def _follow_all(self) -> None:
        while True:
            await self._wait_ok()
            try:
                await self._follow()
            except (EngineGone, EngineError) as e:
                log("volume_events_lost", cause=e)
            await asyncio.sleep(_LOST_S)

    async def _follow(self) -> None:
        filters = {"type": ["volume"], "event": ["create", "destroy", "prune"]}
        call = self._engine.open("GET", "/events", query={"filters": json.dumps(filters)})
        try:
            async with deadline(10.0):
                answer = await call.__aenter__()
        except Expired:
            raise EngineGone("no stream of volume events within 10 s") from None
        try:
            if answer.status >= 400:
                raise EngineError(answer.status, "no events of volumes")
            self._dirty.set()  # what changed before
            async for _ in answer.objects():
                self._dirty.set()
        finally:
            await call.__aexit__(None, None, None)
