"""What the node's networks need of kernel and Engine: data plane, ESP and the file, in a thread of their own.

Netlink, procfs and `ip` are waited for here; the helper's own loop waits for none of them.
"""

from __future__ import annotations

from .engine import Engine, EngineError, EngineGone
from .log import log
from .loopthread import LoopThread
from .net.apply import ApplyFailed, DataPlane
from .net.esp import Esp, EspError, Wanted, parse_wanted
from .net.numbers import BadState
from .net.xfrm import BadKeys
from .netfile import NetFile
from .netstate import Held

ENGINE_S = 1.0  # to say which API it speaks: it is hardly ever needed here


class Plane:
    """Called from the helper's loop, one call at a time. `failed`: name of a network -> why it could not be made.

    `lost`: numbers of peers that need a new epoch before all can be sent and taken. `esp_state`: what the file has
    of ESP.
    """

    def __init__(self, path: str, root: str, engine_path: str, esp_state: dict) -> None:
        self._root, self._engine_path = root, engine_path
        self._file = NetFile(path)
        self._thread = LoopThread("network")
        self._engine = self._plane = self._esp = None
        self._held = Held()  # the state in the file
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
    async def bring(self, held: Held, changes, state: dict, whole: bool) -> tuple:
        """(what had drifted, errors) of a pass that brings the kernel to `state`.

        `held` is what the file is to have; `changes`: (put, drop) of what is new in it, None if that is not known.
        """
        return await self._thread.do(self._bring(held, changes, state, whole))

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

    async def _bring(self, held: Held, changes, state: dict, whole: bool) -> tuple:
        unsaved: list = []
        try:
            own = state["node"]
            await self._ready((own["n"], own["underlay"]))
            unsaved = self._save_change(held, changes)
            found = (await self._plane.apply(state) if whole else await self._plane.change(state)) or [], []
        except ApplyFailed as e:
            found = e.differed, e.errors
        except (BadState, EspError, OSError) as e:
            found = [], [str(e) or type(e).__name__]
        self.failed = dict(self._plane.failed)
        self.lost = list(self._esp.lost)
        return found[0], [*unsaved, *found[1]]

    def _save_change(self, held: Held, changes) -> list:
        """Keep it for another process, if that can be done; what cannot is no reason to leave dead backends in."""
        try:
            if changes is None:
                self._save(held)
            else:
                self._held = held
                self._file.append(held, self.esp_state, changes)
        except OSError as e:
            return [f"the network state cannot be written: {e.strerror}"]
        return []

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
            self._save(self._held)
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
        self._save(Held())
        return words, errors

    async def _hairpin(self) -> None:
        await self._ready(None)
        self._plane.hairpin()

    def _keep(self, esp_state: dict) -> None:
        """Before an epoch is used: another process must not send anew what was sent once with its key."""
        self.esp_state = esp_state
        self._file.write(self._held, esp_state)

    def _save(self, held: Held) -> None:
        self._held = held
        if self._esp is not None and (self._esp.wanted is not None or self.esp_state):
            self.esp_state = self._esp.to_state()
        self._file.write(held, self.esp_state)
