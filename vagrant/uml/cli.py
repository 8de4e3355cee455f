"""The command line of `vagrant/lab`: parses, calls, prints."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import faults, host, image, machine, network, testimages
from .errors import LabError
from .lab import DEFAULT_MEMORY_MB, MIXED, Lab, Plan
from .machine import Power
from .paths import lab_paths

EPILOG = "See docs/lab.md. Run as root; nothing of a lab reaches beyond its own network namespace."


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code (0, 1 for an expected failure, 2 for wrong usage)."""
    words = list(sys.argv[1:] if argv is None else argv)
    arguments = _parser().parse_args(words)
    try:
        host.require_root()
        code: int = arguments.act(arguments) or 0
        return code
    except LabError as err:
        print(f"lab: {err}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("lab: interrupted; `down` removes what is there, `up` goes on", file=sys.stderr, flush=True)
        os._exit(130)  # threads that wait for machines would keep us
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vagrant/lab", epilog=EPILOG, description="A cluster of real kernels on one Linux machine."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    named = argparse.ArgumentParser(add_help=False)
    named.add_argument("--name", default="default", help="which lab (default: default)")

    def command(name: str, act: Any, summary: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, parents=[named], help=summary, description=summary)
        sub.set_defaults(act=act)
        return sub

    up = command("up", _up, "make a lab, or complete one; ends when all machines are of use")
    up.add_argument("--nodes", type=int, help="how many machines (default: 3)")
    up.add_argument("--suite", choices=(*image.SUITES, MIXED), help="Debian suite (default: bookworm)")
    up.add_argument("--memory", type=int, metavar="MB", help=f"memory of a machine (default: {DEFAULT_MEMORY_MB})")
    up.add_argument("--registry", action="store_true", help="also run a container registry")
    up.add_argument("--registry-auth", metavar="USER:PASSWORD", help="the registry wants this login (implies it)")
    up.add_argument("--quiet", action="store_true", help="no progress")
    command("down", _down, "remove a lab, or what is left of one")
    status = command("status", _status, "show what is there")
    status.add_argument("--format", choices=("table", "json"), default="table")
    ssh = command("ssh", _ssh, "a root shell, or one command, on a machine")
    ssh.add_argument("node")
    ssh.add_argument(
        "command",
        nargs=argparse.REMAINDER,
        metavar="CMD",
        help="one word: a line for the shell there; several: an exact argument list",
    )
    run = command("run", _run, "a command on this host inside the lab's network namespace")
    run.add_argument("command", nargs=argparse.REMAINDER, metavar="-- CMD")
    load = command("image", _image, "load a tar (of docker save, or of a root file system) on machines")
    load.add_argument("tag")
    load.add_argument("tar", type=Path)
    load.add_argument("nodes", nargs="*", metavar="NODE", help="default: all")
    fault = command("fault", _fault, "do NODE FAULT, or cut-pair|heal-pair A B")
    fault.add_argument(
        "words", nargs="+", metavar="WORD", help="faults: " + ", ".join((*faults.ONE_NODE, *faults.TWO_NODES))
    )
    fault.add_argument("--wait", action="store_true", help="power-on, reboot: until sshd and Engine answer")
    cli = command("docker-cli", _docker_cli, "print the path of a suite's docker client that runs here")
    cli.add_argument("suite", choices=image.SUITES)
    return parser


def _up(arguments: argparse.Namespace) -> None:
    lab = Lab(lab_paths(arguments.name))
    old = lab.plan() or Plan()
    auth = old.registry_auth if arguments.registry_auth is None else arguments.registry_auth
    lab.up(
        Plan(
            nodes=arguments.nodes or old.nodes,
            suite=arguments.suite or old.suite,
            memory_mb=arguments.memory or old.memory_mb,
            registry_auth=auth,
            registry=arguments.registry or old.registry or bool(auth),
        ),
        quiet=arguments.quiet,
    )


def _down(arguments: argparse.Namespace) -> None:
    Lab(lab_paths(arguments.name)).down()


def _status(arguments: argparse.Namespace) -> None:
    status = Lab(lab_paths(arguments.name)).status()
    if arguments.format == "json":
        print(json.dumps(status, indent=2))
        return
    print(
        f"lab {status['name']}: namespace {status['namespace']}, host address {status['host_address']}, "
        f"registry {status['registry'] or '-'}\ninventory {status['inventory']}"
    )
    rows = [("NODE", "ADDRESS", "SUITE", "STATE", "PID", "SSHD", "ENGINE", "FAULTS")]
    rows += [
        (
            n["name"],
            n["address"],
            n["suite"],
            n["state"],
            str(n["pid"] or "-"),
            "yes" if n["sshd"] else "no",
            n["engine"] or "-",
            ", ".join(n["faults"]) or "-",
        )
        for n in status["nodes"]
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _ssh(arguments: argparse.Namespace) -> None:
    node = Lab(lab_paths(arguments.name)).node(arguments.node)
    state = machine.power(node.machine)
    if state is not Power.RUNNING:
        raise LabError(
            f"machine {node.name} is {state.value}",
            f"`fault {node.name} {'thaw' if state is Power.FROZEN else 'power-on'}` brings it back.",
        )
    node.shell.become(_command(arguments.command))


def _run(arguments: argparse.Namespace) -> int:
    command = _command(arguments.command)
    if not command:
        raise LabError("run what?", "vagrant/lab run [--name NAME] -- CMD [ARG…]")
    paths = lab_paths(arguments.name)
    network.enter(paths.namespace)
    try:
        os.execvp(command[0], command)
    except OSError as err:
        print(f"lab: {command[0]}: {err.strerror}", file=sys.stderr)
        return 127 if isinstance(err, FileNotFoundError) else 126


def _image(arguments: argparse.Namespace) -> None:
    lab = Lab(lab_paths(arguments.name))
    tar: Path = arguments.tar
    if not tar.is_file():
        raise LabError(f"{tar}: no such file")
    nodes = [lab.node(name) for name in arguments.nodes] or lab.nodes()
    testimages.put_on(tar, arguments.tag, [node.shell for node in nodes])


def _fault(arguments: argparse.Namespace) -> None:
    lab = Lab(lab_paths(arguments.name))
    words: list[str] = arguments.words
    for i, word in enumerate(words):
        if word in faults.TWO_NODES and len(words) == 3:
            one, other = (w for j, w in enumerate(words) if j != i)
            faults.TWO_NODES[word](lab, lab.node(one), lab.node(other))
            return
        if word in faults.ONE_NODE and len(words) == 2:
            node = lab.node(words[1 - i])
            faults.ONE_NODE[word](lab, node)
            if arguments.wait:
                lab.wait_ready(node, quiet=True)
            return
    raise LabError(
        f"`fault {' '.join(words)}` is none",
        f"NODE and one of {', '.join(faults.ONE_NODE)}; or {', '.join(faults.TWO_NODES)} and two machines.",
    )


def _docker_cli(arguments: argparse.Namespace) -> None:
    host.ensure_packages()
    print(image.docker_cli(arguments.suite, lambda stage: print(f"{arguments.suite}: {stage}", file=sys.stderr)))


def _command(words: Sequence[str]) -> list[str]:
    return list(words[1:] if words[:1] == ["--"] else words)
