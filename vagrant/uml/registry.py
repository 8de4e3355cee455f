"""Debian's docker-registry inside the lab's namespace: a real registry on plain HTTP."""

from __future__ import annotations

import ctypes
import json
import os
import secrets
import signal
import subprocess
import urllib.error
import urllib.request
from base64 import b64encode
from dataclasses import asdict
from pathlib import Path

from . import network, testimages
from .errors import LabError
from .host import unpack_package
from .paths import LabPaths
from .process import ProcessId, end, identify, wait_until
from .shell import Shell

PORT = 5000
IMAGES = ("web:1", "web:2", "web:latest", "nginx:latest")


def address(paths: LabPaths) -> str | None:
    """host:port of the registry as machines and clients see it, or None if it does not run."""
    process = _recorded(paths)
    return f"{network.HOST_ADDRESS}:{PORT}" if process is not None and process.alive() else None


def ensure(paths: LabPaths, auth: str, shell: Shell) -> None:
    """Run the registry and fill it with the test images, pushed by the Engine of one machine.

    One that runs with another login than `auth` (USER:PASSWORD, or "" for none) is started anew with its data.
    """
    if address(paths) is not None and _login(paths) != auth:
        stop(paths)
    if address(paths) is None:
        _start(paths, auth)
    if not wait_until(lambda: _answers(paths, auth), timeout_s=60, every_s=0.1):
        log = (paths.root / "registry/log").read_text(errors="replace")[-800:]
        raise LabError(f"the registry does not answer; its log ends with:\n{log}")
    if _catalog(paths, auth) >= {tag.split(":")[0] for tag in IMAGES}:
        return
    with testimages.ensure_nginx_image().open("rb") as file:
        shell.run("docker load -q", stdin=file, timeout_s=240)
    base = f"{network.HOST_ADDRESS}:{PORT}"
    if auth:
        user, _, password = auth.partition(":")
        shell.run(f"printf %s {_quoted(password)} | docker login -u {_quoted(user)} --password-stdin {base}")
    try:
        for tag in IMAGES:
            shell.run(
                f"docker tag {tag} {base}/{tag} && docker push -q {base}/{tag}; s=$?; "
                f"docker rmi {base}/{tag} >/dev/null; exit $s",
                timeout_s=240,
            )
    finally:
        # The machine that pushed must have no more than the others: they are to pull.
        shell.run(
            f"docker logout {base} >/dev/null 2>&1; docker rmi nginx:latest >/dev/null 2>&1; true", timeout_s=60
        )


def stop(paths: LabPaths) -> None:
    """End the registry if it runs."""
    process = _recorded(paths)
    if process is not None:
        end(process, first=signal.SIGTERM)


def _start(paths: LabPaths, auth: str) -> None:
    tree = unpack_package("docker-registry")
    folder = paths.root / "registry"
    folder.mkdir(exist_ok=True)
    config = folder / "config.yml"
    config.write_text(_config(folder, auth))
    (folder / "login").write_text(auth)
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            [
                "nsenter",
                f"--net={network.NETNS_DIR / paths.namespace}",
                str(tree / "usr/bin/docker-registry"),
                "serve",
                str(config),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={"PATH": os.environ["PATH"], "OTEL_TRACES_EXPORTER": "none"},
        )
    known = identify(process.pid)
    if known is None:
        raise LabError("the registry ended at once", f"See {folder / 'log'}")
    (paths.run / "registry.process").write_text(json.dumps(asdict(known)))


def _config(folder: Path, auth: str) -> str:
    data = json.dumps(str(folder / "data"))
    lines = [
        "version: 0.1",
        "log: {level: info, accesslog: {disabled: true}}",
        f"storage: {{filesystem: {{rootdirectory: {data}}}, delete: {{enabled: true}}}}",
        f"http: {{addr: '{network.HOST_ADDRESS}:{PORT}', secret: {secrets.token_hex(16)}}}",
    ]
    if auth:
        passwords = folder / "htpasswd"
        user, colon, password = auth.partition(":")
        if not (user and colon and password):
            raise LabError("--registry-auth wants USER:PASSWORD")
        passwords.write_text(f"{user}:{_bcrypt(password)}\n")
        lines.append(f"auth: {{htpasswd: {{realm: lab, path: {json.dumps(str(passwords))}}}}}")
    return "\n".join(lines) + "\n"


def _login(paths: LabPaths) -> str | None:
    """USER:PASSWORD that the registry was started with, "" for none; None if that is not known."""
    try:
        return (paths.root / "registry/login").read_text()
    except FileNotFoundError:
        return None


def _bcrypt(password: str) -> str:
    """The registry takes bcrypt only; every Debian has it in libcrypt.so.1."""
    crypt = ctypes.CDLL("libcrypt.so.1").crypt
    crypt.restype = ctypes.c_char_p
    alphabet = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
    salt = "$2b$05$" + "".join(secrets.choice(alphabet) for _ in range(21)) + "."
    digest = crypt(password.encode(), salt.encode())
    if not digest or digest.startswith(b"*"):
        raise LabError("this host's libcrypt has no bcrypt, which the registry's passwords need")
    return bytes(digest).decode()


def _request(paths: LabPaths, auth: str, path: str) -> bytes:
    request = urllib.request.Request(f"http://{network.HOST_ADDRESS}:{PORT}{path}")
    if auth:
        request.add_header("Authorization", f"Basic {b64encode(auth.encode()).decode()}")
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def fetch() -> bytes:
        with direct.open(request, timeout=3) as response:
            return bytes(response.read())

    return network.within(paths.namespace, fetch)


def _answers(paths: LabPaths, auth: str) -> bool:
    try:
        _request(paths, auth, "/v2/")
    except urllib.error.HTTPError as err:
        raise LabError(
            f"the registry refuses the lab ({err})",
            "Its log is in the lab's folder, registry/log.",
        ) from err
    except OSError:
        return False
    return True


def _catalog(paths: LabPaths, auth: str) -> set[str]:
    return set(json.loads(_request(paths, auth, "/v2/_catalog"))["repositories"])


def _recorded(paths: LabPaths) -> ProcessId | None:
    try:
        return ProcessId(**json.loads((paths.run / "registry.process").read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
