"""`swarmsh secret …` and `swarmsh config …`: two groups with the same commands."""

from __future__ import annotations

from swarmsh.cli.lazy import LazyGroup


def _group(kind: str) -> LazyGroup:
    def at(module: str, command: str) -> str:
        return f"swarmsh.cli.{module}:{kind}_{command}"

    return LazyGroup(
        name=kind,
        help=f"Create, look at, rotate and remove {kind}s.",
        lazy={
            "create": (at("kept_create", "create"), f"Create a {kind}."),
            "history": (at("kept_show", "history"), f"List the versions of a {kind}."),
            "inspect": (at("kept_show", "inspect"), f"Show all there is about {kind}s, as JSON."),
            "ls": (at("kept_show", "ls"), f"List {kind}s."),
            "rm": (at("kept_change", "rm"), f"Remove {kind}s."),
            "rollback": (at("kept_change", "rollback"), f"Go back to an earlier version of a {kind}."),
            "rotate": (at("kept_change", "rotate"), f"Give a {kind} new contents."),
        },
    )


SECRET = _group("secret")
CONFIG = _group("config")
