"""The Docker-compatible HTTP API on a unix socket."""

from swarmsh.api.app import build_app, serve
from swarmsh.api.context import Deps

__all__ = ["Deps", "build_app", "serve"]
