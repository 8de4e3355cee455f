"""An event loop in a thread of its own: what blocks there keeps no heartbeat and no name server waiting."""

from __future__ import annotations

import asyncio
import threading


class LoopThread:
    """`do` runs a coroutine there and waits for it here, without blocking."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        # A daemon: at the end of the process nobody waits for a kernel that does not answer.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    async def do(self, coroutine):
        """Its result or exception. A cancellation here is one there."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, self._loop))

    def stop(self) -> None:
        """End the loop once what runs in it gives way; what still waits there is given up."""
        self._loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        left = [task for task in asyncio.all_tasks(self._loop) if not task.done()]
        for task in left:
            task.cancel()
        gathered = asyncio.gather(*left, return_exceptions=True)
        gathered.add_done_callback(lambda _: self._loop.stop())
