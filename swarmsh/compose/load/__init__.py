"""Loading of compose files: of today's compose specification, and of Docker's stack schema 3.0 to 3.13."""

from swarmsh.compose.load.loading import load

__all__ = ["load"]
