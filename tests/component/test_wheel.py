"""The built wheel: it brings the helper's archive as package data, and needs no checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from swarmsh.adapters.nodes.payload import load_helper

CHECKOUT = Path(__file__).resolve().parents[2]


def test_an_installed_wheel_pushes_the_same_helper_as_the_checkout(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for part in ("swarmsh", "remote_helpers"):
        shutil.copytree(CHECKOUT / part, source / part, ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(CHECKOUT / part, source)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    subprocess.run([*pip, "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(source)], check=True, timeout=300)
    (wheel,) = tmp_path.glob("swarmsh-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        assert archive.read("swarmsh/_helpers/helper.pyz") == load_helper().archive
        with archive.open("swarmsh/_helpers/helper.pyz") as packed, zipfile.ZipFile(packed) as helper:
            assert "remote_helpers/net/apply.py" in helper.namelist()
    assert not [n for n in names if n.startswith(("remote_helpers", "tests"))]
    installed = tmp_path / "installed"
    command = [*pip, "install", "-q", "--no-deps", "--target", str(installed), str(wheel)]
    subprocess.run(command, check=True, timeout=300)
    tell = "import swarmsh.adapters.nodes.payload as p; print(p.__file__, p.load_helper().sha256)"
    env = {**os.environ, "PYTHONPATH": str(installed)}
    asked = subprocess.run(
        [sys.executable, "-P", "-c", tell],
        env=env,
        cwd="/",
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    where, sha256 = asked.stdout.split()
    assert where.startswith(str(installed))
    assert sha256 == load_helper().sha256
