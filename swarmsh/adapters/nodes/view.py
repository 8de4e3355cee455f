"""All that one node has said, merged; what the manager reads as a NodeReport."""

from __future__ import annotations

from collections.abc import Iterable

from swarmsh.model.actions import NodeReport, TaskReport
from swarmsh.model.objects import NodeDescription


class NodeView:
    """The mutable side of a NodeReport, for one session. Times are of the manager's clock."""

    def __init__(
        self,
        description: NodeDescription,
        tasks: Iterable[TaskReport],
        engine_ok: bool,
        engine_message: str,
        now: float,
    ) -> None:
        self._description = description
        self._tasks = {t.task_id: t for t in tasks if t.state != "gone"}
        self._engine_ok = engine_ok
        self._engine_message = engine_message
        self._engine_since = now
        self._report: NodeReport | None = None

    @property
    def report(self) -> NodeReport:
        """A copy that does not change any more; the same one until something changed."""
        if self._report is None:
            self._report = NodeReport(
                description=self._description,
                tasks=dict(self._tasks),
                engine_ok=self._engine_ok,
                engine_message=self._engine_message,
                engine_since=self._engine_since,
            )
        return self._report

    def task(self, report: TaskReport) -> None:
        if report.state == "gone":
            self._tasks.pop(report.task_id, None)
        else:
            self._tasks[report.task_id] = report
        self._report = None

    def describe(self, description: NodeDescription) -> bool:
        """Whether that is new."""
        if description == self._description:
            return False
        self._description = description
        self._report = None
        return True

    def engine(self, ok: bool, message: str | None, since: float) -> bool:
        """Whether the Engine answers; true if that is new. Without a message the known one stays."""
        if ok == self._engine_ok and message in (None, self._engine_message):
            return False
        if ok != self._engine_ok:
            self._engine_ok = ok
            self._engine_since = since
            self._engine_message = ""
        if message is not None:
            self._engine_message = message
        self._report = None
        return True
