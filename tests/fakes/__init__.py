"""Stand-ins for the outside world, each held to the real one's contract where `tests/contract` has one."""
