"""The helper as it is sent to nodes: the archive with its hash, and the command line that runs the stub.

Only the standard library is imported here: the build runs this file by itself.
"""

from __future__ import annotations

import ast
import binascii
import hashlib
import io
import shlex
import zipfile
import zlib
from functools import cache
from pathlib import Path
from typing import NamedTuple

PACKAGE = "remote_helpers"
_STUB = f"{PACKAGE}/stub.py"
_MAIN = "__main__.py"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the oldest time a zip file can hold


class Payload(NamedTuple):
    """The archive that nodes keep, and its SHA-256 in hexadecimal, which names it there."""

    archive: bytes
    sha256: str


def pack_helper(source_dir: Path) -> bytes:
    """Make the archive of the package in `source_dir` with its subfolders; equal sources give equal bytes.

    Stored, not deflated: the output of zlib differs between its versions, and the hash must not.
    """
    sources = ((path.relative_to(source_dir).as_posix(), path) for path in source_dir.rglob("*.py"))
    files = {f"{PACKAGE}/{name}": path.read_bytes() for name, path in sources}
    files[_MAIN] = files.pop(f"{PACKAGE}/{_MAIN}")
    unpacked = sorted(name for name in files if name not in (_MAIN, _STUB))
    files["FILES"] = ("\n".join(unpacked) + "\n").encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            info = zipfile.ZipInfo(name, _EPOCH)
            info.create_system = 3  # Unix, whatever packs it
            info.external_attr = 0o600 << 16
            archive.writestr(info, files[name])
    return buffer.getvalue()


@cache
def load_helper() -> Payload:
    """The archive of this installation: the built one, or packed from the checkout's `remote_helpers/`.

    Raises FileNotFoundError if the installation has neither.
    """
    package = Path(__file__).resolve().parents[2]
    built = package / "_helpers" / "helper.pyz"
    archive = built.read_bytes() if built.exists() else pack_helper(package.parent / PACKAGE)
    return Payload(archive, hashlib.sha256(archive).hexdigest())


def stub_command(python: str = "python3", become: bool = False) -> str:
    """The shell command that runs the stub on a node, with every word quoted; `become` adds `sudo -n`."""
    code = f"import zlib,binascii;exec(zlib.decompress(binascii.a2b_base64('{_packed_stub()}')))"
    words = ["sudo", "-n"] if become else []
    # -I and -S: nothing of the user's or the site's is imported, and it starts sooner.
    return shlex.join([*words, python, "-IS", "-c", code])


@cache
def _packed_stub() -> str:
    with zipfile.ZipFile(io.BytesIO(load_helper().archive)) as archive:
        source = archive.read(_STUB).decode()
    lean = ast.unparse(_without_docstrings(ast.parse(source)))
    return binascii.b2a_base64(zlib.compress(lean.encode(), 9), newline=False).decode()


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return tree
