"""Secrets and configs that services are to have: from what was typed to references with the ids of now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from swarmsh.client import ManagerClient, encode_filters
from swarmsh.errors import NotFound

Json = dict[str, Any]
KINDS = ("secret", "config")


def with_kept_ids(manager: ManagerClient, flags: Json) -> Json:
    """The flags of `service create` or `update`, their references completed. Raises UsageError, NotFound."""
    resolved = dict(flags)
    for kind in KINDS:
        for flag in (kind, f"{kind}_add"):
            if flags.get(flag):
                resolved[flag] = _referenced(manager, kind, flags[flag])
    return resolved


def _referenced(manager: ManagerClient, kind: str, references: Sequence[Json]) -> tuple[Json, ...]:
    name_key, id_key = f"{kind.title()}Name", f"{kind.title()}ID"
    targets: set[str] = set()
    for reference in references:
        if reference["File"]["Name"] in targets:
            raise click.UsageError(f"duplicate {kind} target for {reference[name_key]} not allowed")
        targets.add(reference["File"]["Name"])
    names = sorted({str(reference[name_key]) for reference in references})
    found = manager.get(f"/{kind}s", filters=encode_filters({"name": names}))
    ids = {one["Spec"]["Name"]: one["ID"] for one in found}
    for name in names:
        if name not in ids:
            raise NotFound(f"{kind} not found: {name}", hint=f"`swarmsh {kind} ls` lists them")
    return tuple({"File": r["File"], id_key: ids[r[name_key]], name_key: r[name_key]} for r in references)
