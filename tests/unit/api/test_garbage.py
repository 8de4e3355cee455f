"""Garbage on every route: a refusal in Docker's form, never an internal error."""

from __future__ import annotations

import json
import logging
import shlex
import types
import typing
from urllib.parse import quote, urlencode

import aiohttp
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swarmsh.api.app import _MODULES
from swarmsh.api.extras import NodeRequest
from swarmsh.api.refusals import REFUSALS
from swarmsh.api.secrets import KeyRequest, SpecRequest, TurnRequest
from swarmsh.api.swarm import InitRequest, SwarmSpec
from swarmsh.core.allocate import QUARANTINE_S, forget_lapsed
from swarmsh.model.objects import SshTarget
from swarmsh.model.specs import NetworkSpec, NodeSpec, ServiceSpec
from swarmsh.model.stacks import StackRequest
from tests.fakes.serving import served

BODIES = {
    "/secrets/create": SpecRequest,
    "/secrets/{id}/update": SpecRequest,
    "/configs/create": SpecRequest,
    "/configs/{id}/update": SpecRequest,
    "/swarmsh/secrets/{id}/rotate": TurnRequest,
    "/swarmsh/configs/{id}/rollback": TurnRequest,
    "/swarmsh/key/rotate": KeyRequest,
    "/services/create": ServiceSpec,
    "/services/{id}/update": ServiceSpec,
    "/nodes/{id}/update": NodeSpec,
    "/networks/create": NetworkSpec,
    "/swarm/init": InitRequest,
    "/swarm/update": SwarmSpec,
    "/swarmsh/services/plan": ServiceSpec,
    "/swarmsh/services/{id}/plan": ServiceSpec,
    "/swarmsh/stacks/{id}/deploy": StackRequest,
    "/swarmsh/nodes": NodeRequest,
    "/swarmsh/nodes/{id}/target": SshTarget,
}
ROUTES = sorted({(method, path) for module in _MODULES for method, path, _ in module.ROUTES})
REFUSED = sorted((method, refusal.path) for refusal in REFUSALS for method in refusal.methods)
QUERIES = shlex.split(
    "filters version force status insertDefaults since until tail follow stdout stderr timestamps details cmd env "
    "height width registryAuthFrom rollback from to scope rotateWorkerToken verbose"
)

words = st.sampled_from(
    ["", "web", "n1", "0", "1", "-1", "true", "host", "x" * 300, "web.1", "..", "%", "é", "\x00", "9" * 30, "null"]
)
texts = st.one_of(words, st.text(max_size=12))
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.sampled_from([2**63, 2**64, -(2**63) - 1]), st.floats(), texts
)
anything = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=6,
)


def like(kind: object, depth: int = 0) -> st.SearchStrategy:
    """JSON that resembles a record, with something wrong in it now and then."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return st.one_of(*(like(a, depth) for a in args))
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        if depth > 6 or not msgspec.structs.fields(kind):
            return st.just({})
        fields = {f.encode_name: f.type for f in msgspec.structs.fields(kind)}
        return st.lists(st.sampled_from(sorted(fields)), max_size=4, unique=True).flatmap(
            lambda names: st.fixed_dictionaries({n: rarely_wrong(like(fields[n], depth + 1)) for n in names})
        )
    if origin is tuple:
        return st.lists(like(args[0], depth), max_size=2)
    if origin is dict:
        return st.dictionaries(texts, like(args[1], depth), max_size=2)
    return {bool: st.booleans(), int: st.integers(-5, 10**12), float: st.floats(), str: texts}.get(kind, anything)


def rarely_wrong(usual: st.SearchStrategy) -> st.SearchStrategy:
    return st.integers(0, 9).flatmap(lambda dice: anything if dice == 0 else usual)


def body_for(path: str) -> st.SearchStrategy:
    made = like(BODIES[path]) if path in BODIES else anything
    as_json = rarely_wrong(made).map(lambda v: json.dumps(v).encode())
    return st.one_of(as_json, as_json, as_json, st.binary(max_size=20), st.just(b"[" * 100_000), st.just(b""))


filters = st.dictionaries(
    st.sampled_from(
        shlex.split(
            "id name label service node desired-state _up-to-date mode role odd driver scope type dangling until "
            "label!"
        )
    ),
    st.one_of(st.lists(texts, max_size=2), st.dictionaries(texts, st.booleans(), max_size=2), anything),
    max_size=2,
).map(json.dumps)
values = st.one_of(texts, filters, st.just("1700000000.5"), st.just("2023-01-01T00:00:00Z"), st.just('["sh"]'))
routes = st.one_of(
    st.sampled_from(ROUTES),
    st.sampled_from(sorted(BODIES)).map(lambda path: ("POST", path)),
    st.sampled_from(sorted(BODIES)).map(lambda path: ("POST", path)),
    st.sampled_from(REFUSED),
)
requests = routes.flatmap(
    lambda route: st.tuples(
        st.just(route[0]),
        st.just(route[1]),
        st.sampled_from(["", "", "/v1.24", "/v1.51", "/v1.99", "/v0", "/v1..2", "/v9999999999.1"]),
        texts,
        st.dictionaries(st.sampled_from(QUERIES), values, max_size=4),
        body_for(route[1]),
        st.sampled_from(["", "e30=", "not base64", "x" * 5000]),
    )
)


@pytest.fixture
async def api():
    async with served() as running:
        await running.create()
        await running.orchestrator.settle()
        yield running


@given(request=requests)
@settings(
    max_examples=500,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
async def test_garbage_is_refused_in_dockers_form(api, caplog, request):
    method, path, version, ref, query, body, auth = request
    for name in ("{id}", "{rest:.*}", "{name:.*}"):
        path = path.replace(name, quote(ref, safe=""))
    url = f"http://swarmsh{version}{path}?{urlencode(query, errors='replace')}"
    headers = {"Content-Type": "application/json"} | ({"X-Registry-Auth": auth} if auth else {})
    caplog.clear()
    # Told not to normalise it, the client sends the path as it stands.
    async with api.http.request(
        method, aiohttp.client.URL(url, encoded=True), data=body, headers=headers
    ) as response:
        errors = [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR]
        assert not errors, errors
        if response.status >= 400 and method != "HEAD":
            answer = await response.json()
            assert set(answer) == {"message"}
            assert isinstance(answer["message"], str)
            assert answer["message"]
            assert "Traceback" not in answer["message"]
            known = ("update out of sequence", "manifest unknown")
            assert response.status != 500 or any(k in answer["message"] for k in known), answer
        else:
            response.close()  # it may be a stream
    if api.store.snapshot.cluster is None:
        await api.call("POST", "/swarm/init", {})


FULL_SPEC = {
    "Name": "full",
    "Labels": {"a": "b"},
    "TaskTemplate": {
        "ContainerSpec": {
            "Image": "web:1",
            "Labels": {"c": "d"},
            "Command": ["sh"],
            "Args": ["-c", "true"],
            "Hostname": "h",
            "Env": ["A=B"],
            "Dir": "/",
            "User": "me",
            "Groups": ["g"],
            "Privileges": {"NoNewPrivileges": True, "Seccomp": {"Mode": "default"}},
            "Init": True,
            "StopSignal": "SIGINT",
            "TTY": False,
            "ReadOnly": True,
            "Mounts": [{"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"SizeBytes": 4096, "Mode": 511}}],
            "StopGracePeriod": 10_000_000_000,
            "Healthcheck": {"Test": ["CMD", "true"], "Interval": 1_000_000_000, "Retries": 3},
            "Hosts": ["10.0.0.1 name"],
            "DNSConfig": {"Nameservers": ["1.1.1.1"], "Search": ["a.b"], "Options": ["ndots:1"]},
            "Sysctls": {"net.core.somaxconn": "100"},
            "CapabilityAdd": ["CAP_NET_ADMIN"],
            "Ulimits": [{"Name": "nofile", "Soft": 10, "Hard": 20}],
            "OomScoreAdj": 5,
        },
        "Resources": {
            "Limits": {"NanoCPUs": 500_000_000, "MemoryBytes": 1 << 26, "Pids": 10},
            "Reservations": {"NanoCPUs": 100_000_000, "MemoryBytes": 1 << 25},
        },
        "RestartPolicy": {"Condition": "any", "Delay": 1_000_000_000, "MaxAttempts": 3, "Window": 0},
        "Placement": {
            "Constraints": ["node.role==worker"],
            "Preferences": [{"Spread": {"SpreadDescriptor": "node.labels.x"}}],
            "MaxReplicas": 2,
            "Platforms": [{"Architecture": "amd64", "OS": "linux"}],
        },
        "Networks": [{"Target": "net1", "Aliases": ["db"], "DriverOpts": {"a": "b"}}],
        "LogDriver": {"Name": "json-file", "Options": {"max-size": "1m"}},
        "ForceUpdate": 0,
    },
    "Mode": {"Replicated": {"Replicas": 2}},
    "UpdateConfig": {"Parallelism": 1, "Delay": 0, "FailureAction": "rollback", "Order": "start-first"},
    "RollbackConfig": {"Parallelism": 1, "Monitor": 5_000_000_000, "MaxFailureRatio": 0.5},
    "EndpointSpec": {
        "Mode": "vip",
        "Ports": [
            {"TargetPort": 80, "PublishedPort": 8080, "PublishMode": "host"},
            {"TargetPort": 53, "PublishedPort": 53, "Protocol": "udp", "PublishMode": "ingress"},
            {"TargetPort": 443},
        ],
    },
}


def places(value, path=()):
    """Every place in a JSON value, as a path of keys and indices."""
    if path:
        yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield from places(part, (*path, key))


def changed(value, path, new):
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = changed(value[path[0]], path[1:], new)
    return copy


@given(
    path=st.sampled_from(list(places(FULL_SPEC))),
    wrong=st.one_of(
        anything, scalars, st.sampled_from(["{{", "{{.Node.ID}}", "a=b", [[]], {}, -1, 0, 1.5, 10**15])
    ),
)
@settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
async def test_one_odd_thing_in_a_full_spec_is_refused_or_served(api, caplog, path, wrong):
    caplog.clear()
    await api.call("POST", "/networks/create", {"Name": "net1", "Driver": "overlay"})
    body = json.dumps(changed(FULL_SPEC, path, wrong))
    headers = {"Content-Type": "application/json"}
    status, answer = await api.call("POST", "/services/create", data=body, headers=headers)
    # A service may name a network that is not there.
    assert status in (201, 400, 501) or (status == 404 and "Networks" in path), answer
    if status != 201:
        assert answer["message"]
        return
    service = await api.get(f"/services/{answer['ID']}", insertDefaults="1")
    await api.get("/services", status="1")
    await api.orchestrator.settle()
    await api.get("/tasks", filters=json.dumps({"service": [answer["ID"]]}))
    # What was answered is accepted again: clients send back what they read.
    index = service["Version"]["Index"]
    status, refusal = await api.call("POST", f"/services/{answer['ID']}/update?version={index}", service["Spec"])
    assert status == 200, refusal
    assert (await api.call("DELETE", f"/services/{answer['ID']}"))[0] == 200
    assert not [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR]


FULL_NETWORK = {
    "Name": "full",
    "Driver": "overlay",
    "Scope": "swarm",
    "Labels": {"a": "b"},
    "Options": {
        "encrypted": "true",
        "com.docker.network.driver.mtu": "1300",
        "com.docker.network.driver.overlay.vxlanid_list": "5000",
    },
    "IPAM": {
        "Driver": "default",
        "Options": {"c": "d"},
        "Config": [
            {
                "Subnet": "10.9.0.0/24",
                "IPRange": "10.9.0.128/25",
                "Gateway": "10.9.0.1",
                "AuxiliaryAddresses": {"router": "10.9.0.70"},
            }
        ],
    },
    "Internal": True,
    "Attachable": True,
    "EnableIPv4": True,
    "EnableIPv6": False,
    "ConfigFrom": {"Network": ""},
}
NOT_QUITE = [
    "10.9.0.0",
    "10.9.0.0/",
    "/24",
    "10.9.0.0/024",
    "010.9.0.0/24",
    "10.9.0.0/-1",
    "10.9.0.300",
    "fe80::%1/64",
]


@given(
    path=st.sampled_from(list(places(FULL_NETWORK))),
    wrong=st.one_of(anything, scalars, st.sampled_from(NOT_QUITE)),
)
@settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
async def test_one_odd_thing_in_a_full_network_is_refused_or_served(api, caplog, path, wrong):
    caplog.clear()
    body = json.dumps(changed(FULL_NETWORK, path, wrong))
    headers = {"Content-Type": "application/json"}
    status, answer = await api.call("POST", "/networks/create", data=body, headers=headers)
    assert status in (201, 400, 403, 501), answer
    if status == 201:
        shown = await api.get(f"/networks/{answer['Id']}", verbose="1")
        assert shown in [found | {"Peers": [], "Services": {}} for found in await api.get("/networks")]
        assert (await api.call("DELETE", f"/networks/{answer['Id']}"))[0] == 204
        later = api.deps.clock.now() + QUARANTINE_S  # what was removed blocks its subnet until then
        await api.store.commit(lambda snapshot: forget_lapsed(snapshot, later))
    assert not [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR]


async def test_the_full_network_itself_is_served(api):
    status, answer = await api.call("POST", "/networks/create", FULL_NETWORK)
    assert status == 201, answer


async def test_the_full_spec_itself_is_served(api):
    await api.call("POST", "/networks/create", {"Name": "net1", "Driver": "overlay"})
    status, answer = await api.call("POST", "/services/create", FULL_SPEC)
    assert status == 201, answer
    served_spec = (await api.get("/services/full"))["Spec"]
    assert served_spec["TaskTemplate"]["ContainerSpec"]["Ulimits"] == [{"Name": "nofile", "Hard": 20, "Soft": 10}]


async def test_long_bodies_and_headers_are_refused(api):
    status, answer = await api.call("POST", "/services/create", data=b'{"Name":"' + b"x" * (5 << 20) + b'"}')
    assert status == 413
    assert "larger than" in answer["message"]
    assert (await api.call("GET", "/services", params={"filters": "x" * 70_000}))[0] in (400, 414)


async def test_a_broken_handler_answers_without_its_traceback(api, monkeypatch, caplog):
    monkeypatch.setattr("swarmsh.manager.usecases.lookup.list_services", lambda *a: 1 / 0)
    status, answer = await api.call("GET", "/services")
    assert (status, answer) == (500, {"message": "internal error of swarmsh; its log has the details"})
    assert "ZeroDivisionError" in caplog.text
