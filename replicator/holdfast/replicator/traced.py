"""A job of the primary (primary.py) that says when it reaches each stage.

The fields that the primary sets on a job's way are properties here. So a job that is not traced, and that is
nearly every one, costs nothing more than before. The stages, of which not every request has all:

    admitted   a write may begin: no gate, no limit and no absent host holds it, and no missing extents
    turn       nothing that overlaps is under way
    read       the bytes are in its buffers
    prepared   intent and the frozen views' copies are on disk, so it may be applied, and sent
    sent       handed to the mirror's session
    here       applied here (in memory); or `on disk`, where that was asked for, or no mirror has it
    mirror     the mirror has confirmed it
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from holdfast.base.device import Op, Outcome
from holdfast.base.trace import TracedRequest
from holdfast.replicator.link import Sent
from holdfast.replicator.partner import Partner
from holdfast.replicator.primary import Job

if TYPE_CHECKING:
    from holdfast.replicator.primary import Primary


class TracedJob(Job):
    __slots__ = ("_counted", "_holds", "_inside", "_note", "_prepared", "_sent", "_waiting")

    def __init__(self, primary: "Primary", request: TracedRequest, born_s: float) -> None:
        self._note = request.trace.note
        self._waiting = 0
        # A flush changes nothing: there is nothing to prepare.
        self._prepared = request.op is Op.FLUSH
        self._inside = False
        """What is noted of `there` is this host's own."""
        super().__init__(primary, request, born_s)

    @property
    def counted(self) -> bool:
        return self._counted

    @counted.setter
    def counted(self, counted: bool) -> None:
        self._counted = counted
        if counted:
            self._note("admitted")

    @property
    def holds(self) -> bool:
        return self._holds

    @holds.setter
    def holds(self, holds: bool) -> None:
        self._holds = holds
        if holds:
            self._note("turn")

    @property
    def waiting(self) -> int:
        return self._waiting

    @waiting.setter
    def waiting(self, hosts: int) -> None:
        if hosts and not self._prepared:
            self._prepared = True
            self._note("prepared")
        self._waiting = hosts

    @property
    def sent(self) -> Sequence[tuple[Partner, Sent]]:
        return self._sent

    @sent.setter
    def sent(self, sent: Sequence[tuple[Partner, Sent]]) -> None:
        self._sent = sent
        if sent:
            self._note("sent")

    def was_read(self, outcome: Outcome) -> None:
        self._note("read")
        super().was_read(outcome)

    def here(self, outcome: Outcome) -> None:
        self._note("on disk" if self.hard else "here")
        self._inside = True
        super().here(outcome)
        self._inside = False

    def there(self, ok: Outcome) -> None:
        if not self._inside:
            self._note("mirror")
        super().there(ok)
