"""When a command that was given up ends: not while a copy of it may still be applied (I-11).

A copy that was sent to another host is over when that host has drained the session that it came by. That is
known when it

    answers the `hello` of a later session        it drains before that
    opens a session to this host, as the primary  it drained before it served
    is not in the set of a newer epoch            what it still applies is in no copy of the volume

Who learns of none of these within DRAIN_WAIT_MAX_S ends the command all the same: one that is held for ever
blocks logins, and times out. Even then no host serves the range before it has drained: this one neither reads
nor writes there while it is in doubt, and whoever takes over drains first (I-6).
"""

from collections.abc import Collection
from functools import partial

from holdfast.base.device import Outcome, Request
from holdfast.base.limits import DRAIN_WAIT_MAX_S
from holdfast.base.loop import Loop

HERE = ""
"""Stands for this host, where one of its own threads may still apply something."""


class Endings:
    """For the life of a process, through all its roles. Loop thread only."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._waiting: dict[Request, tuple[Outcome, set[str]]] = {}
        self.heard: set[str] = set()
        """Hosts that have drained, since this process began, what any process of this host had sent them."""

    def end(self, request: Request, outcome: Outcome, hosts: Collection[str]) -> None:
        """`request.done(outcome)`, once none of `hosts` can apply it any more. It is in doubt there."""
        if hosts:
            self._waiting[request] = outcome, set(hosts)
            self._loop.call_later(DRAIN_WAIT_MAX_S, partial(self._done, request))
        else:
            request.done(outcome)

    def over(self, request: Request, host: str) -> None:
        """That host applies it no more. Requests that do not wait here do no harm."""
        if request in self._waiting:
            hosts = self._waiting[request][1]
            hosts.discard(host)
            if not hosts:
                self._done(request)

    def drained(self, host: str) -> None:
        """Nothing that was sent to that host until now is applied any more."""
        self.heard.add(host)
        self._over(host)

    def only(self, members: Collection[str]) -> None:
        """These alone are in the set, besides this host."""
        for host in {host for _outcome, hosts in self._waiting.values() for host in hosts}:
            if host != HERE and host not in members:
                self._over(host)

    def _over(self, host: str) -> None:
        for request in list(self._waiting):
            self.over(request, host)

    def _done(self, request: Request) -> None:
        if request in self._waiting:
            outcome, _hosts = self._waiting.pop(request)
            request.done(outcome)
