"""What the node's own settings were before our first change: kept in the helper's folder, put back at the end."""

from __future__ import annotations

import json
import os

from ..log import log
from . import kernel
from .ipvs import Ipvs

FILE = "net-before.json"
VERSION = 1


class Before:
    """The record in `root`. It is there from before the first change until all is as it was."""

    def __init__(self, root: str) -> None:
        self._root, self._path = root, os.path.join(root, FILE)

    def exists(self) -> bool:
        """Whether something may have been changed, and was not put back."""
        return os.path.exists(self._path)

    def keep(self, sysctls) -> None:
        """Remember what the settings of these paths are; what is remembered already stays as it is.

        A setting appears with its module, which may be loaded later. Raises OSError: nothing may be changed then.
        """
        made = not os.path.isdir(self._root)
        before = self._load() or {"v": VERSION, "sysctls": {}, "timeouts": [], "tables": None, "root_made": made}
        found = dict(before["sysctls"])
        for path in sysctls:
            if found.get(path) is None:
                found[path] = kernel.read_sysctl(path)
        if found != before["sysctls"] or not self.exists():
            self._save({**before, "sysctls": found})

    def keep_timeouts(self, timeouts: tuple) -> None:
        """Remember IPVS's timeouts, if they are not yet. Raises OSError."""
        before = self._load()
        if before and not before["timeouts"]:
            self._save({**before, "timeouts": list(timeouts)})

    def keep_tables(self, tables) -> None:
        """Remember which tables of iptables there are, if it is not known yet. Raises OSError."""
        before = self._load()
        if before and before["tables"] is None:
            self._save({**before, "tables": sorted(tables)})

    def tables(self) -> list | None:
        """The tables of iptables that were there; None if that was not looked at."""
        return (self._load() or {"tables": None})["tables"]

    def restore(self) -> list:
        """Put all back and forget; words about what could not be known. Raises NetlinkError, OSError."""
        if not self.exists():
            return []
        before, words = self._load(), []
        if before is None:
            words.append(f"{self._path} could not be read: settings stay as they are")
            before = {"sysctls": {}, "timeouts": [], "root_made": False}
        for path, value in before["sysctls"].items():
            if value is not None and kernel.read_sysctl(path) not in (value, None):
                kernel.write(f"/proc/sys/{path}", value)
        if before["timeouts"] and kernel.exists("/proc/net/ip_vs"):
            with Ipvs() as balancer:
                balancer.set_timeouts(tuple(before["timeouts"]))
        os.unlink(self._path)
        if before["root_made"] and not os.listdir(self._root):
            os.rmdir(self._root)
        return words

    def _load(self) -> dict | None:
        """None if there is none, or none that can be read: its file was damaged."""
        try:
            with open(self._path, encoding="utf-8") as file:
                found = json.load(file)
            if not isinstance(found["sysctls"], dict) or not isinstance(found["timeouts"], list):
                raise TypeError("sysctls or timeouts")
            return {"root_made": False, "tables": None, **found}
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as e:
            log("net_before_unreadable", path=self._path, error=e)
            return None

    def _save(self, before: dict) -> None:
        os.makedirs(self._root, mode=0o700, exist_ok=True)
        fd = os.open(self._path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            json.dump(before, file)
        os.rename(self._path + ".new", self._path)
