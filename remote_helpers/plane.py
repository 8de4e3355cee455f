"""What the node's networks need of kernel and Engine: data plane, ESP and the file, in a thread of their own.

Netlink, procfs and `ip` are waited for here; the helper's own loop waits for none of them.
"""

from __future__ import annotations

import json
import os

from .engine import Engine, EngineError, EngineGone
from .log import log
from .loopthread import LoopThread
from .net.apply import ApplyFailed, DataPlane
from .net.esp import Esp, EspError, Wanted, parse_wanted
from .net.numbers import BadState
from .net.xfrm import BadKeys

VERSION = 1
ENGINE_S = 1.0  # to say which API it speaks: it is hardly ever needed here


class Plane:
    """Called from the helper's loop, one call at a time. `failed`: name of a network -> why it could not be made.

    `lost`: numbers of peers that need a new epoch before all can be sent and taken. `esp_state`: what the file has
    of ESP.
    """

    def __init__(self, path: str, root: str, engine_path: str, esp_state: dict) -> None:
        self._path, self._root, self._engine_path = path, root, engine_path
        self._thread = LoopThread("network")
        self._engine = self._plane = self._esp = None
        self._kept: dict = {}  # the state in the file
        self.esp_state = esp_state
        self.failed: dict = {}
        self.lost: list = []

    @property
    def closed(self) -> bool:
        """Whether ESP's policies are, or may be, in the kernel."""
        return bool(self.esp_state.get("closed"))

    def stop(self) -> None:
        self._thread.stop()

    # --- from the helper's loop -------------------------------------------------------------------------------
    async def bring(self, kept: dict, state: dict, whole: bool) -> tuple:
        """(what had drifted, errors) of a pass; `kept` is the state as the file gets it."""
        return await self._thread.do(self._bring(kept, state, whole))

    async def purge(self, keys_too: bool) -> tuple:
        """(what was there, errors). Nothing of ours is left, but for the keys unless told."""
        return await self._thread.do(self._purge(keys_too))

    async def hairpin(self) -> None:
        """Raises ApplyFailed."""
        await self._thread.do(self._hairpin())

    async def secure(self, message: dict) -> list:
        """The result of `secure`. Raises BadKeys, EspError, OSError."""
        return await self._thread.do(self._secure(message))

    async def repair(self) -> tuple:
        """(what had drifted, errors) of ESP alone, while there is no other state."""
        return await self._thread.do(self._repair())

    # --- in the thread ----------------------------------------------------------------------------------------
    async def _ready(self, own) -> None:
        """Make the parts here: what waits in them belongs to this loop. `own`: number and address, if known."""
        if self._plane is None:
            self._engine = Engine(self._engine_path)
            self._esp = Esp(self._keep)
            try:
                self._esp.restore(self.esp_state)
            except BadKeys as e:
                log("esp_state_unreadable", cause=e)
            self._plane = DataPlane(self._engine, self._root, secure=self._esp.secure)
        if self.closed and self._esp.wanted is None and own is not None:
            # A former process had the keys; by now they are in the kernel alone.
            try:
                await self._esp.resume(*own)
            except EspError as e:
                log("keys_not_resumed", cause=e)  # encrypted networks stay as they are; others go on
        if not self._engine.version:
            try:
                await self._engine.negotiate(ENGINE_S)
            except (EngineGone, EngineError) as e:
                log("network_without_engine", cause=e)  # it is asked for bridges only, and says so then

    async def _bring(self, kept: dict, state: dict, whole: bool) -> tuple:
        try:
            own = state["node"]
            await self._ready((own["n"], own["underlay"]))
            self._save(kept)
            found = (await self._plane.apply(state) if whole else await self._plane.change(state)) or [], []
        except ApplyFailed as e:
            found = e.differed, e.errors
        except (BadState, EspError, OSError) as e:
            found = [], [str(e) or type(e).__name__]
        self.failed = dict(self._plane.failed)
        self.lost = list(self._esp.lost)
        return found

    async def _repair(self) -> tuple:
        try:
            await self._ready(None)
            wanted = self._esp.wanted
            drift = await self._esp.secure() if wanted is not None and wanted.closed else []
        except (EspError, OSError) as e:
            return [], [str(e)]
        self.lost = list(self._esp.lost)
        return drift, []

    async def _secure(self, message: dict) -> list:
        wanted = parse_wanted(message)
        await self._ready((wanted.n, wanted.address))
        try:
            self.lost = list(await self._esp.apply(wanted))
        finally:
            self._save(self._kept)
        return self.lost

    async def _purge(self, keys_too: bool) -> tuple:
        await self._ready(None)
        try:
            words, errors = await self._plane.purge(), []
        except ApplyFailed as e:
            words, errors = e.differed, e.errors
        self.failed = {}
        if keys_too and self.closed:
            try:
                await self._esp.apply(Wanted(1, "127.0.0.1", closed=False))
            except EspError as e:
                errors = [*errors, str(e)]
        if not errors and keys_too:
            self._esp, self._plane, self.esp_state = None, None, {}
        self._save({})
        return words, errors

    async def _hairpin(self) -> None:
        await self._ready(None)
        self._plane.hairpin()

    def _keep(self, esp_state: dict) -> None:
        """Before an epoch is used: another process must not send anew what was sent once with its key."""
        self.esp_state = esp_state
        save(self._path, self._kept, esp_state)

    def _save(self, kept: dict) -> None:
        self._kept = kept
        if self._esp is not None and (self._esp.wanted is not None or self.esp_state):
            self.esp_state = self._esp.to_state()
        save(self._path, kept, self.esp_state)


def save(path: str, state: dict, esp_state: dict) -> None:
    """Write `network.json` (0600), whole or not at all; without content there is none. Raises OSError."""
    if not state and not esp_state:
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        return
    content = json.dumps({"v": VERSION, "state": state, "esp": esp_state}, separators=(",", ":"))
    fd = os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        file.write(content)
    os.rename(path + ".new", path)


def load(path: str) -> dict:
    """What `save` wrote, as `{"state", "esp"}`; empty if there is none or it cannot be read."""
    try:
        with open(path, encoding="utf-8") as file:
            saved = json.load(file)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as e:
        log("network_state_unreadable", path=path, error=e)
        return {}
    return saved if isinstance(saved, dict) and saved.get("v") == VERSION else {}
