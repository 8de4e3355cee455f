"""Image references and registry credentials, as the docker CLI treats them before it creates a service."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from swarmsh.client import ApiError, ManagerClient
from swarmsh.errors import SwarmshError

Json = dict[str, Any]

HUB = "https://index.docker.io/v1/"
_NAME = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")


def split_reference(image: str) -> tuple[str, str, str, str] | None:
    """(registry, repository, tag, digest) of an image; None if it is no valid reference.

    distribution/reference: a first part with a dot, a colon or `localhost` is a registry; else docker.io.
    """
    rest, _, digest = image.partition("@")
    path, colon, tag = rest.rpartition(":")
    if not colon or "/" in tag:
        path, tag = rest, ""
    first, slash, remainder = path.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost" or first != first.lower()):
        registry, repository = first, remainder
    else:
        registry, repository = "docker.io", path
    registry = "docker.io" if registry == "index.docker.io" else registry
    if registry == "docker.io" and "/" not in repository:
        repository = f"library/{repository}"
    if not _NAME.fullmatch(repository) or (digest and not re.fullmatch(r"[a-z0-9+._-]+:[0-9a-fA-F]{32,}", digest)):
        return None
    return registry, repository, tag, digest


def familiar(image: str, digest: str = "") -> str:
    """The short form with a tag: `nginx` as `nginx:latest`; with `digest`, pinned. Invalid ones are left alone."""
    parts = split_reference(image)
    if parts is None:
        return image
    registry, repository, tag, pinned = parts
    name = repository if registry == "docker.io" else f"{registry}/{repository}"
    name = name.removeprefix("library/") if registry == "docker.io" else name
    digest = pinned or digest
    if not tag and not pinned:
        tag = "latest"
    return f"{name}{f':{tag}' if tag else ''}{f'@{digest}' if digest else ''}"


def resolve_image(manager: ManagerClient, spec: Json, auth: str, *, keep_platforms: bool = False) -> str:
    """Pin the spec's image to its digest and its placement to the image's platforms; a warning if that failed.

    `keep_platforms`: those in the spec were asked for by somebody, and are not of an image that was there before.
    """
    container = spec["TaskTemplate"]["ContainerSpec"]
    image = familiar(container["Image"])
    headers = {"X-Registry-Auth": auth} if auth else {}
    try:
        found = manager.request("GET", f"/distribution/{quote(image, safe='/:@')}/json", headers=headers)
    except ApiError:
        return (
            f"image {image} could not be accessed on a registry to record\n"
            f"its digest. Each node will access {image} independently,\n"
            "possibly leading to different nodes running different\n"
            "versions of the image.\n"
        )
    container["Image"] = familiar(image, str((found.get("Descriptor") or {}).get("digest", "")))
    platforms = [_platform(entry) for entry in found.get("Platforms") or []]
    placement = spec["TaskTemplate"].get("Placement") or {}
    if platforms and not (keep_platforms and placement.get("Platforms")):
        spec["TaskTemplate"]["Placement"] = placement | {"Platforms": platforms}
    return ""


def _platform(entry: Json) -> Json:
    # Images say "arm" where nodes say "armv7l" (swarmkit#2294): any architecture will do then.
    architecture = str(entry.get("architecture", ""))
    fields = {
        "Architecture": "" if architecture.lower() == "arm" else architecture,
        "OS": str(entry.get("os", "")),
    }
    return {key: value for key, value in fields.items() if value}


# --- registry credentials -----------------------------------------------------------------------------------
def registry_auth(image: str) -> str:
    """`X-Registry-Auth` for an image: what `docker login` stored for its registry, or an empty object."""
    parts = split_reference(image)
    registry = parts[0] if parts else "docker.io"
    server = HUB if registry == "docker.io" else registry
    return base64.urlsafe_b64encode(json.dumps(_credentials(server), separators=(",", ":")).encode()).decode()


def _credentials(server: str) -> Json:
    path = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json"
    try:
        config = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise click.ClickException(f"cannot read registry credentials from {path}: {error}") from None
    helper = (config.get("credHelpers") or {}).get(server) or config.get("credsStore")
    if helper:
        return _ask_helper(str(helper), server)
    auths: dict[str, Json] = config.get("auths") or {}
    entry = auths.get(server)
    if entry is None:
        entry = next((value for key, value in auths.items() if _host(key) == _host(server)), None)
    return {} if entry is None else _decoded(entry, server, path)


def _host(server: str) -> str:
    return server.removeprefix("https://").removeprefix("http://").partition("/")[0]


def _decoded(entry: Json, server: str, path: Path) -> Json:
    found: Json = {}
    if entry.get("auth"):
        try:
            user, _, password = base64.b64decode(entry["auth"]).decode().partition(":")
        except ValueError:
            raise click.ClickException(f"the credentials of {server} in {path} are not valid base64") from None
        found = {"username": user, "password": password.rstrip("\0")}
    elif entry.get("username"):
        found = {"username": entry["username"], "password": entry.get("password", "")}
    found["serveraddress"] = server
    for key in ("identitytoken", "registrytoken"):
        if entry.get(key):
            found[key] = entry[key]
    return found


def _ask_helper(helper: str, server: str) -> Json:
    """Run `docker-credential-HELPER get` (docker-credential-helpers protocol: server in, JSON out)."""
    program = f"docker-credential-{helper}"
    try:
        done = subprocess.run(
            [program, "get"], input=server.encode(), capture_output=True, timeout=60, check=False
        )
    except FileNotFoundError:
        raise SwarmshError(f"the credential helper {program} of ~/.docker/config.json is not installed") from None
    except subprocess.TimeoutExpired:
        raise SwarmshError(f"the credential helper {program} did not answer within 60 s") from None
    output = done.stdout.decode(errors="replace").strip()
    if done.returncode:
        if "credentials not found" in output:
            return {}
        raise SwarmshError(
            f"the credential helper {program} failed: {output or done.stderr.decode(errors='replace')}"
        )
    answer = json.loads(output)
    if answer.get("Username") == "<token>":
        return {"identitytoken": answer["Secret"], "serveraddress": server}
    return {"username": answer["Username"], "password": answer["Secret"], "serveraddress": server}
