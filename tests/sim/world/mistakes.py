"""Known mistakes, each of which the simulation must find (altering.py plants them)."""
# Pieces of source stand here as they stand there.
# ruff: noqa: E501

from dataclasses import dataclass

_REPLICATOR = "holdfast.replicator."
_METADATA = "holdfast.metadata."
_TARGET = "holdfast.target."

_DIFFER = ("I-5", "at rest", "I-7")
_STALE = ("I-2: a answered", "I-2: b answered", "I-2: c answered", "I-3: a read", "no order explains")
_SHOWS: dict[str, tuple[str, ...]] = {
    "acknowledge before the mirror": ("I-1",),
    "acknowledge before it is applied here": ("I-1", "forced", "I-3: a read"),
    "alone, acknowledge from memory": ("forced",),
    "alone, tell what waited before it is on disk": ("forced",),
    "take over alone, and serve from memory": ("kept",),
    "let a joiner go without the outcome of its join": ("I-1", *_DIFFER, *_STALE),
    "acknowledge by the new set before the transaction": ("I-1",),
    "forget after a restart that a join was asked for": ("I-1", *_DIFFER, *_STALE),
    "skip the lease check": _STALE,
    "count the lease from the answer": _STALE,
    "forget the promise that a beat makes": _STALE,
    "promote without being in the set": ("I-4",),
    "take over while the primary holds its lease": ("I-3: a takeover",),
    "no boot in the set": ("I-1", "not at rest", *_DIFFER, *_STALE),
    "a change that does not raise the epoch": ("I-2: the epoch",),
    "join before everything is copied": _DIFFER,
    "join a copy that is half-synced on its disk": ("I-5",),
    "join from memory": ("flushed", "forced"),
    "no drain at a new session": ("I-6", "I-11"),
    "no drain at promotion": ("I-6", "I-11"),
    "resume a session after a reboot": ("I-1", "not at rest", *_DIFFER, *_STALE),
    "do not send again what was not confirmed": ("I-1",),
    "forget the intent bit": ("I-7",),
    "clear intent before the other has synced": _DIFFER,
    "clear intent under a write": _DIFFER,
    "leave doubts where no clean looks": ("clean",),
    "clear a bit of absent early": _DIFFER,
    "leave out what the joiner intended": _DIFFER,
    "leave writes in flight out of absent": _DIFFER,
    "do not mark what an absent host misses": _DIFFER,
    "throw away a copy that may be about to join": ("I-1", *_DIFFER),
    "flush one side only": ("flushed", "forced"),
    "go on after a failed sync": ("flushed", "forced"),
    "run a held command after ownership came back": ("I-11",),
    "acknowledge what another host failed to do": ("I-1", *_DIFFER),
    "accept an old epoch": ("I-1", "I-2", "I-4", "not at rest", *_DIFFER, *_STALE),
    "resign to one that may be dead": ("I-4",),
    "join without missing": ("I-1", "verify", *_DIFFER, *_STALE),
    "join without changed": ("I-5", "at rest", "I-8"),
    "answer an abort while the command is on the link": ("I-11",),
    "reset the ring while commands are on the link": ("I-11",),
    "answer BUSY and leave the command on the link": ("I-1", "I-8", "I-11", *_DIFFER),
}


@dataclass(frozen=True)
class Mistake:
    """`changes`: a module, a piece of its source, and what stands there instead. `shows`: how a violation that
    comes of it begins; another one is not its doing, but of what it disturbs.
    """

    name: str
    shows: tuple[str, ...]
    changes: tuple[tuple[str, str, str], ...]

    @property
    def modules(self) -> set[str]:
        return {module for module, _old, _new in self.changes}


def _mistake(
    name: str, module: str, *changes: tuple[str, str], also: tuple[tuple[str, str, str], ...] = ()
) -> Mistake:
    return Mistake(name, _SHOWS[name], tuple((module, old, new) for old, new in changes) + also)


MISTAKES = (
    # Acknowledging (I-1, I-2).
    _mistake(
        "acknowledge before the mirror",
        _REPLICATOR + "primary",
        (
            "                job.waiting += 1\n"
            "                job.sent = (*job.sent, (partner, partner.link.send(request, job.there)))",
            "                job.sent = (*job.sent, (partner, partner.link.send(request, lambda _ok: None)))",
        ),
    ),
    _mistake(
        "acknowledge before it is applied here",
        _REPLICATOR + "primary",
        (
            "        job.waiting = 1\n        for partner in self.partners:\n            if partner.required or",
            "        job.waiting = 0\n        for partner in self.partners:\n            if partner.required or",
        ),
        (
            "        local.apply(request, job.here, not job.fill)",
            "        self._loop.call_later(0.003, partial(local.apply, request, _ignored, not job.fill))\n"
            "        if not job.waiting:\n            self._end(job, job.outcome)",
        ),
        ("SWEEP_INTERVAL_S = 1.0", "SWEEP_INTERVAL_S = 1.0\n\n\ndef _ignored(_outcome):\n    pass"),
    ),
    _mistake(
        "alone, acknowledge from memory",
        _REPLICATOR + "primary",
        ("if self.hardens and not (job.hard", "if False and not (job.hard"),
    ),
    _mistake(
        "alone, tell what waited before it is on disk",
        _REPLICATOR + "leading",
        (
            "        self._recount()\n        let_go(released)\n\n    def",
            "        let_go(released)\n        self._recount()\n\n    def",
        ),
        ("bool(self._leaving_out) or not members", "not members"),
    ),
    _mistake(
        "take over alone, and serve from memory",
        _REPLICATOR + "leading",
        ("            yield from self._keep_alone()\n", ""),
    ),
    _mistake(
        "let a joiner go without the outcome of its join",
        _REPLICATOR + "leading",
        (
            "        elif partner.standing is Standing.JOINING or (\n"
            "            partner.standing is Standing.BOUND and not partner.asked\n"
            "        ):",
            "        elif partner.standing in (Standing.JOINING, Standing.BOUND):",
        ),
    ),
    _mistake(
        "acknowledge by the new set before the transaction",
        _REPLICATOR + "leading",
        (
            "        complete = all(partner.link.up for partner in required)\n",
            "        for partner in required:\n"
            "            if partner.lost and not partner.link.up and partner.standing is Standing.MEMBER:\n"
            "                for sent in partner.link.take_unconfirmed():\n"
            "                    sent.done(Outcome.OK)\n"
            "        complete = all(partner.link.up for partner in required)\n",
        ),
    ),
    _mistake(
        "forget after a restart that a join was asked for",
        _REPLICATOR + "store",
        ("        self.update_state(lambda now: replace(now, binding=host))", "        pass"),
    ),
    _mistake(
        "acknowledge what another host failed to do",
        _REPLICATOR + "link",
        (
            "            self.give_up_hope(why, sound",
            "            sent.confirmed(_OK)\n            dict(sound",
        ),
    ),
    # Reads and takeovers (I-3).
    _mistake(
        "skip the lease check",
        _REPLICATOR + "primary",
        ("        if self._loop.now() < self.leased_until_s or job.forgotten:", "        if True:"),
    ),
    _mistake(
        "count the lease from the answer",
        _REPLICATOR + "link",
        ("max(self.leased_until_s, sent_at_s + BEACON_LEASE_S)", "self._loop.now() + 2 * BEACON_LEASE_S"),
    ),
    _mistake(
        "forget the promise that a beat makes",
        _REPLICATOR + "following",
        ("        self._made_s = self._loop.now()", "        pass"),
    ),
    _mistake(
        "promote without being in the set",
        _TARGET + "membership",
        (
            "    if not cold_start_possible(assignment, now.boot_id, leases):\n        return None\n",
            "    primary = peer_of(assignment, assignment.primary_host_id)\n"
            "    if primary is not None and _keeps_memory(primary, leases):\n        return None\n",
        ),
        also=(
            (
                _METADATA + "replica_changes",
                '    if boot_of(replica, host_id) in ("", boot_id):',
                "    if False:",
            ),
            (
                _METADATA + "replica_changes",
                "    if not may_start_cold(replica, live_boots(draft, replica)):",
                "    if False:",
            ),
        ),
    ),
    _mistake(
        "take over while the primary holds its lease",
        _METADATA + "replica_changes",
        ("    if live_boot(draft, primary) == boot_of(replica, primary) and ", "    if False and "),
    ),
    _mistake(
        "no boot in the set",
        _TARGET + "roles",
        ("    if assignment.boot_id != boot_id:\n        return JOINER\n", ""),
    ),
    # Membership (I-4, I-5).
    _mistake(
        "a change that does not raise the epoch",
        _METADATA + "derived",
        (
            "        replica.epoch = (before.epoch if before else 0) + 1",
            "        replica.epoch = before.epoch if before else 1",
        ),
    ),
    _mistake(
        "join before everything is copied",
        _REPLICATOR + "resync",
        ("    while partner.absent.any():", "    while partner.absent.any() and partner.absent.count() > 1:"),
    ),
    _mistake(
        "join a copy that is half-synced on its disk",
        _REPLICATOR + "leading",
        ('        yield talk.ask({"do": "whole"})\n        talk.check()\n', ""),
    ),
    _mistake(
        "join from memory",
        _REPLICATOR + "joiner",
        ("        yield from settle(local)\n        for regions", "        for regions"),
    ),
    _mistake(
        "accept an old epoch",
        _METADATA + "cas",
        ("transact(list(self._compares.values()), ", "transact([], "),
    ),
    _mistake(
        "resign to one that may be dead",
        _REPLICATOR + "leading",
        ("heir.link.answered_s >= heard_s", "True"),
    ),
    _mistake(
        "join without missing",
        _REPLICATOR + "join",
        ("    if store.state.origin_snapshot_uid:\n", "    if False:\n"),
    ),
    _mistake(
        "join without changed",
        _REPLICATOR + "join",
        ("    yield from found or [[]]\n", "    yield from [[]]\n"),
    ),
    # Sessions (I-6).
    _mistake(
        "no drain at a new session",
        _REPLICATOR + "mirror",
        (
            "        ready = [waiting for waiting in self._waiting if waiting[0].number <= oldest]\n"
            "        self._waiting = [waiting for waiting in self._waiting if waiting[0].number > oldest]",
            "        ready, self._waiting = self._waiting, []",
        ),
        (
            "        if self._ended:\n            end(Outcome.STALE_EPOCH)\n        else:\n            self._local.apply",
            "        if False:\n            end(Outcome.STALE_EPOCH)\n        else:\n            self._local.apply",
        ),
    ),
    _mistake(
        "no drain at promotion",
        _REPLICATOR + "following",
        (
            "        self.close()\n        yield self.drain.end_all\n        yield self._local.order.when_idle",
            "        self.close()\n        yield from ()",
        ),
    ),
    _mistake(
        "resume a session after a reboot",
        _REPLICATOR + "align",
        ('    if answer["role"] != MIRROR:', "    if False:"),
    ),
    _mistake(
        "do not send again what was not confirmed",
        _REPLICATOR + "align",
        (
            "    talk.check()\n    link.resend_unconfirmed()\n",
            "    talk.check()\n    for sent in link.take_unconfirmed():\n        sent.done(Outcome.OK)\n"
            "    link.resend_unconfirmed()\n",
        ),
        (
            "from holdfast.base.errors import Unavailable",
            "from holdfast.base.device import Outcome\nfrom holdfast.base.errors import Unavailable",
        ),
    ),
    # Bitmaps (I-7).
    _mistake(
        "forget the intent bit",
        _REPLICATOR + "intent",
        ("        self._loop.in_pool(self._bitmap.sync, done, failed)", "        done(None)"),
    ),
    _mistake(
        "clear intent before the other has synced",
        _REPLICATOR + "clean",
        ("    yield settle_all(local, talks)\n", "    yield settle_all(local, [])\n"),
    ),
    _mistake(
        "clear intent under a write",
        _REPLICATOR + "clean",
        ("local.intent.untouched_parts(quiet)", "[list(quiet.set_bits())]"),
    ),
    _mistake(
        "leave doubts where no clean looks",
        _REPLICATOR + "leading",
        ("        yield from self._intend_all()\n", ""),
    ),
    _mistake(
        "clear a bit of absent early",
        _REPLICATOR + "resync",
        (
            "    turn = yield copying.turn_of(local, piece)\n",
            "    wanted = [e for e in piece if partner.absent.get(e) and not store.missing.get(e)]\n"
            "    partner.absent.clear_range(piece.start, piece.stop)\n"
            "    turn = yield copying.turn_of(local, piece)\n",
        ),
        (
            "        wanted = [e for e in piece if partner.absent.get(e) and not store.missing.get(e)]\n        if partner.compare",
            "        if partner.compare",
        ),
    ),
    _mistake(
        "leave out what the joiner intended",
        _REPLICATOR + "join",
        ("    local.store.cover_regions(partner.absent, doubt.set_bits())\n", ""),
    ),
    _mistake(
        "leave writes in flight out of absent",
        _REPLICATOR + "leading",
        (
            "            return regions | store.in_doubt, ranges\n",
            "            return regions | store.in_doubt, []\n",
        ),
        ("        return store.intent.set_bits(), []", "        return (), []"),
        also=(
            (
                _REPLICATOR + "partner",
                "        for offset, length in ranges:\n            self._mark(offset, length)\n",
                "",
            ),
        ),
    ),
    _mistake(
        "do not mark what an absent host misses",
        _REPLICATOR + "partner",
        (
            "        if attached and not self.absent.any_in(extents.start, extents.stop):\n            return True\n        self.absent.set_range(extents.start, extents.stop)\n",
            "        if attached and not self.absent.any_in(extents.start, extents.stop):\n            return True\n",
        ),
    ),
    _mistake(
        "throw away a copy that may be about to join",
        _TARGET + "rebuilding",
        (
            "    return is_bad(assignment, observed) and 0 <",
            "    return is_bad(assignment, observed) and 0 ==",
        ),
        (" renounced_epoch < assignment.epoch\n", " renounced_epoch\n"),
        also=(
            (
                _TARGET + "membership",
                "        return say.Renounce(assignment.epoch) if not now.renounced_epoch else None\n",
                "        return None\n",
            ),
        ),
    ),
    # Disks.
    _mistake(
        "flush one side only",
        _REPLICATOR + "primary",
        (
            "                job.sent = (*job.sent, (partner, partner.link.send(job.request, job.there)))",
            "                job.waiting -= 1",
        ),
    ),
    _mistake(
        "go on after a failed sync",
        _REPLICATOR + "local",
        (
            "            self.distrust(_FAILED_SYNC.format(error))\n            end(Outcome.MEDIUM_ERROR)\n",
            "            end(Outcome.OK)\n",
        ),
    ),
    # Held commands (I-11).
    _mistake(
        "run a held command after ownership came back",
        _REPLICATOR + "primary",
        (
            "        self._held.clear()\n        if self._pacing is not None:",
            "        for job in self._held:\n"
            "            if job.request.op is Op.WRITE:\n"
            "                content = bytearray(b''.join(job.request.buffers))\n"
            "                self._loop.call_later(0.5, partial(self._begin_late, job.request.offset, content))\n"
            "        self._held.clear()\n        if self._pacing is not None:",
        ),
        (
            "    # The gate (freeze.py).",
            "    def _begin_late(self, offset, content):\n"
            "        late = Request(Op.WRITE, offset, len(content), lambda _outcome: None, [memoryview(content)])\n"
            "        self.local.prepare(offset, len(content), partial(self.local.apply, late, late.done), late.done)\n\n"
            "    # The gate (freeze.py).",
        ),
    ),
    _mistake(
        "answer an abort while the command is on the link",
        _REPLICATOR + "endings",
        ("        if hosts:\n            self._waiting", "        if False:\n            self._waiting"),
    ),
    _mistake(
        "reset the ring while commands are on the link",
        _REPLICATOR + "replica",
        ("            return now.members - {self._host_id} <= heard\n", "            return True\n"),
    ),
    _mistake(
        "answer BUSY and leave the command on the link",
        _REPLICATOR + "link",
        (
            '            if sent.request.op is not Op.FLUSH:\n                self.doubt(sent.request.offset, sent.request.length, "a request took too long")\n',
            "            self._unconfirmed[sent] = None\n",
        ),
    ),
)

BY_NAME = {mistake.name: mistake for mistake in MISTAKES}
