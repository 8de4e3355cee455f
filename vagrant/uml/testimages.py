"""Container images made of files, without a registry: `web`, and `nginx` from Debian's package.

They are written in the format of `docker save`, so that an image has the same id on every machine.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shlex
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .compile import ensure_program
from .errors import LabError
from .host import unpack_package
from .paths import cache_dir
from .process import run
from .shell import Shell

# fmt: off
APPLETS = (
    "sh", "cat", "ls", "echo", "env", "grep", "sleep", "kill", "ps", "top", "id", "hostname", "ip", "ping",
    "wget", "nc", "nslookup", "httpd", "head", "tail", "wc", "sed", "awk", "mkdir", "touch", "rm", "mv",
    "cp", "mount", "df", "du", "free", "date", "stat", "true", "false", "test", "seq", "tr", "sort", "uniq",
    "vi", "find", "xargs", "netstat", "traceroute", "telnet", "sync", "dd", "md5sum", "sha256sum", "uname",
    "which", "whoami", "printf", "readlink", "ln", "chmod", "chown", "pidof", "timeout",
)
# fmt: on
PATH_ENV = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def ensure_web_images() -> Path:
    """A tar for `docker load` with web:1, web:2 and web:latest (which is 1)."""
    busybox = unpack_package("busybox-static") / "bin/busybox"
    if not busybox.exists():
        busybox = busybox.parent.parent / "usr/bin/busybox"
    web = ensure_program("web/web.c")
    recipe = (Path(__file__).read_bytes(), busybox.read_bytes(), web.read_bytes())
    path = cache_dir() / f"web-{hashlib.sha256(b''.join(recipe)).hexdigest()[:16]}.tar"
    if not path.exists():
        layer = _web_layer(web, busybox)
        images = [
            (_config(layer, ["/web"], [f"VERSION={version}"], ["80/tcp", "53/udp"]), tags)
            for version, tags in ((1, ["web:1", "web:latest"]), (2, ["web:2"]))
        ]
        _write_archive(path, layer, images)
    return path


def ensure_nginx_image() -> Path:
    """A tar for `docker load` with nginx:latest, made of Debian's packages of the host's suite."""
    root = unpack_package("nginx", *_dependencies("nginx"))
    path = cache_dir() / f"nginx-{hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]}.tar"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=cache_dir()) as work:
            tree = Path(work) / "tree"
            _nginx_tree(root, tree)
            layer = run_bytes(
                [
                    "tar",
                    "-C",
                    str(tree),
                    "--sort=name",
                    "--mtime=@0",
                    "--owner=0",
                    "--group=0",
                    "--numeric-owner",
                    "-c",
                    ".",
                ]
            )
        config = _config(layer, ["/usr/sbin/nginx", "-g", "daemon off;"], [], ["80/tcp"], stop_signal="SIGQUIT")
        _write_archive(path, layer, [(config, ["nginx:latest"])])
    return path


def run_bytes(argv: Sequence[str]) -> bytes:
    """The standard output of a command that makes an archive."""
    return subprocess.run(argv, check=True, capture_output=True, timeout=120).stdout


def image_ids(archive: Path) -> dict[str, str]:
    """Tags of a `docker save` archive and the ids (`sha256:…`) that they will have when loaded."""
    with tarfile.open(archive) as tar:
        member = tar.extractfile("manifest.json")
        assert member is not None  # a file, not a folder
        entries = json.load(member)
    return {
        tag: f"sha256:{entry['Config'].rpartition('/')[2].removesuffix('.json')}"
        for entry in entries
        for tag in entry["RepoTags"] or ()
    }


def is_saved_image(archive: Path) -> bool:
    """Whether a tar is what `docker save` writes, rather than a root file system."""
    with tarfile.open(archive) as tar:
        return any(name.removeprefix("./") in ("manifest.json", "index.json") for name in tar.getnames())


def put_on(archive: Path, tag: str, shells: Sequence[Shell]) -> None:
    """Load or import a tar on machines, at once, so that it is known there by `tag`."""
    saved = is_saved_image(archive)
    tags = list(image_ids(archive)) if saved else []

    def put(shell: Shell) -> None:
        with archive.open("rb") as file:
            if not saved:
                shell.run(f"docker import - {shlex.quote(tag)} >/dev/null", stdin=file, timeout_s=300)
                return
            shell.run("docker load -q", stdin=file, timeout_s=300)
        if tag not in tags and f"{tag}:latest" not in tags:
            if len(tags) != 1:
                raise LabError(
                    f"{archive} holds {', '.join(tags) or 'no named image'}: which is to be {tag}?",
                    "Name one of them, or save one image only.",
                )
            shell.run(f"docker tag {shlex.quote(tags[0])} {shlex.quote(tag)}")

    with ThreadPoolExecutor() as pool:
        list(pool.map(put, shells))


def _web_layer(web: Path, busybox: Path) -> bytes:
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for folder, mode in (("bin", 0o755), ("etc", 0o755), ("root", 0o700), ("tmp", 0o1777), ("var", 0o755)):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            tar.addfile(entry)
        for name, data in (("web", web.read_bytes()), ("bin/busybox", busybox.read_bytes())):
            _file(tar, name, data, 0o755)
        for name, target in (("probe", "web"), *((f"bin/{applet}", "busybox") for applet in APPLETS)):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)
        _file(tar, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")
        _file(tar, "etc/group", b"root:x:0:\nnogroup:x:65534:\n")
    return layer.getvalue()


def _nginx_tree(packages: Path, tree: Path) -> None:
    """Debian's nginx with the libraries that it needs, a page, and its logs on the standard streams."""
    shutil.copytree(packages, tree, symlinks=True)
    for folder in ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/perl5", "lib/systemd"):
        shutil.rmtree(tree / folder, ignore_errors=True)
    for folder in ("var/log/nginx", "var/lib/nginx", "run", "tmp", "dev", "proc", "sys", "root"):
        (tree / folder).mkdir(parents=True, exist_ok=True)
    (tree / "var/log/nginx/access.log").symlink_to("/dev/stdout")
    (tree / "var/log/nginx/error.log").symlink_to("/dev/stderr")
    (tree / "etc/passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www-data:/var/www:/bin/false\n"
    )
    (tree / "etc/group").write_text("root:x:0:\nadm:x:4:\nwww-data:x:33:\n")
    (tree / "etc/nginx/nginx.conf").write_text(
        "user www-data;\nworker_processes 1;\npid /run/nginx.pid;\nerror_log /dev/stderr notice;\n"
        "events { worker_connections 1024; }\n"
        "http { include /etc/nginx/mime.types; access_log /dev/stdout;\n"
        "  server { listen 80; root /var/www/html; index index.html; } }\n"
    )
    (tree / "var/www/html").mkdir(parents=True, exist_ok=True)
    (tree / "var/www/html/index.html").write_text(
        "<!DOCTYPE html><title>Welcome to nginx!</title><h1>Welcome to nginx!</h1>\n"
    )
    for applet in APPLETS:
        link = tree / "bin" / applet
        if not link.exists():
            link.symlink_to("busybox")


def _dependencies(package: str) -> list[str]:
    """The packages without which `package` would not start, by name."""
    listing = run(
        [
            "apt-cache",
            "depends",
            "--recurse",
            "--no-recommends",
            "--no-suggests",
            "--no-conflicts",
            "--no-breaks",
            "--no-replaces",
            "--no-enhances",
            package,
        ]
    )
    names = {line for line in listing.splitlines() if line and not line.startswith((" ", "<", "|"))}
    wanted = ("lib", "nginx", "busybox-static", "zlib")
    return sorted(
        {"busybox-static"}
        | {
            name
            for name in names
            if name.startswith(wanted)
            and name != package
            and not name.startswith("libperl")
            and "-perl" not in name
        }
    )


def _config(
    layer: bytes, command: Sequence[str], env: Sequence[str], ports: Sequence[str], stop_signal: str = ""
) -> bytes:
    """An image's configuration (Docker image specification v1.2); its hash is the image's id."""
    inner: dict[str, object] = {
        "Cmd": list(command),
        "Env": [PATH_ENV, *env],
        "WorkingDir": "/",
        "ExposedPorts": {port: {} for port in ports},
    }
    if stop_signal:
        inner["StopSignal"] = stop_signal
    return json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "created": "2024-01-01T00:00:00Z",
            "config": inner,
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
            "history": [{"created": "2024-01-01T00:00:00Z", "created_by": "vagrant/lab"}],
        },
        sort_keys=True,
    ).encode()


def _write_archive(path: Path, layer: bytes, images: Sequence[tuple[bytes, list[str]]]) -> None:
    layer_name = f"{hashlib.sha256(layer).hexdigest()}/layer.tar"
    manifest: list[dict[str, object]] = []
    temporary = path.with_name(f"{path.name}.tmp{os.getpid()}")
    with tarfile.open(temporary, "w", format=tarfile.GNU_FORMAT) as tar:
        _file(tar, layer_name, layer)
        for config, tags in images:
            name = f"{hashlib.sha256(config).hexdigest()}.json"
            _file(tar, name, config)
            manifest.append({"Config": name, "RepoTags": tags, "Layers": [layer_name]})
        _file(tar, "manifest.json", json.dumps(manifest).encode())
    temporary.rename(path)


def _file(tar: tarfile.TarFile, name: str, data: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    tar.addfile(entry, io.BytesIO(data))
