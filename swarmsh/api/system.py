"""/_ping, /version, /info: who answers here."""

from __future__ import annotations

import platform

from aiohttp import web

from swarmsh.api import render
from swarmsh.api.context import API_VERSION, MIN_API_VERSION, Deps, json_response
from swarmsh.manager.usecases.nodes import current_manager
from swarmsh.model.objects import Node
from swarmsh.model.states import NodeState

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}  # Go's names
_NEWEST, _OLDEST = (".".join(map(str, v)) for v in (API_VERSION, MIN_API_VERSION))


async def ping(request: web.Request, deps: Deps) -> web.Response:
    state = "active/manager" if deps.snapshot.cluster is not None else "inactive"
    headers = {
        "Swarm": state,
        "Builder-Version": "2",
        "Cache-Control": "no-cache, no-store, must-revalidate",
        "Pragma": "no-cache",
    }
    body = "OK" if request.method == "GET" else ""
    return web.Response(text=body, headers=headers, content_type="text/plain", charset="utf-8")


async def version(request: web.Request, deps: Deps) -> web.Response:
    machine = _ARCHITECTURES.get(platform.machine(), platform.machine())
    details = {
        "ApiVersion": _NEWEST,
        "MinAPIVersion": _OLDEST,
        "Os": "linux",
        "Arch": machine,
        "KernelVersion": platform.release(),
        "GitCommit": "",
        "GoVersion": f"none (Python {platform.python_version()})",
        "BuildTime": "",
        "Experimental": "false",
    }
    return json_response(
        {
            "Platform": {"Name": f"swarmsh {deps.version}"},
            "Components": [{"Name": "Engine", "Version": deps.version, "Details": details}],
            "Version": deps.version,
            **{k: v for k, v in details.items() if k not in ("Experimental", "BuildTime", "GitCommit")},
            "GitCommit": "",
        }
    )


async def info(request: web.Request, deps: Deps) -> web.Response:
    snapshot = deps.snapshot
    nodes = list(snapshot.nodes.values()) if snapshot.cluster is not None else []
    ready = [n for n in nodes if n.status.state is NodeState.READY]
    running = sum(t.status.state.word == "running" for t in snapshot.tasks.values())
    return json_response(
        {
            "ID": snapshot.cluster.id if snapshot.cluster is not None else "",
            "Name": deps.name,
            "ServerVersion": deps.version,
            "Containers": len(snapshot.tasks),
            "ContainersRunning": running,
            "ContainersPaused": 0,
            "ContainersStopped": len(snapshot.tasks) - running,
            "Images": 0,
            "Driver": "swarmsh",
            "DriverStatus": [["Nodes ready", f"{len(ready)} of {len(nodes)}"]],
            "DockerRootDir": str(deps.state_dir),
            "Plugins": {
                "Volume": _plugins(nodes, "Volume"),
                "Network": _plugins(nodes, "Network"),
                "Authorization": None,
                "Log": _plugins(nodes, "Log"),
            },
            **_CAPABILITIES,
            "NFd": 0,
            "NGoroutines": 0,
            "NEventsListener": 0,
            "SystemTime": render.rfc3339(deps.clock.now()),
            "LoggingDriver": "",
            "CgroupDriver": "",
            "CgroupVersion": "",
            "KernelVersion": platform.release(),
            "OperatingSystem": f"swarmsh on {platform.system()}",
            "OSVersion": "",
            "OSType": "linux",
            "Architecture": platform.machine(),
            "NCPU": sum(n.description.nano_cpus for n in ready) // render.SECOND_NS,
            "MemTotal": sum(n.description.memory_bytes for n in ready),
            "IndexServerAddress": "https://index.docker.io/v1/",
            "RegistryConfig": {"InsecureRegistryCIDRs": [], "IndexConfigs": {}, "Mirrors": []},
            "GenericResources": None,
            "HttpProxy": "",
            "HttpsProxy": "",
            "NoProxy": "",
            "Labels": [],
            "ExperimentalBuild": False,
            "Runtimes": {},
            "DefaultRuntime": "",
            "Swarm": render.swarm_block(snapshot, current_manager(snapshot)),
            "LiveRestoreEnabled": False,
            "Isolation": "",
            "InitBinary": "",
            "ContainerdCommit": {"ID": ""},
            "RuncCommit": {"ID": ""},
            "InitCommit": {"ID": ""},
            "SecurityOptions": [],
            "Warnings": _warnings(nodes),
        }
    )


# What the CLI warns about where an Engine lacks it.
_CAPABILITIES = dict.fromkeys(
    (
        "MemoryLimit", "SwapLimit", "CpuCfsPeriod", "CpuCfsQuota", "CPUShares", "CPUSet", "PidsLimit",
        "IPv4Forwarding", "OomKillDisable", "BridgeNfIptables", "BridgeNfIp6tables",
    ),
    True,
)  # fmt: skip


def _plugins(nodes: list[Node], wanted: str) -> list[str]:
    return sorted({name for n in nodes for kind, name in n.description.plugins if kind == wanted})


def _warnings(nodes: list[Node]) -> list[str]:
    return [
        f"WARNING: node {n.hostname} is {n.status.state.value}{n.status.message and f': {n.status.message}'}"
        for n in nodes
        if n.status.state in (NodeState.DOWN, NodeState.UNREACHABLE, NodeState.UNTRUSTED)
    ]


ROUTES = (
    ("GET", "/_ping", ping),
    ("HEAD", "/_ping", ping),
    ("GET", "/version", version),
    ("GET", "/info", info),
)
