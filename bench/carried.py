"""What our manager is made of, as an archive that runs on another machine with the same minor version of Python.

The package, the helper's sources, and the installed packages it requires (none that only development needs), each
with its compiled modules, so that the first start there compiles nothing.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
OWN = ("swarmsh", "remote_helpers")
UNUSED = frozenset({"pip"})  # sqlite-utils requires it for a command of its own
ROOT = "lib"  # in the archive: what PYTHONPATH names


def required(name: str) -> dict[str, metadata.Distribution]:
    """Installed distributions that `name` requires, and theirs in turn; extras and other platforms' left out."""
    found: dict[str, metadata.Distribution] = {}
    wanted = [name]
    while wanted:
        for line in metadata.distribution(wanted.pop()).requires or ():
            requirement, _, marker = line.partition(";")
            key = re.split(r"[^\w.-]", requirement, maxsplit=1)[0].lower().replace("_", "-")
            if "extra" in marker or key in found or key in UNUSED:
                continue
            try:
                found[key] = metadata.distribution(key)
            except metadata.PackageNotFoundError:  # its marker is not true here
                continue
            wanted.append(key)
    return found


def files() -> Iterator[tuple[str, Path]]:
    """Names in the archive, and the files."""
    for package in OWN:
        for path in sorted((CHECKOUT / package).rglob("*")):
            if path.is_file():
                yield f"{ROOT}/{path.relative_to(CHECKOUT)}", path
    for distribution in required("swarmsh").values():
        for file in distribution.files or ():
            path = Path(str(distribution.locate_file(file)))
            if ".." not in file.parts and path.is_file():  # commands lie beside site-packages
                yield f"{ROOT}/{file}", path


def pack(archive: Path, others: Mapping[str, bytes]) -> None:
    """Write the archive, with `others` (name and content) as files that only their owner reads."""
    # Quickly rather than small: it goes over a virtual wire once.
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        for name, path in files():
            tar.add(path, name)
        for name, content in others.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o600
            tar.addfile(info, io.BytesIO(content))
