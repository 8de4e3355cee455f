"""What a host of an inventory changes for the node that it is already. Pure.

How a host is reached and which groups it is in are the file's to say; other labels, role and availability may have
been changed on the node since, and stay.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from swarmsh.model.objects import SshTarget

GROUP_LABEL = "group."


def with_stored_pins(given: SshTarget, stored: SshTarget) -> SshTarget:
    """`given`, with the pins that are stored for its addresses (and its jump hosts') where it has none itself."""
    pins = {hop.address: hop.host_keys for hop in (*stored.jump, stored)}

    def pinned(hop: SshTarget) -> SshTarget:
        return hop if hop.host_keys else replace(hop, host_keys=pins.get(hop.address, ()))

    return replace(pinned(given), jump=tuple(pinned(hop) for hop in given.jump))


def describe_changes(stored: SshTarget, given: SshTarget) -> str:
    """`user root -> admin, port 22 -> 2222`; empty if nothing changed. Pins are only said to differ."""
    words = [
        f"{word} {before} -> {after}"
        for word, before, after in (
            ("address", stored.address, given.address),
            ("port", stored.port, given.port),
            ("user", stored.user, given.user),
            ("key", ", ".join(stored.identity_files) or "any", ", ".join(given.identity_files) or "any"),
            ("become", _yes(stored.become), _yes(given.become)),
            ("python", stored.python, given.python),
            ("underlay", stored.underlay or "as seen", given.underlay or "as seen"),
            ("jump hosts", _hops(stored), _hops(given)),
        )
        if before != after
    ]
    if stored.host_keys != given.host_keys:
        words.append("other pinned host keys")
    if not words and stored != given:
        words.append("other settings of the jump hosts")
    return ", ".join(words)


def _yes(flag: bool) -> str:
    return "yes" if flag else "no"


def _hops(target: SshTarget) -> str:
    return ",".join(f"{hop.user}@{hop.address}:{hop.port}" for hop in target.jump) or "none"


def regrouped(labels: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
    """A node's labels with those of its groups as in `given`; all others stay."""
    own = {key: value for key, value in labels.items() if not key.startswith(GROUP_LABEL)}
    return own | {key: value for key, value in given.items() if key.startswith(GROUP_LABEL)}
