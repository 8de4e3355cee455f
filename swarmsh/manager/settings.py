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
    # So long the stop of a task waits at most until every node has acknowledged that it sends nothing new to it.
    # Silent nodes are not waited for, so this is for those that live and are slow: more is safer than less.
    leave_ack_s: float = 15.0
    # A manager that has just started stops no task before all nodes were met, for so long: they may send to it.
    meet_s: float = 10.0
    peers_asked: int = 3
    # How often it is found out which peers reach a node that is well: its sshd logs a line for each of them.
    baseline_every_s: float = 600.0
    many_nodes: int = 200  # above: half as many heartbeats
    full_pass_s: float = 300.0
