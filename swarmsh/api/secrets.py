"""/secrets and /configs as Docker has them; /swarmsh/secrets/… and /swarmsh/configs/…: their versions.

No answer and no message holds anything of a secret. What a config holds is shown, as Docker shows it.
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from aiohttp import web
from msgspec import field

from swarmsh.api.context import Deps, Handler, body_of, filters_of, index_of, json_response, segment, version_of
from swarmsh.api.render import rfc3339
from swarmsh.api.who import author_of
from swarmsh.core.secrets import Kind
from swarmsh.core.versions import Kept, shelf
from swarmsh.errors import InvalidSpec, Locked, NotFound, StoreCorrupt
from swarmsh.manager.usecases import secrets
from swarmsh.manager.usecases.secrets import Follow, Turned, Version
from swarmsh.model.specs import ConfigSpec, Driver, SecretSpec
from swarmsh.model.wire import Record, to_wire

Json = dict[str, Any]
_TEMPLATES_SINCE = (1, 37)


class SpecRequest(Record):
    """A secret or config with its data, which is in base64."""

    name: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    data: str | None = None
    driver: Driver | None = None
    templating: Driver | None = None

    def __repr__(self) -> str:
        return f"SpecRequest(name={self.name!r}, data=…)"


class TurnRequest(Record):
    """New data (of a rotation only), and what becomes of the services that use the name."""

    data: str | None = None
    follow: str = Follow.ROLL.value
    signal: str = ""

    def __repr__(self) -> str:
        return f"TurnRequest(follow={self.follow!r}, signal={self.signal!r}, data=…)"


# --- Docker's -------------------------------------------------------------------------------------------------
async def create(kind: Kind, request: web.Request, deps: Deps) -> web.Response:
    spec, data = _spec(kind, request, await body_of(request, SpecRequest, where=f"{kind.title()}Spec"))
    made = await secrets.create(
        *(deps.store, deps.ids, deps.clock, kind, spec, data or b""), author=author_of(request)
    )
    return json_response({"ID": made.id}, 201)


async def index(kind: Kind, request: web.Request, deps: Deps) -> web.Response:
    """One whose contents cannot be had keeps no other from the list: it is there without them."""
    answers = []
    for kept in secrets.listed(deps.snapshot, kind, filters_of(request)):
        try:
            data = await _shown(deps, kind, kept)
        except (NotFound, StoreCorrupt, Locked):
            data = {}
            if kept.id not in shelf(deps.snapshot, kind):
                continue  # removed meanwhile
        answers.append(_json(kept, data))
    return json_response(answers)


async def inspect(kind: Kind, request: web.Request, deps: Deps) -> web.Response:
    kept = secrets.inspect(deps.snapshot, kind, segment(request))
    return json_response(_json(kept, await _shown(deps, kind, kept)))


async def update(kind: Kind, request: web.Request, deps: Deps) -> web.Response:
    version = index_of(request, kind)
    spec, data = _spec(kind, request, await body_of(request, SpecRequest, where=f"{kind.title()}Spec"))
    await secrets.relabel(deps.store, deps.clock, kind, segment(request), version, spec, data)
    return web.Response()


async def remove(kind: Kind, request: web.Request, deps: Deps) -> web.Response:
    await secrets.remove(deps.store, deps.clock, kind, segment(request))
    return web.Response(status=204)


def _spec(kind: Kind, request: web.Request, body: SpecRequest) -> tuple[SecretSpec | ConfigSpec, bytes | None]:
    templating = body.templating if version_of(request) >= _TEMPLATES_SINCE else None
    if kind == "secret":
        spec: SecretSpec | ConfigSpec = SecretSpec(
            name=body.name, labels=body.labels, driver=body.driver, templating=templating
        )
    else:
        spec = ConfigSpec(name=body.name, labels=body.labels, templating=templating)
    return spec, _decoded(kind, body.data)


def _decoded(kind: Kind, data: str | None) -> bytes | None:
    """None where there is none: an update of labels has none."""
    if data is None:
        return None
    try:
        return base64.b64decode(data.replace("\r", "").replace("\n", ""), validate=True)  # Go passes over these
    except ValueError:
        raise InvalidSpec(f"invalid {kind.title()}Spec: Data is not base64") from None


async def _shown(deps: Deps, kind: Kind, kept: Kept) -> Json:
    """What of its contents a spec has. Raises Locked, NotFound, StoreCorrupt."""
    if kind == "secret":
        return {}
    return {"Data": base64.b64encode(await secrets.contents(deps.store, kind, kept.id)).decode()}


def _json(kept: Kept, data: Json) -> Json:
    spec = to_wire(kept.spec) | data
    spec.setdefault("Labels", {})
    return {
        "ID": kept.id,
        "Version": {"Index": kept.version},
        "CreatedAt": rfc3339(kept.created_at),
        "UpdatedAt": rfc3339(kept.updated_at),
        "Spec": spec,
    }


# --- versions -------------------------------------------------------------------------------------------------
async def history(kind: Kind, request: web.Request, deps: Deps) -> web.Response:
    found = secrets.history(deps.snapshot, kind, segment(request))
    return json_response([_listed(one) for one in found])


def _listed(one: Version) -> Json:
    services = {"Services": one.services, "Tasks": one.tasks, "Waiting": one.waiting, "Failed": one.failed}
    return {**_version(one.kept), **services}


def _version(kept: Kept) -> Json:
    return {
        "ID": kept.id,
        "Name": kept.spec.name,
        "Number": kept.number,
        "Current": kept.current,
        "CreatedAt": rfc3339(kept.created_at),
        "Size": kept.size,
        "User": kept.author.user,
        "Client": kept.author.client,
        "Action": kept.author.action,
    }


async def rotate(kind: Kind, request: web.Request, deps: Deps) -> web.Response:
    body = await body_of(request, TurnRequest)
    data = _decoded(kind, body.data) or b""
    turned = await secrets.rotate(
        *(deps.store, deps.ids, deps.clock, kind, segment(request), data), **_asked(request, body)
    )
    return json_response(_turned(turned))


async def rollback(kind: Kind, request: web.Request, deps: Deps) -> web.Response:
    body = await body_of(request, TurnRequest)
    to = request.query.get("to", "").strip()
    turned = await secrets.rollback(deps.store, deps.clock, kind, segment(request), to, **_asked(request, body))
    return json_response(_turned(turned))


def _asked(request: web.Request, body: TurnRequest) -> Json:
    return {"follow": _follow(body), "signal": body.signal, "author": author_of(request)}


def _follow(body: TurnRequest) -> Follow:
    try:
        return Follow(body.follow)
    except ValueError:
        raise InvalidSpec(
            f"invalid Follow '{body.follow}'", hint=f"It is one of {', '.join(one.value for one in Follow)}"
        ) from None


def _turned(turned: Turned) -> Json:
    services = [{"Name": name, "Action": action} for name, action in turned.services]
    return {**_version(turned.kept), "Changed": turned.changed, "Services": services}


# --- the key to them ------------------------------------------------------------------------------------------
class KeyRequest(Record):
    """`place`: "" for where the key is now. `passphrase`: of what is to be opened, or the new one."""

    place: str = ""
    passphrase: str = ""
    forget: bool = False

    def __repr__(self) -> str:
        return f"KeyRequest(place={self.place!r}, passphrase=…)"


async def key(request: web.Request, deps: Deps) -> web.Response:
    return json_response({"Place": deps.store.key_place, "Locked": deps.store.locked})


async def unlock(request: web.Request, deps: Deps) -> web.Response:
    body = await body_of(request, KeyRequest)
    was = deps.store.locked
    await deps.store.unlock(body.passphrase)
    deps.on_unlocked()
    return json_response({"Place": deps.store.key_place, "Changed": bool(was)})


async def rotate_key(request: web.Request, deps: Deps) -> web.Response:
    body = await body_of(request, KeyRequest)
    await deps.store.rotate_key(body.place, body.passphrase, forget=body.forget)
    deps.on_unlocked()
    return json_response({"Place": deps.store.key_place})


def _routes(kind: Kind) -> list[tuple[str, str, Handler]]:
    def of(handler: Callable[[Kind, web.Request, Deps], Awaitable[web.StreamResponse]]) -> Handler:
        return partial(handler, kind)

    at = f"{kind}s"
    return [
        ("POST", f"/{at}/create", of(create)),
        ("GET", f"/{at}", of(index)),
        ("GET", f"/{at}/{{id}}", of(inspect)),
        ("POST", f"/{at}/{{id}}/update", of(update)),
        ("DELETE", f"/{at}/{{id}}", of(remove)),
        ("GET", f"/swarmsh/{at}/{{id}}/versions", of(history)),
        ("POST", f"/swarmsh/{at}/{{id}}/rotate", of(rotate)),
        ("POST", f"/swarmsh/{at}/{{id}}/rollback", of(rollback)),
    ]


ROUTES: tuple[tuple[str, str, Handler], ...] = (
    *_routes("secret"),
    *_routes("config"),
    ("GET", "/swarmsh/key", key),
    ("POST", "/swarmsh/unlock", unlock),
    ("POST", "/swarmsh/key/rotate", rotate_key),
)
