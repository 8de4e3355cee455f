"""Faults done to machines and their links, all real; each returns when it is so, and may be repeated."""

from __future__ import annotations

from collections.abc import Callable

from . import keys, machine, network
from .errors import LabError
from .lab import Lab, Node
from .machine import Power
from .process import wait_until

SLOW_DELAY_MS = 60
SLOW_LOSS_PERCENT = 1
REBOOT_LIMIT_S = 120.0


def power_off(lab: Lab, node: Node) -> None:
    """Pull the plug: what the machine had not written to its disk is lost."""
    machine.power_off(node.machine)
    node.shell.hang_up()


def power_on(lab: Lab, node: Node) -> None:
    """Boot on the disk that it had; returns at once (`--wait` waits until it is of use)."""
    node.shell.hang_up()
    machine.power_on(node.machine)


def freeze(lab: Lab, node: Node) -> None:
    """Stop everything in the machine at one instant."""
    machine.freeze(node.machine)


def thaw(lab: Lab, node: Node) -> None:
    """Let it go on from that instant."""
    machine.thaw(node.machine)


def cut(lab: Lab, node: Node) -> None:
    """Drop every frame from and to the machine, except the lab's own."""
    network.change_cut(lab.paths, add=True, set_name="cut", element=_tap(node))


def heal(lab: Lab, node: Node) -> None:
    """Undo cut and slow, and its cuts from other machines and the manager."""
    network.change_cut(lab.paths, add=False, set_name="cut", element=_tap(node))
    network.change_cut(lab.paths, add=False, set_name="cut_manager", element=_tap(node))
    for pair in network.cut_elements(lab.paths, "cut_pair"):
        if _tap(node) in pair.split(" . "):
            network.change_cut(lab.paths, add=False, set_name="cut_pair", element=pair)
    if machine.power(node.machine) is Power.RUNNING:
        node.shell.run("tc qdisc show dev vec0 | grep -q netem && tc qdisc del dev vec0 root; true", timeout_s=30)


def cut_manager(lab: Lab, node: Node) -> None:
    """Drop every frame between the machine and the namespace's own address."""
    network.change_cut(lab.paths, add=True, set_name="cut_manager", element=_tap(node))


def heal_manager(lab: Lab, node: Node) -> None:
    """Undo cut-manager."""
    network.change_cut(lab.paths, add=False, set_name="cut_manager", element=_tap(node))


def cut_pair(lab: Lab, one: Node, other: Node) -> None:
    """Drop every frame between two machines, both ways."""
    _change_pair(lab, one, other, add=True)


def heal_pair(lab: Lab, one: Node, other: Node) -> None:
    """Undo cut-pair."""
    _change_pair(lab, one, other, add=False)


def slow(lab: Lab, node: Node) -> None:
    """Delay and lose what the machine sends. In its own kernel, since the host's may have no netem.

    Ends with a reboot of the machine.
    """
    node.shell.run(
        f"tc qdisc replace dev vec0 root netem delay {SLOW_DELAY_MS}ms loss {SLOW_LOSS_PERCENT}% limit 10000",
        timeout_s=30,
    )


def reboot(lab: Lab, node: Node) -> None:
    """An orderly reboot from inside; returns when the new kernel runs."""
    before = machine.kernel_process(node.machine)
    if before is None:
        raise LabError(f"machine {node.name} is off", f"`fault {node.name} power-on` starts it.")
    node.shell.run("systemctl reboot >/dev/null 2>&1; true", timeout_s=30)

    def anew() -> bool:
        now = machine.kernel_process(node.machine)
        return now is not None and now != before

    if not wait_until(anew, timeout_s=REBOOT_LIMIT_S, every_s=0.1):
        raise LabError(
            f"machine {node.name} did not reboot within {REBOOT_LIMIT_S:.0f} s; "
            f"its console ends with:\n{machine.console_tail(node.machine)}",
            f"`fault {node.name} power-off` and `power-on` help in any case.",
        )
    node.shell.hang_up()


def hang_engine(lab: Lab, node: Node) -> None:
    """Stop dockerd by SIGSTOP; containerd and the containers go on."""
    _signal_engine(node, "STOP", "T")


def resume_engine(lab: Lab, node: Node) -> None:
    """Let dockerd go on."""
    _signal_engine(node, "CONT", "[SR]")


def new_host_key(lab: Lab, node: Node) -> None:
    """Give the machine another SSH host key, as an impostor has; the inventory keeps the true one."""
    node.shell.run(
        "cd /etc/ssh && rm -f ssh_host_ed25519_key* && "
        "ssh-keygen -q -t ed25519 -N '' -f ssh_host_ed25519_key && systemctl restart ssh",
        timeout_s=30,
    )


def old_host_key(lab: Lab, node: Node) -> None:
    """Undo new-host-key."""
    pair = keys.ensure_key(node.machine.folder / "host_key", node.name)
    node.shell.run(
        f"cd /etc/ssh && umask 077 && cat >ssh_host_ed25519_key <<'END'\n{pair.private}END\n"
        f"cat >ssh_host_ed25519_key.pub <<'END'\n{pair.public}END\nsystemctl restart ssh",
        timeout_s=30,
    )


ONE_NODE: dict[str, Callable[[Lab, Node], None]] = {
    "power-off": power_off,
    "power-on": power_on,
    "freeze": freeze,
    "thaw": thaw,
    "cut": cut,
    "heal": heal,
    "slow": slow,
    "reboot": reboot,
    "hang-engine": hang_engine,
    "resume-engine": resume_engine,
    "new-host-key": new_host_key,
    "old-host-key": old_host_key,
    "cut-manager": cut_manager,
    "heal-manager": heal_manager,
}
TWO_NODES: dict[str, Callable[[Lab, Node, Node], None]] = {"cut-pair": cut_pair, "heal-pair": heal_pair}


def _tap(node: Node) -> str:
    return f"tap{node.machine.index}"


def _change_pair(lab: Lab, one: Node, other: Node, *, add: bool) -> None:
    if one.name == other.name:
        raise LabError("a machine cannot be cut from itself", "Name two machines.")
    for left, right in ((one, other), (other, one)):
        network.change_cut(lab.paths, add=add, set_name="cut_pair", element=f"{_tap(left)} . {_tap(right)}")


def _signal_engine(node: Node, sign: str, state: str) -> None:
    node.shell.run(
        "pid=$(systemctl show -p MainPID --value docker); "
        '[ "$pid" -gt 0 ] || { echo dockerd does not run; exit 1; }; '
        f"kill -{sign} $pid; i=0; until grep -q '^State:.{state}' /proc/$pid/status; do "
        "i=$((i+1)); [ $i -lt 50 ] || exit 1; sleep 0.1; done",
        timeout_s=30,
    )
