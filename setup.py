"""Build of swarmsh: an ordinary package, plus the helper archive that is pushed to nodes as package data."""

import runpy
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
VERSION = runpy.run_path(str(HERE / "swarmsh" / "__init__.py"))["__version__"]


class BuildWithHelper(build_py):
    """Adds `swarmsh/_helpers/helper.pyz`; an editable install packs it from the checkout at run time."""

    def run(self):
        super().run()
        if getattr(self, "editable_mode", False):
            return
        pack = runpy.run_path(str(HERE / "swarmsh" / "adapters" / "nodes" / "payload.py"))["pack_helper"]
        target = Path(self.build_lib) / "swarmsh" / "_helpers"
        target.mkdir(parents=True, exist_ok=True)
        (target / "helper.pyz").write_bytes(pack(HERE / "remote_helpers"))


setup(
    name="swarmsh",
    version=VERSION,
    description="Docker Swarm Mode over ordinary SSH: an agentless container orchestrator",
    long_description=(HERE / "README.md").read_text() if (HERE / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    python_requires=">=3.11",
    packages=find_packages(include=["swarmsh", "swarmsh.*"]),
    package_data={"swarmsh": ["_helpers/*.pyz", "py.typed"]},
    cmdclass={"build_py": BuildWithHelper},
    install_requires=[
        "aiohttp>=3.10,<4",  # the HTTP server of the API; client of an Engine's socket
        "asyncssh>=2.18,<3",
        "click>=8.1,<9",
        "cronsim>=2.6,<3",  # cron expressions as Debian's cron reads them, across changes of the clock too
        "cryptography>=43",
        "docker>=7.1,<8",
        "immutables>=0.20,<1",  # persistent maps: a snapshot costs nothing, a change its own size
        "msgspec>=0.19,<1",  # records, their JSON, and errors that name the field
        "PyYAML>=6,<7",  # inventories, and compose files by its events, which know their lines
        "sqlite-utils>=4,<5",
        "tabulate>=0.10,<1",
        "tzdata",  # time zones of schedules, where the system has none
    ],
    extras_require={
        "keyring": ["keyring>=24"],  # `swarmsh manager rotate-key --to keyring`
        "dev": [
            "hypothesis>=6.100",
            "import-linter>=2.1,<3",
            "mypy>=1.13,<3",
            "pytest>=8.3,<10",
            "pytest-asyncio>=0.24,<2",
            "pytest-xdist>=3.6,<4",
            "ruff>=0.8,<1",
            "types-PyYAML",
        ],
    },
    entry_points={"console_scripts": ["swarmsh = swarmsh.cli:main"]},
)
