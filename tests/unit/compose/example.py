"""A project that uses every key, and how tests load files that are not on a disk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from swarmsh.compose.load import load
from swarmsh.compose.project import Project

FOLDER = "/shop"


def load_texts(files: Mapping[str, str | bytes], *names: str, **options: Any) -> Project:
    """Load the files `names` (the first of `files` if there are none) of a folder whose content is `files`."""

    def read(path: str) -> bytes:
        content = files.get(path.removeprefix(FOLDER + "/"))
        if content is None:
            raise FileNotFoundError(2, "No such file or directory", path)
        return content.encode() if isinstance(content, str) else content

    chosen = [f"{FOLDER}/{name}" for name in names or [next(iter(files))]]
    return load(chosen, environment=options.pop("environment", {}), read=read, **options)


def load_text(text: str, **options: Any) -> Project:
    """Load one file."""
    return load_texts({"compose.yml": text}, **options)


def service(text: str, **options: Any) -> dict[str, Any]:
    """The service `web` of an image and the keys in `text`."""
    body = "".join(f"    {line}\n" for line in text.splitlines())
    return load_text(f"services:\n  web:\n    image: nginx\n{body}", **options).services["web"]


# Every key of services and of the sections, each with a value that is right.
EVERY_KEY: dict[str, Any] = {
    "version": "3.8",
    "name": "shop",
    "x-common": {"any": ["thing"]},
    "services": {
        "web": {
            "annotations": {"a": "b"},
            "attach": True,
            "blkio_config": {
                "device_read_bps": [{"path": "/dev/sda", "rate": "10mb"}],
                "device_read_iops": [{"path": "/dev/sda", "rate": 100}],
                "device_write_bps": [{"path": "/dev/sda", "rate": "10mb"}],
                "device_write_iops": [{"path": "/dev/sda", "rate": 100}],
                "weight": 300,
                "weight_device": [{"path": "/dev/sda", "weight": 300}],
            },
            "build": {
                "context": ".",
                "dockerfile": "Dockerfile",
                "entitlements": ["network.host"],
                "args": {"A": "b", "C": None},
                "ssh": ["default"],
                "labels": {"l": "1"},
                "cache_from": ["x"],
                "cache_to": ["x"],
                "no_cache": True,
                "no_cache_filter": ["x"],
                "additional_contexts": {"more": "./more"},
                "network": "host",
                "provenance": True,
                "sbom": False,
                "pull": True,
                "target": "prod",
                "shm_size": "2g",
                "extra_hosts": ["a:10.0.0.1"],
                "isolation": "default",
                "privileged": False,
                "secrets": ["token"],
                "tags": ["x:1"],
                "ulimits": {"nofile": 5},
                "platforms": ["linux/amd64"],
            },
            "cap_add": ["NET_ADMIN"],
            "cap_drop": ["ALL"],
            "cgroup": "host",
            "cgroup_parent": "m",
            "cgroupns_mode": "host",
            "command": ["nginx", "-g", "daemon off;"],
            "configs": ["page", {"source": "site", "target": "/etc/site", "uid": "1", "gid": "2", "mode": 0o440}],
            "container_name": "web",
            "cpu_count": 2,
            "cpu_percent": 50,
            "cpu_period": 100000,
            "cpu_quota": "50000",
            "cpu_rt_period": "1400us",
            "cpu_rt_runtime": 95000,
            "cpu_shares": 73,
            "cpus": 0.5,
            "cpuset": "0,1",
            "credential_spec": {"config": "page"},
            "depends_on": {
                "db": {"condition": "service_healthy", "required": True, "restart": False},
                "init": {"condition": "service_completed_successfully"},
            },
            "deploy": {
                "mode": "replicated",
                "endpoint_mode": "dnsrr",
                "replicas": 3,
                "labels": {"swarmsh.drain": "5s"},
                "update_config": {
                    "parallelism": 2,
                    "delay": "10s",
                    "failure_action": "rollback",
                    "monitor": "5s",
                    "max_failure_ratio": 0.3,
                    "order": "start-first",
                },
                "rollback_config": {
                    "parallelism": 0,
                    "delay": "1m30s",
                    "failure_action": "pause",
                    "monitor": "0s",
                    "max_failure_ratio": 0,
                    "order": "stop-first",
                },
                "resources": {
                    "limits": {"cpus": "0.50", "memory": "50M", "pids": 100},
                    "reservations": {
                        "cpus": "0.25",
                        "memory": "20M",
                        "generic_resources": [{"discrete_resource_spec": {"kind": "gpu", "value": 2}}],
                        "devices": [
                            {"capabilities": ["gpu"], "count": 1, "driver": "nvidia", "options": {"a": "b"}}
                        ],
                    },
                },
                "restart_policy": {"condition": "on-failure", "delay": "5s", "max_attempts": 3, "window": "2m"},
                "placement": {
                    "constraints": ["node.role==worker"],
                    "preferences": [{"spread": "node.labels.zone"}],
                    "max_replicas_per_node": 2,
                },
            },
            "develop": {"watch": [{"path": ".", "action": "sync", "target": "/app"}]},
            "device_cgroup_rules": ["c 1:3 mr"],
            "devices": ["/dev/ttyUSB0:/dev/tty:rw", {"source": "/dev/x", "target": "/dev/y", "permissions": "r"}],
            "dns": ["10.0.0.1"],
            "dns_opt": ["use-vc"],
            "dns_search": "example.com",
            "domainname": "example.com",
            "entrypoint": "/entry.sh --now",
            "env_file": ["web.env", {"path": "more.env", "required": False, "format": "raw"}],
            "environment": {"A": "b", "N": 5, "T": True, "E": None},
            "expose": [80, "53/udp"],
            "external_links": ["redis"],
            "extra_hosts": {"a": "10.0.0.1", "b": ["10.0.0.2", "10.0.0.3"]},
            "gpus": "all",
            "group_add": ["mail", 5],
            "healthcheck": {
                "test": ["CMD", "true"],
                "interval": "10s",
                "timeout": "5s",
                "retries": 3,
                "start_period": "1m",
                "start_interval": "1s",
                "disable": False,
            },
            "hostname": "web",
            "image": "nginx:1.27",
            "init": True,
            "ipc": "host",
            "isolation": "default",
            "label_file": "labels.env",
            "labels": ["a=b", "c"],
            "links": ["db"],
            "logging": {"driver": "json-file", "options": {"max-size": "10m", "max-file": 3}},
            "mac_address": "02:42:ac:11:65:43",
            "mem_limit": "1g",
            "mem_reservation": 1048576,
            "mem_swappiness": 60,
            "memswap_limit": -1,
            "network_mode": "bridge",
            "networks": {
                "front": None,
                "back": {
                    "aliases": ["w"],
                    "ipv4_address": "10.9.0.2",
                    "ipv6_address": "fd00::2",
                    "link_local_ips": ["169.254.1.1"],
                    "mac_address": "02:42:ac:11:65:43",
                    "interface_name": "eth1",
                    "driver_opts": {"o": 1},
                    "priority": 10,
                    "gw_priority": 1,
                },
            },
            "oom_kill_disable": False,
            "oom_score_adj": -500,
            "pid": "host",
            "pids_limit": -1,
            "platform": "linux/amd64",
            "ports": [
                "8080:80",
                443,
                {"target": 53, "published": "53", "protocol": "udp", "mode": "host", "name": "d"},
            ],
            "post_start": [{"command": "touch /x", "user": "root", "privileged": True, "environment": ["A=b"]}],
            "pre_stop": [{"command": ["rm", "/x"], "working_dir": "/"}],
            "privileged": True,
            "profiles": ["prod"],
            "pull_policy": "always",
            "read_only": True,
            "restart": "on-failure:3",
            "runtime": "runc",
            "scale": 2,
            "secrets": ["token", {"source": "key", "target": "k", "uid": "1", "gid": "2", "mode": "0400"}],
            "security_opt": ["no-new-privileges:true"],
            "shm_size": "64m",
            "stdin_open": True,
            "stop_grace_period": "1m",
            "stop_signal": "SIGQUIT",
            "storage_opt": {"size": "1G"},
            "sysctls": {"net.core.somaxconn": 1024},
            "tmpfs": ["/run", "/tmp:size=64m"],
            "tty": False,
            "ulimits": {"nproc": 65535, "nofile": {"soft": 20000, "hard": 40000}},
            "use_api_socket": False,
            "user": "1000:1000",
            "userns_mode": "host",
            "uts": "host",
            "volume_driver": "local",
            "volumes": [
                "data:/data:ro",
                "/srv/x:/x:rshared",
                {
                    "type": "bind",
                    "source": "/a",
                    "target": "/a",
                    "read_only": True,
                    "bind": {"propagation": "rslave"},
                },
                {
                    "type": "volume",
                    "source": "data",
                    "target": "/d",
                    "volume": {"nocopy": True, "labels": ["a=b"]},
                },
                {
                    "type": "tmpfs",
                    "target": "/t",
                    "tmpfs": {"size": "10m", "mode": 0o1777},
                    "consistency": "cached",
                },
            ],
            "volumes_from": ["db"],
            "working_dir": "/app",
            "x-note": {"free": "form"},
        },
        "db": {"image": "postgres:17", "networks": ["back"], "command": None},
        "init": {"image": "busybox", "command": "true"},
    },
    "networks": {
        "front": None,
        "back": {
            "name": "back-net",
            "driver": "overlay",
            "driver_opts": {"encrypted": "true"},
            "ipam": {
                "driver": "default",
                "config": [{"subnet": "10.9.0.0/24", "gateway": "10.9.0.1", "aux_addresses": {"a": "10.9.0.5"}}],
                "options": {"o": "p"},
            },
            "internal": True,
            "attachable": False,
            "enable_ipv4": True,
            "enable_ipv6": False,
            "labels": {"a": "b"},
        },
        "outer": {"external": True, "name": "shared"},
    },
    "volumes": {
        "data": {"driver": "local", "driver_opts": {"type": "nfs"}, "labels": ["a=b"], "name": "d"},
        "old": {"external": {"name": "older"}},
    },
    "secrets": {
        "token": {"file": "./token.txt", "labels": {"a": "b"}, "template_driver": "golang"},
        "key": {"environment": "KEY", "name": "the-key"},
        "vault": {"driver": "vault", "driver_opts": {"path": "x"}},
    },
    "configs": {
        "page": {"content": "hello ${WHO:-world}"},
        "site": {"file": "site.conf", "template_driver": "golang", "labels": ["a=b"]},
        "shared": {"external": True},
    },
}

BESIDE = {"web.env": "W=1\n", "more.env": "M='x'\n", "labels.env": "team=a\n"}
"""The files that EVERY_KEY names."""
