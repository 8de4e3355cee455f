"""Files that the docker CLI takes come to the same through either front end.

Each file of `compose/` is deployed by every docker CLI, and converted by us. `# docker: 26.1` in its first line
names the oldest CLI that takes it; `x.over.yml` is merged over `x.yml`. One difference is on purpose, and taken
out of what the CLI sends: a service's short name as an alias on external networks (`docs/compose.md`).
"""

from __future__ import annotations

import json
import re
import subprocess
from functools import cache
from pathlib import Path

import msgspec
import pytest

from swarmsh.compose.convert import KEYS, Fate, convert
from swarmsh.compose.errors import ComposeError
from swarmsh.compose.load import load
from swarmsh.model.specs import Driver, NetworkSpec, ServiceSpec
from swarmsh.model.wire import Record, always, from_wire, to_wire
from tests.conformance.conftest import DockerCli
from tests.fakes.recorder import recording
from tests.fakes.serving import served

CORPUS = Path(__file__).parent / "compose"
FILES = sorted(path.stem for path in CORPUS.glob("*.yml") if not path.stem.endswith(".over"))
VARIABLES = {"TAG": "9", "PORT": "8080", "COUNT": "3", "EMPTY": ""}
STACK = "shop"
PREDEFINED = ("host", "none", "bridge")


class Body(Record):
    """A secret or a config as it is sent."""

    name: str = always("")
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    data: str = ""
    driver: Driver | None = None
    templating: Driver | None = None


def paths_of(name):
    over = CORPUS / f"{name}.over.yml"
    return [CORPUS / f"{name}.yml", *([over] if over.exists() else [])]


@cache
def version_of(binary):
    said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout
    return tuple(int(part) for part in re.search(r"(\d+)\.(\d+)", said).groups())


def skip_if_too_old(name, binary):
    found = re.match(r"# docker: ([\d.]+)", (CORPUS / f"{name}.yml").read_text())
    if found and version_of(binary) < tuple(int(part) for part in found[1].split(".")):
        pytest.skip(f"of docker {found[1]} and newer")


def stack_of(name):
    warnings = []
    project = load(paths_of(name), environment=VARIABLES, working_dir=CORPUS)
    return convert(project, STACK, warnings=warnings), warnings


async def deploy_by_docker(docker, name):
    files = [word for path in paths_of(name) for word in ("-c", str(path))]
    await docker("stack", "deploy", "--resolve-image", "never", *files, STACK)


def sent_by_us(stack):
    """What the stack comes to, as the bodies of the API that makes each object."""
    files = {
        kind: {
            item.name: from_wire(
                Body, {key: value for key, value in to_wire(item).items() if key not in ("external", "External")}
            )
            for item in getattr(stack, kind).values()
            if not item.external
        }
        for kind in ("secrets", "configs")
    }
    return {
        "services": {spec.name: spec for spec in stack.services.values()},
        "networks": {n.spec.name: n.spec for n in stack.networks.values() if not n.external},
        **files,
    }


# --- what is sent -------------------------------------------------------------------------------------------
def plain_service(spec, ids, outside=()):
    """A service's spec with names for ids, what an omitted word means, and no short name on external networks."""
    template = spec.task_template
    container = template.container_spec
    privileges = container.privileges
    if privileges is not None and privileges.credential_spec is not None:
        credentials = privileges.credential_spec
        named = msgspec.structs.replace(credentials, config=ids.get(credentials.config, credentials.config))
        privileges = msgspec.structs.replace(privileges, credential_spec=named)
    container = msgspec.structs.replace(
        container,
        privileges=privileges,
        # CLIs have files of one secret, and the oldest also variables, in the order of a hash table.
        secrets=by_target(msgspec.structs.replace(s, secret_id="") for s in container.secrets),
        configs=by_target(msgspec.structs.replace(c, config_id="") for c in container.configs),
        env=tuple(sorted(container.env)),
    )
    networks = tuple(
        without_short_name(msgspec.structs.replace(n, target=ids.get(n.target, n.target)), spec.name, outside)
        for n in template.networks
    )
    ports = tuple(
        msgspec.structs.replace(p, protocol=p.protocol or "tcp", publish_mode=p.publish_mode or "ingress")
        for p in spec.endpoint_spec.ports
    )
    return msgspec.structs.replace(
        spec,
        task_template=msgspec.structs.replace(
            template, container_spec=container, networks=tuple(sorted(networks, key=lambda n: n.target))
        ),
        endpoint_spec=msgspec.structs.replace(spec.endpoint_spec, ports=ports),
    )


def by_target(references):
    """The order of names stays; of one name, it is that of the files."""
    return tuple(
        sorted(
            references, key=lambda r: (getattr(r, "secret_name", "") or getattr(r, "config_name", ""), str(r.file))
        )
    )


def without_short_name(network, service, outside):
    aliases = list(network.aliases)
    if network.target in outside and network.target not in PREDEFINED:
        aliases.pop()  # the CLI puts it last, whether the file says it or not
    return msgspec.structs.replace(network, aliases=tuple(aliases))


def sent_to(recorder, external_networks):
    """What a client made there, in the same form."""
    ids = {
        key: item["Spec"]["Name"]
        for kind in ("secrets", "configs")
        for key, item in recorder.objects[kind].items()
    }
    services = {name: from_wire(ServiceSpec, spec) for name, spec in recorder.specs("services").items()}
    networks = {
        # Old CLIs send EnableIPv6 false for nothing said.
        name: from_wire(
            NetworkSpec, {key: value for key, value in body.items() if key not in ("Id", "Scope") and value}
        )
        for name, body in recorder.specs("networks").items()
    }
    return {
        "services": {name: plain_service(spec, ids, external_networks) for name, spec in services.items()},
        "networks": {name: spec for name, spec in networks.items() if name not in recorder.outside},
        **{
            kind: {
                name: from_wire(Body, body)
                for name, body in recorder.specs(kind).items()
                if name not in recorder.outside
            }
            for kind in ("secrets", "configs")
        },
    }


def test_the_corpus_is_of_forty_files_and_more():
    assert len(FILES) >= 40


@pytest.mark.parametrize("name", FILES)
async def test_both_front_ends_send_the_same(docker_binary, tmp_path, name):
    skip_if_too_old(name, docker_binary)
    stack, _ = stack_of(name)
    external = {n.spec.name for n in stack.networks.values() if n.external}
    async with recording(outside=("outside", "elsewhere")) as recorder:
        docker = DockerCli(docker_binary, recorder.socket, tmp_path, VARIABLES)
        await deploy_by_docker(docker, name)
        theirs = sent_to(recorder, external)
    ours = sent_by_us(stack)
    ours["services"] = {full: plain_service(spec, {}) for full, spec in ours["services"].items()}
    assert readable(ours) == readable(theirs)


def readable(bodies):
    """JSON, of which pytest shows the difference line by line."""
    wire = {kind: {name: to_wire(body) for name, body in items.items()} for kind, items in bodies.items()}
    return json.dumps(wire, indent=1, sort_keys=True).splitlines()


# --- what is stored -----------------------------------------------------------------------------------------
OUTSIDE = (
    ("networks", {"Name": "outside", "Driver": "overlay"}),
    ("networks", {"Name": "elsewhere", "Driver": "overlay"}),
    ("secrets", {"Name": "outside", "Data": "aGk="}),
    ("configs", {"Name": "outside", "Data": "aGk="}),
)


async def prepare(api):
    for kind, body in OUTSIDE:
        status, answer = await api.call("POST", f"/{kind}/create", body)
        assert status == 201, answer


async def stored_in(api, external_networks):
    """What an API has of the stack, in the same form."""
    found = {kind: await api.get(f"/{kind}") for kind in ("services", "networks", "secrets", "configs")}
    ids = {item["ID"]: item["Spec"]["Name"] for kind in ("secrets", "configs") for item in found[kind]}
    ids |= {network["Id"]: network["Name"] for network in found["networks"]}
    services = [from_wire(ServiceSpec, item["Spec"]) for item in found["services"]]
    stamps = ("Id", "Created", "Scope", "IPAM", "Peers")
    return {
        "services": {
            spec.name: plain_service(without_our_label(spec), ids, external_networks) for spec in services
        },
        "networks": {
            network["Name"]: plain_network(
                from_wire(NetworkSpec, {k: v for k, v in network.items() if k not in stamps})
            )
            for network in found["networks"]
        },
        **{
            kind: {item["Spec"]["Name"]: from_wire(Body, item["Spec"]) for item in found[kind]}
            for kind in ("secrets", "configs")
        },
    }


def plain_network(spec):
    """Without the number that it happened to be given."""
    options = {key: value for key, value in spec.options.items() if not key.endswith(".vxlanid_list")}
    return msgspec.structs.replace(spec, options=options)


def without_our_label(spec):
    """The docker CLI passes over `depends_on`; a deploy of ours makes a label of it."""
    labels = {key: value for key, value in spec.labels.items() if key != "swarmsh.depends-on"}
    return msgspec.structs.replace(spec, labels=labels)


@pytest.mark.parametrize("name", FILES)
async def test_the_same_is_stored_whoever_deploys(docker_binary, tmp_path, name):
    skip_if_too_old(name, docker_binary)
    stack, _ = stack_of(name)
    external = {n.spec.name for n in stack.networks.values() if n.external}
    async with served() as api:
        await prepare(api)
        docker = DockerCli(docker_binary, api.socket, tmp_path, VARIABLES)
        files = [word for path in paths_of(name) for word in ("-c", str(path))]
        code, _, refusal = await docker.run("stack", "deploy", *files, STACK)
        theirs = await stored_in(api, external)
    async with served() as api:
        await prepare(api)
        status, answer = await api.call("POST", f"/swarmsh/stacks/{STACK}/deploy", to_wire(stack))
        if code:  # such as credential specs, which are for Windows
            assert status in (400, 501), (refusal, answer)
            return
        assert status == 200, answer
        assert readable(await stored_in(api, ())) == readable(theirs)


# --- differences on purpose (docs/compose.md) ---------------------------------------------------------------
DIFFERENT = """
version: "3.8"
services:
  web:
    image: web:1
    build: .
    cgroup_parent: group
    container_name: one
    devices: ["/dev/null"]
    domainname: example.com
    external_links: [other]
    expose: ["80"]
    ipc: host
    links: [db]
    mac_address: "02:42:ac:11:65:43"
    pid: host
    privileged: true
    security_opt: [no-new-privileges]
    shm_size: 64m
    userns_mode: host
    tmpfs: /run
    ports: ["10.0.0.1:8080:80"]
    depends_on: [db]
    networks: [outside]
    environment:
      - TAG=
      - A=$TAG-text
      - B=$UNSET-text
  db:
    image: db:1
    network_mode: host
networks: {outside: {external: true}}
"""


async def test_differences_are_those_that_the_docs_name(docker_binary, tmp_path):
    path = tmp_path / "different.yml"
    path.write_text(DIFFERENT)
    async with recording(outside=("outside",)) as recorder:
        docker = DockerCli(docker_binary, recorder.socket, tmp_path, VARIABLES)
        code, _, said = await docker.run("stack", "deploy", "--resolve-image", "never", "-c", str(path), STACK)
        assert code == 0, said
        sent = recorder.specs("services")
    theirs = {name: from_wire(ServiceSpec, sent[f"{STACK}_{name}"]) for name in ("web", "db")}
    warnings = []
    ours = convert(load([path], environment=VARIABLES), STACK, warnings=warnings)

    # What the CLI ignores is honoured here, or a warning names it.
    ignored = re.search(r"Ignoring unsupported options: (.*)", said)[1].split(", ")
    deprecated = re.findall(r"^(container_name|expose): ", said, re.MULTILINE)
    assert len(ignored) >= 12 and len(deprecated) == 2
    fates = {key.path: key.fate for key in KEYS}
    warned = {notice.path[2] for notice in warnings if notice.path[:2] == ("services", "web")}
    for option in {*ignored, *deprecated}:
        assert (fates[f"services.*.{option}"] is Fate.HONOURED) != (option in warned)

    web, their_web = ours.services["web"], theirs["web"]
    container, their_container = web.task_template.container_spec, their_web.task_template.container_spec
    assert their_web.task_template.networks[0].aliases == ("web",) and web.task_template.networks[0].aliases == ()
    assert their_container.mounts == () and [mount.target for mount in container.mounts] == ["/run"]
    assert their_container.labels.keys() == {"com.docker.stack.namespace"}
    assert container.labels["swarmsh.run.privileged"] == "true" and len(container.labels) == 10
    assert "swarmsh.publish.bind" not in their_web.labels and web.labels["swarmsh.publish.bind"] == "10.0.0.1"
    assert set(their_container.env) == {"TAG=9", "A=9", "B=text"}
    assert set(container.env) == {"TAG=", "A=9-text", "B=-text"}
    assert [n.target for n in theirs["db"].task_template.networks] == ["shop_default"]
    assert [n.target for n in ours.services["db"].task_template.networks] == ["host"]
    assert set(ours.depends_on) == {"web"}


async def test_a_relative_bind_that_docker_takes_is_refused_here(docker_binary, tmp_path):
    path = tmp_path / "relative.yml"
    path.write_text("version: '3.8'\nservices:\n  web:\n    image: web:1\n    volumes: ['./site:/site']\n")
    async with recording() as recorder:
        docker = DockerCli(docker_binary, recorder.socket, tmp_path)
        await docker("stack", "deploy", "--resolve-image", "never", "-c", str(path), STACK)
        mounts = recorder.specs("services")["shop_web"]["TaskTemplate"]["ContainerSpec"]["Mounts"]
    assert mounts[0]["Source"] == str(tmp_path / "site")
    with pytest.raises(ComposeError, match=r"relative\.yml:5:15: .*'\./site' is relative to this machine"):
        convert(load([path], environment={}), STACK)
