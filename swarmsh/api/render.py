"""Objects as the Engine API writes them (moby `api/types/swarm`, `api/types/system`)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Network
from typing import Any

from msgspec.structs import replace

from swarmsh.core.accept_network import VNI_LIST
from swarmsh.model.objects import Cluster, Event, JobStatus, Network, Node, Service, Task
from swarmsh.model.snapshot import ClusterSnapshot
from swarmsh.model.specs import PortConfig, ServiceSpec
from swarmsh.model.states import NodeState, Role, TaskState
from swarmsh.model.wire import to_wire

Json = dict[str, Any]
GO_ZERO_TIME = "0001-01-01T00:00:00Z"
_LAST_SECOND = 253402300799  # 9999-12-31: Go writes no later year
SECOND_NS = 1_000_000_000
# The CLI prints them where Swarm has real ones.
JOIN_TOKEN = "SWMTKN-none-use-swarmsh-node-add"


def rfc3339(seconds: float) -> str:
    """RFC 3339 in UTC with a fraction as Go writes it; Go's zero time for 0, which stands for never."""
    if not 0 < seconds <= _LAST_SECOND:
        return GO_ZERO_TIME
    whole, micros = divmod(round(seconds * 1e6), 1_000_000)
    fraction = f".{micros:06d}".rstrip("0") if micros else ""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)) + fraction + "Z"


def _head(o: Service | Task | Node | Network | Cluster) -> Json:
    return {
        "ID": o.id,
        "Version": {"Index": o.version},
        "CreatedAt": rfc3339(o.created_at),
        "UpdatedAt": rfc3339(o.updated_at),
    }


# --- services -----------------------------------------------------------------------------------------------
def service_json(service: Service, networks: Mapping[str, Network]) -> Json:
    """`networks`: those that the service is on, by id."""
    answer = {**_head(service), "Spec": spec_json(service.spec)}
    if service.previous_spec is not None:
        answer["PreviousSpec"] = spec_json(service.previous_spec)
    answer["Endpoint"] = _endpoint(service, networks)
    update = service.update_status
    if update is not None:
        status: Json = {"State": update.state}
        if update.started_at is not None:
            status["StartedAt"] = rfc3339(update.started_at)
        if update.completed_at is not None:
            status["CompletedAt"] = rfc3339(update.completed_at)
        answer["UpdateStatus"] = {**status, "Message": update.message}
    if service.job_status is not None:
        answer["JobStatus"] = _job_status(service.job_status)
    return answer


def _job_status(status: JobStatus) -> Json:
    """Docker's two fields; `NextExecution` and `Skipped` are ours, of jobs with a schedule."""
    began_at = status.run.began_at if status.run is not None else 0.0
    answer: Json = {"JobIteration": {"Index": status.iteration}, "LastExecution": rfc3339(began_at)}
    if status.next_execution is not None:
        answer["NextExecution"] = rfc3339(status.next_execution)
    if status.skipped:
        answer["Skipped"] = {
            "Runs": status.skipped,
            "Last": rfc3339(status.skipped_at or 0.0),
            "Reason": status.skipped_because,
        }
    return answer


def spec_json(spec: ServiceSpec) -> Json:
    wire: Json = to_wire(spec)
    # Clients index these without looking whether they are there.
    wire.setdefault("Labels", {})
    return wire


def _endpoint(service: Service, networks: Mapping[str, Network]) -> Json:
    spec = service.spec.endpoint_spec
    vips = [
        {"NetworkID": vip.network_id, "Addr": _with_prefix(vip.address, networks[vip.network_id])}
        for vip in service.endpoint.virtual_ips
        if vip.network_id in networks
    ]
    # As swarmkit's allocator leaves it: nothing is said of a service for which there was nothing to do.
    on_overlays = any(network.target in networks for network in service.spec.task_template.networks)
    ports = to_wire(tuple(published_ports(service)))
    answer: Json = {"Spec": to_wire(spec) if spec is not None and (ports or on_overlays) else {}}
    return answer | ({"Ports": ports} if ports else {}) | ({"VirtualIPs": vips} if vips else {})


def published_ports(service: Service) -> Iterator[PortConfig]:
    """The ports of the service's spec, in their order, each that every node answers on with the number it got."""
    given = iter(service.endpoint.ports)
    for port in service.spec.endpoint_spec.ports if service.spec.endpoint_spec is not None else ():
        yield replace(port, published_port=next(given).published_port) if port.publish_mode == "ingress" else port


def with_defaults(service: Json) -> Json:
    """What `insertDefaults` adds to a service (swarmkit `api/defaults`)."""
    spec = dict(service["Spec"])
    template = dict(spec["TaskTemplate"])
    container = dict(template.get("ContainerSpec") or {})
    container.setdefault("StopGracePeriod", 10 * SECOND_NS)
    container.setdefault("DNSConfig", {})
    job = bool({"ReplicatedJob", "GlobalJob"} & (spec.get("Mode") or {}).keys())
    restart = {"Condition": "on-failure" if job else "any", "Delay": 5 * SECOND_NS, "MaxAttempts": 0}
    restart |= template.get("RestartPolicy") or {}
    resources = {"Limits": {}, "Reservations": {}} | (template.get("Resources") or {})
    template |= {"ContainerSpec": container, "RestartPolicy": restart, "Resources": resources}
    template.setdefault("Placement", {})
    spec["TaskTemplate"] = template
    for name in () if job else ("UpdateConfig", "RollbackConfig"):
        default = {"Parallelism": 1} if not spec.get(name) else {}
        config = {
            "Parallelism": 0,
            "FailureAction": "pause",
            "Monitor": 5 * SECOND_NS,
            "MaxFailureRatio": 0,
            "Order": "stop-first",
        }
        spec[name] = config | default | {k: v for k, v in (spec.get(name) or {}).items() if v != ""}
    return {**service, "Spec": spec}


# --- tasks --------------------------------------------------------------------------------------------------
def task_json(task: Task, networks: Mapping[str, Network]) -> Json:
    """`networks`: those that the task is on, by id."""
    answer = {
        **_head(task),
        "Labels": task.labels,
        "Spec": to_wire(task.spec),
        "ServiceID": task.service_id,
        "Status": _task_status(task),
        "DesiredState": task.desired_word,
    }
    if task.number is not None:
        answer["Slot"] = task.number
    if task.job_iteration is not None:
        answer["JobIteration"] = {"Index": task.job_iteration}
    if task.node_id:
        answer["NodeID"] = task.node_id
    if task.generic_resources:
        answer["GenericResources"] = to_wire(task.generic_resources)
    if task.addresses:
        answer["NetworksAttachments"] = [
            {
                "Network": network_object_json(networks[on.network_id]),
                "Addresses": [_with_prefix(on.address, networks[on.network_id])],
            }
            for on in task.addresses
            if on.network_id in networks
        ]
    answer["Volumes"] = None
    return answer


def _task_status(task: Task) -> Json:
    seen = task.status
    status: Json = {
        "Timestamp": rfc3339(seen.since or task.created_at),
        "State": seen.state.word,
        "Message": seen.message,
    }
    if err := seen.err or (task.held if task.live and task.desired is TaskState.READY else ""):
        status["Err"] = err
    if seen.container_id or seen.exit_code is not None:
        status["ContainerStatus"] = {
            "ContainerID": seen.container_id,
            "PID": seen.pid,
            "ExitCode": seen.exit_code or 0,
        }
    status["PortStatus"] = {"Ports": to_wire(seen.ports)} if seen.ports else {}
    return status


# --- nodes --------------------------------------------------------------------------------------------------
def node_json(node: Node, *, leader: bool, note: str = "") -> Json:
    """`note`: what is amiss with the node though its state is well."""
    answer = {
        **_head(node),
        "Spec": {"Labels": {}} | to_wire(node.spec),
        "Description": _description(node),
        "Status": _node_status(node, note),
    }
    if node.spec.role is Role.MANAGER:
        gone = node.status.state is NodeState.DOWN
        answer["ManagerStatus"] = {
            **({"Leader": True} if leader else {}),
            "Reachability": "unreachable" if gone else "reachable",
            "Addr": node_address(node),
        }
    return answer


def node_address(node: Node) -> str:
    address = node.target.address
    return f"[{address}]:{node.target.port}" if ":" in address else f"{address}:{node.target.port}"


def _description(node: Node) -> Json:
    seen = node.description
    resources: Json = {"NanoCPUs": seen.nano_cpus, "MemoryBytes": seen.memory_bytes}
    if seen.generic_resources:
        resources["GenericResources"] = to_wire(seen.generic_resources)
    engine: Json = {"EngineVersion": seen.engine_version}
    if seen.engine_labels:
        engine["Labels"] = seen.engine_labels
    engine["Plugins"] = [{"Type": kind, "Name": name} for kind, name in seen.plugins]
    return {
        "Hostname": node.hostname,
        "Platform": {"Architecture": seen.platform.architecture, "OS": seen.platform.os},
        "Resources": resources,
        "Engine": engine,
        "TLSInfo": {},
    }


def _node_status(node: Node, note: str) -> Json:
    status: Json = {"State": node.status.state.value}
    if message := "; ".join(filter(None, (node.status.message, note))):
        status["Message"] = message
    status["Addr"] = node.target.address
    return status


def stand_in_node(cluster: Cluster) -> Json:
    """What `docker swarm init` and `inspect self` get while there is no node of the role manager yet."""
    return {
        **_head(cluster),
        "Spec": {"Labels": {}, "Role": "manager", "Availability": "drain"},
        "Description": {
            "Hostname": "(no node yet)",
            "Platform": {"Architecture": "", "OS": ""},
            "Resources": {},
            "Engine": {"EngineVersion": "", "Plugins": []},
            "TLSInfo": {},
        },
        "Status": {"State": "unknown", "Message": "add nodes with `swarmsh node add`", "Addr": ""},
    }


# --- networks -----------------------------------------------------------------------------------------------
def network_json(network: Network) -> Json:
    """As `GET /networks` has it (moby `api/types/network`)."""
    spec = network.spec
    return {
        "Name": spec.name,
        "Id": network.id,
        "Created": rfc3339(network.created_at),
        "Scope": "swarm",
        "Driver": spec.driver,
        "EnableIPv4": True,
        "EnableIPv6": False,
        "IPAM": {
            "Driver": "default",
            "Options": (spec.ipam.options if spec.ipam is not None else None) or None,
            "Config": [_ipam_config(network, "IPRange")],
        },
        "Internal": spec.internal,
        "Attachable": spec.attachable,
        "Ingress": False,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": {},
        "Options": _driver_options(network),
        "Labels": spec.labels,
    }


def builtin_network_json(name: str, driver: str) -> Json:
    """One of the networks that every Engine has; its id is its name."""
    return {
        "Name": name,
        "Id": name,
        "Created": GO_ZERO_TIME,
        "Scope": "local",
        "Driver": driver,
        "EnableIPv4": True,
        "EnableIPv6": False,
        "IPAM": {"Driver": "default", "Options": None, "Config": []},
        "Internal": False,
        "Attachable": False,
        "Ingress": False,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": {},
        "Options": {},
        "Labels": {},
    }


def network_object_json(network: Network) -> Json:
    """As tasks have it (moby `api/types/swarm`, Network)."""
    spec = network.spec
    annotations = {"Name": spec.name, "Labels": spec.labels}
    driver: Json = {"Name": spec.driver} | ({"Options": spec.options} if spec.options else {})
    flags = {"Internal": spec.internal, "Attachable": spec.attachable}
    ipam = {"Driver": {"Name": "default"}, "Configs": [_ipam_config(network, "Range")]}
    return {
        **_head(network),
        "Spec": {
            **annotations,
            "DriverConfiguration": driver,
            **{name: True for name, flag in flags.items() if flag},
            "Scope": "swarm",
        },
        "DriverState": {"Name": spec.driver, "Options": _driver_options(network)},
        "IPAMOptions": ipam,
    }


def _with_prefix(address: str, network: Network) -> str:
    return f"{address}/{network.subnet.partition('/')[2]}"


def _ipam_config(network: Network, range_key: str) -> Json:
    asked = network.spec.ipam.config[0] if network.spec.ipam is not None and network.spec.ipam.config else None
    first = str(IPv4Network(network.gateways)[1])
    config: Json = {"Subnet": network.subnet, "Gateway": (asked.gateway if asked is not None else "") or first}
    if asked is not None and asked.ip_range:
        config[range_key] = asked.ip_range
    if asked is not None and asked.auxiliary_addresses and range_key == "IPRange":
        config["AuxiliaryAddresses"] = asked.auxiliary_addresses
    return config


def _driver_options(network: Network) -> Json:
    return network.spec.options | {VNI_LIST: str(network.vni)}


# --- the cluster --------------------------------------------------------------------------------------------
def cluster_json(cluster: Cluster) -> Json:
    """`ClusterInfo`: what /info and /swarm have in common."""
    return {
        **_head(cluster),
        "Spec": {
            "Name": "default",
            "Labels": cluster.labels,
            "Orchestration": {"TaskHistoryRetentionLimit": cluster.task_history},
            "Raft": {
                "SnapshotInterval": 10000,
                "KeepOldSnapshots": 0,
                "LogEntriesForSlowFollowers": 500,
                "ElectionTick": 10,
                "HeartbeatTick": 1,
            },
            "Dispatcher": {"HeartbeatPeriod": SECOND_NS},
            "CAConfig": {"NodeCertExpiry": 7776000 * SECOND_NS},
            "TaskDefaults": {},
            "EncryptionConfig": {"AutoLockManagers": False},
        },
        "TLSInfo": {},
        "RootRotationInProgress": False,
        "DefaultAddrPool": cluster.default_addr_pool,
        "SubnetSize": cluster.subnet_size,
        "DataPathPort": 4789,
    }


def swarm_json(cluster: Cluster) -> Json:
    return {**cluster_json(cluster), "JoinTokens": {"Worker": JOIN_TOKEN, "Manager": JOIN_TOKEN}}


def swarm_block(snapshot: ClusterSnapshot, manager: Node | None) -> Json:
    """`Swarm` of /info."""
    cluster = snapshot.cluster
    if cluster is None:
        return {
            "NodeID": "",
            "NodeAddr": "",
            "LocalNodeState": "inactive",
            "ControlAvailable": False,
            "Error": "",
            "RemoteManagers": None,
        }
    managers = sorted((n for n in snapshot.nodes.values() if n.spec.role is Role.MANAGER), key=lambda n: n.number)
    return {
        "NodeID": manager.id if manager is not None else cluster.id,
        "NodeAddr": manager.target.address if manager is not None else "",
        "LocalNodeState": "active",
        "ControlAvailable": True,
        "Error": "",
        "RemoteManagers": [{"NodeID": n.id, "Addr": node_address(n)} for n in managers],
        "Nodes": len(snapshot.nodes),
        "Managers": len(managers),
        "Cluster": cluster_json(cluster),
    }


# --- events -------------------------------------------------------------------------------------------------
def event_json(event: Event) -> Json:
    nanoseconds = round(event.time * 1e6) * 1000
    return {
        "Type": event.type,
        "Action": event.action,
        "Actor": {"ID": event.id, "Attributes": event.attributes},
        "scope": "swarm",
        "time": nanoseconds // SECOND_NS,
        "timeNano": nanoseconds,
    }
