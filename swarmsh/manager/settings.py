"""The manager's own clocks and limits; defaults are the design's."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    heartbeat_s: float = 1.0
    lease_s: float = 10.0
    liveness_tick_s: float = 0.5
    # A tick that comes this much late means that the manager itself stood still (sleep, a stalled loop).
    stall_s: float = 2.0
    leave_deadline_s: float = 60.0
    peers_asked: int = 3
    full_pass_s: float = 300.0
