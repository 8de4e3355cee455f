"""Host keys of new nodes: found in the inventory or in known_hosts, or shown and confirmed; never silently."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from typing import NamedTuple

import click
import msgspec

from swarmsh.adapters.ssh import SshDialer, known_host_keys
from swarmsh.cli.output import note
from swarmsh.errors import SwarmshError
from swarmsh.model.objects import SshTarget

ACCEPT_FLAG = "--accept-new-host-keys"


class Shown(NamedTuple):
    """A key that a host shows and that nobody vouches for yet."""

    name: str
    target: SshTarget
    fingerprint: str
    key: str


class Pinned(NamedTuple):
    targets: dict[str, SshTarget]  # by host name, every hop with its pins
    failures: dict[str, SwarmshError]  # by host name


def pin_targets(hosts: dict[str, SshTarget], *, accept_new: bool, never_ask: bool) -> Pinned:
    """Every host's target with pins; hosts whose key cannot be had are failures.

    Jump hosts come first, since nobody logs in to one that is not pinned: one question a hop, so usually one.
    Raises SwarmshError if keys are unknown and may not be asked for, or are declined.
    """
    chains = {name: [*target.jump, target] for name, target in hosts.items()}
    failures: dict[str, SwarmshError] = {}
    for hop in range(max((len(chain) for chain in chains.values()), default=0)):
        unknown = asyncio.run(_pin_hop(chains, failures, hop))
        if unknown:
            _confirm(unknown, accept_new=accept_new, never_ask=never_ask)
            for shown in unknown:
                pin = shown.target
                for chain in chains.values():
                    if len(chain) > hop and _place(chain[hop]) == _place(pin) and not chain[hop].host_keys:
                        chain[hop] = msgspec.structs.replace(chain[hop], host_keys=(shown.key,))
    done = {
        name: msgspec.structs.replace(chain[-1], jump=tuple(chain[:-1]))
        for name, chain in chains.items()
        if name not in failures
    }
    return Pinned(done, failures)


def _place(target: SshTarget) -> tuple[str, int]:
    return target.address, target.port


async def _pin_hop(chains: dict[str, list[SshTarget]], failures: dict[str, SwarmshError], hop: int) -> list[Shown]:
    """Pin this hop of every chain from known_hosts; what remains, with the keys that the hosts show."""
    dialer = SshDialer()
    open_questions: dict[tuple[str, int], Shown] = {}

    async def pin(name: str, chain: list[SshTarget]) -> None:
        target = chain[hop]
        known = await known_host_keys(target.address, target.port)
        if known:
            chain[hop] = msgspec.structs.replace(target, host_keys=known)
            return
        through = msgspec.structs.replace(target, jump=tuple(chain[:hop]))
        try:
            fingerprint, key = await dialer.fetch_host_key(through)
        except SwarmshError as error:
            failures[name] = error
            return
        label = name if hop == len(chain) - 1 else f"jump host of {name}"
        open_questions.setdefault(_place(target), Shown(label, target, fingerprint, key))

    async with asyncio.TaskGroup() as group:
        for name, chain in chains.items():
            if len(chain) > hop and name not in failures and not chain[hop].host_keys:
                group.create_task(pin(name, chain))
    return sorted(open_questions.values())


def _confirm(unknown: Sequence[Shown], *, accept_new: bool, never_ask: bool) -> None:
    """Ask once for all. Raises SwarmshError if that is not possible, or declined."""
    note("Host keys that are neither given nor in known_hosts:")
    width = max(len(shown.name) for shown in unknown)
    for shown in unknown:
        kind = shown.key.split()[0].removeprefix("ssh-")
        note(f"  {shown.name:<{width}}  {shown.target.address}:{shown.target.port}  {kind}  {shown.fingerprint}")
    if accept_new:
        note(f"Accepted, by {ACCEPT_FLAG}")
        return
    if never_ask or not sys.stdin.isatty():
        why = "-y does not trust new keys" if never_ask else "there is no terminal to ask on"
        raise SwarmshError(
            f"{'a host key is' if len(unknown) == 1 else f'{len(unknown)} host keys are'} unknown, and {why}",
            hint="Compare them (`ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` on the host), then give them "
            f"(swarmsh_host_key in an inventory, `node add --host-key`), or accept them all with {ACCEPT_FLAG}",
        )
    if not click.confirm(f"Trust {'this key' if len(unknown) == 1 else f'these {len(unknown)} keys'}?", err=True):
        raise SwarmshError("the host keys were not trusted: nothing was changed")
