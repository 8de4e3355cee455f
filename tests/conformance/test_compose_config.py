"""Compose files as `docker stack config` reads them against our loading. No daemon is needed.

CLIs before 23 have no `stack config`; those before 27 read yes and no as booleans, which is not asked here.
"""

import subprocess

import pytest
import yaml

from swarmsh.compose.load import load
from tests.conformance.conftest import docker_clis

ENVIRONMENT = {"TAG": "1.27", "EMPTY": "", "PORT": "8080"}

# The keys of one service each.
KEYS = [
    "image: nginx:${TAG:?needed}-${GONE:-none}-${EMPTY-x}-$$TAG",
    "command: sh -c \"echo 'a b' ; x\\\\ y\" 'it is' e#f # g",
    "command: ['$TAG', 'b c']",
    "entrypoint: /entry.sh --now 'x \"y\"'",
    "environment: {B: 1.10, C: 1000000.0, D: 0777, E: 0o17, F: 1_000, H: , I: '22:22', J: 1e3, L: .5, M: 0x1F}",
    "environment: [A, B=, C=x=y, 'D=a b', TAG]",
    "environment: {P: 1e21, Q: 0.00001, R: 123456.5, S: 1234567.5, TAG: }",
    "labels: [a, b=c, d=]",
    "labels: {a: 1, b: x}",
    'ports: ["8080-8082:80-82", 99, "5000-5001", "7000-7002:7", "53:53/udp", "$PORT:80"]',
    "ports: [{target: 5, published: 7, protocol: udp, mode: host}]",
    'volumes: ["data:/d", "data:/e:ro", "/srv:/s", "/srv:/t:rshared,ro", "/anon", "data:/f:nocopy"]',
    "volumes: [{type: tmpfs, target: /t, tmpfs: {size: 1000}}, {type: volume, source: data, target: /d}]",
    "dns: 10.0.0.1",
    "tmpfs: /run",
    "sysctls: [net.core.somaxconn=1024]",
    "ulimits: {nofile: {soft: 1, hard: 2}}",
    "networks: [net]",
    "networks: {net: {aliases: [x, z]}}",
    "secrets: [s, {source: s, target: t, uid: '5', mode: 0400}]",
    "configs: [{source: c, target: /etc/c, mode: 288}]",
    "env_file: w.env",
    "env_file: [w.env, v.env]\nenvironment: {W: own}",
    "healthcheck: {test: curl -f x, retries: 3}",
    "stdin_open: true\ntty: false\ninit: true\nread_only: false",
    "user: '1000'\nhostname: h\nworking_dir: /w\nstop_signal: SIGINT\ncap_add: [A]\ncap_drop: [B]",
    "deploy: {mode: global, labels: [a=b], endpoint_mode: dnsrr, placement: {constraints: [node.role==worker]}}",
    "deploy: {replicas: 3, restart_policy: {condition: any, max_attempts: 2}, update_config: {order: stop-first}}",
    "logging: {driver: json-file, options: {max-file: 3, max-size: 1m}}",
    "x-note: free",
]
REST = """
networks: {net: }
volumes: {data: {labels: [a=b]}}
secrets: {s: {file: ./s.txt}}
configs: {c: {external: true, name: cc}}
"""


def config_of(binary, folder, *files):
    """What `docker stack config` prints, as data."""
    arguments = [part for file in files for part in ("-c", file)]
    environment = {**ENVIRONMENT, "HOME": str(folder), "DOCKER_CONFIG": str(folder), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [binary, "stack", "config", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)


def as_docker_prints(service):
    """A service of ours in the words of `stack config`, which leaves out what is not set."""
    unset = ({}, [], False)
    found = {k: v for k, v in service.items() if k not in ("env_file", "x-note") and v not in unset}
    for port in found.get("ports", []):
        if "published" in port:
            port["published"] = int(port["published"])
    if "networks" in found:
        found["networks"] = {name: value or None for name, value in found["networks"].items()}
    for volume in found.get("volumes", []):
        if "tmpfs" in volume:
            volume["tmpfs"]["size"] = int(volume["tmpfs"]["size"])
    return found


@pytest.fixture(params=docker_clis())
def binary(request):
    done = subprocess.run([request.param, "stack", "config", "--help"], capture_output=True, text=True, timeout=60)
    if "Outputs the final config file" not in done.stdout:
        pytest.skip("this CLI has no stack config")
    return request.param


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "w.env").write_text("W='quoted'\nV=1 # and this\n# not this\n\nTAG\n")
    (tmp_path / "v.env").write_text("V=2\n")
    return tmp_path


def compare(binary, folder, *files):
    theirs = config_of(binary, folder, *files)
    ours = load([folder / file for file in files], environment=ENVIRONMENT)
    services = {name: as_docker_prints(service) for name, service in ours.services.items()}
    for service in theirs["services"].values():
        for key in ("x-note", "env_file"):
            service.pop(key, None)
        for key in [key for key, value in service.items() if value is False]:
            del service[key]
    assert services == theirs["services"]
    for section in ("networks", "volumes", "secrets", "configs"):
        found = getattr(ours, section)
        assert found == {name: value or {} for name, value in theirs.get(section, {}).items()}


def test_services_mean_the_same_as_to_docker_stack(binary, folder):
    services = []
    for number, keys in enumerate(KEYS):
        image = [] if keys.startswith("image") else ["image: nginx"]
        services += [f"  s{number}:", *(f"    {line}" for line in [*image, *keys.splitlines()])]
    body = "\n".join(services)
    (folder / "c.yml").write_text(f'version: "3.9"\nservices:\n{body}\n{REST}')
    compare(binary, folder, "c.yml")


def test_two_files_are_merged_as_docker_stack_merges_them(binary, folder):
    (folder / "1.yml").write_text(
        f"""version: "3.8"
services:
  w:
    image: a
    command: a b
    environment: [A=1, B=1]
    labels: {{a: x}}
    ports: ["80:80"]
    volumes: ["data:/d", "/srv:/s"]
    networks: [net]
    deploy: {{replicas: 1, labels: {{a: x}}}}
{REST}"""
    )
    (folder / "2.yml").write_text(
        """version: "3.8"
services:
  w:
    image: b
    command: c
    environment: {B: 2}
    labels: [b=z]
    ports: ["81:81"]
    volumes: ["/other:/s"]
    deploy: {replicas: 2, labels: {b: z}}
  v: {image: c}
networks: {net: {internal: true}}
"""
    )
    compare(binary, folder, "1.yml", "2.yml")
