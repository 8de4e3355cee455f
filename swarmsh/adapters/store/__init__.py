"""The durable store: SQLite behind `manager.ports.Store`."""

from swarmsh.adapters.store.sqlite import SqliteStore

__all__ = ["SqliteStore"]
