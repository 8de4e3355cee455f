"""swarmsh: an agentless container orchestrator over SSH on stock Docker Engines."""

__version__ = "0.1.0"
