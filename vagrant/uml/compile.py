"""The lab's few C programs: small, static, compiled once and cached by their source."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from .paths import VAGRANT_DIR, cache_dir
from .process import run

FLAGS = ("-std=gnu11", "-O2", "-Wall", "-static", "-s")


def ensure_program(source: str) -> Path:
    """The static executable of a source file below vagrant/images."""
    file = VAGRANT_DIR / "images" / source
    digest = hashlib.sha256(file.read_bytes() + repr(FLAGS).encode()).hexdigest()[:16]
    program = cache_dir() / "programs" / f"{file.stem}-{digest}"
    if not program.exists():
        program.parent.mkdir(parents=True, exist_ok=True)
        temporary = program.with_suffix(f".tmp{os.getpid()}")
        run(["gcc", *FLAGS, "-o", str(temporary), str(file)], timeout_s=120)
        temporary.rename(program)
    return program
