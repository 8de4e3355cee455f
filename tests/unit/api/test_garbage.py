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
from swarmsh.api.swarm import InitRequest, SwarmSpec
from swarmsh.model.objects import SshTarget
from swarmsh.model.specs import NodeSpec, ServiceSpec
from tests.fakes.serving import served

BODIES = {
    "/services/create": ServiceSpec,
    "/services/{id}/update": ServiceSpec,
    "/nodes/{id}/update": NodeSpec,
    "/swarm/init": InitRequest,
    "/swarm/update": SwarmSpec,
    "/swarmsh/nodes": NodeRequest,
    "/swarmsh/nodes/{id}/target": SshTarget,
}
ROUTES = sorted({(method, path) for module in _MODULES for method, path, _ in module.ROUTES})
REFUSED = sorted((method, refusal.path) for refusal in REFUSALS for method in refusal.methods)
QUERIES = shlex.split(
    "filters version force status insertDefaults since until tail follow stdout stderr timestamps details cmd env "
    "height width registryAuthFrom rollback scope rotateWorkerToken"
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
        ["id", "name", "label", "service", "node", "desired-state", "_up-to-date", "mode", "role", "odd"]
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
