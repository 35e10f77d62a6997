"""Placement, ports, pages, records, seals, redaction: functions of their arguments."""

import json
from datetime import UTC, datetime

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from holdfast.api.attachment.v1 import attachment_pb2 as ab
from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import BadInput, DataLoss, Exhausted, HoldfastError
from holdfast.base.limits import NBD_PORT_END, NBD_PORT_FIRST
from holdfast.metadata import pages
from holdfast.metadata.placement import Candidate, free_bytes, next_port, place
from holdfast.metadata.records import decode, encode
from holdfast.metadata.redact import redacted
from holdfast.metadata.seal import host_recipient, public_key, seal, unseal

NAMES = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,8}", fullmatch=True)
HOSTS = st.lists(
    st.builds(
        Candidate,
        host_id=NAMES,
        live=st.booleans(),
        exports=st.booleans(),
        capacity_bytes=st.integers(0, 1000),
        allocated_bytes=st.integers(0, 1200),
    ),
    max_size=8,
    unique_by=lambda one: one.host_id,
)


@given(HOSTS, st.integers(1, 1200), st.sampled_from([0.5, 1.0, 2.0]), st.randoms())
def test_placement(hosts: list[Candidate], size: int, overcommit: float, random: object) -> None:
    try:
        primary, mirror = place(hosts, size, overcommit)
    except HoldfastError as error:
        fit = [one for one in hosts if one.live and free_bytes(one, overcommit) >= size]
        assert len(fit) < 2
        assert error.reason in ("SIZE_TOO_LARGE", "NO_SECOND_HOST", "NO_ROOM")
        return
    by_id = {one.host_id: one for one in hosts}
    assert primary != mirror
    for host_id in (primary, mirror):
        assert by_id[host_id].live and free_bytes(by_id[host_id], overcommit) >= size
    assert place(hosts[::-1], size, overcommit) == (primary, mirror), "the order of hosts does not count"
    better = [
        one
        for one in hosts
        if one.live
        and one.exports
        and one.host_id not in (primary, mirror)
        and free_bytes(one, overcommit) > free_bytes(by_id[mirror], overcommit)
    ]
    assert not better


@given(st.integers(0, 70_000), st.sets(st.integers(NBD_PORT_FIRST, NBD_PORT_FIRST + 20)))
def test_ports_go_round(start: int, in_use: set[int]) -> None:
    port, following = next_port(start, in_use)
    assert port not in in_use
    for value in (port, following):
        assert NBD_PORT_FIRST <= value < NBD_PORT_END
    again, _ = next_port(following, in_use | {port})
    assert again != port


def test_ports_wrap_and_run_out() -> None:
    assert next_port(NBD_PORT_END - 1, set()) == (NBD_PORT_END - 1, NBD_PORT_FIRST)
    assert next_port(NBD_PORT_END - 1, {NBD_PORT_END - 1})[0] == NBD_PORT_FIRST
    with pytest.raises(Exhausted):
        next_port(0, range(NBD_PORT_FIRST, NBD_PORT_END))


TIMES = st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1)).map(
    lambda moment: Timestamp(seconds=int(moment.replace(tzinfo=UTC).timestamp()))
)


@given(
    st.builds(
        r.VolumeRecord,
        uid=st.text(max_size=30).filter(lambda text: text.isprintable()),
        size_bytes=st.integers(0, 2**64 - 1),
        state=st.sampled_from(r.VolumeState.values()),
        create_time=TIMES,
        multi_attach=st.booleans(),
        health=st.builds(r.VolumeHealth, state=st.sampled_from(r.HealthState.values()), since_time=TIMES),
    )
)
def test_records_come_back(record: r.VolumeRecord) -> None:
    value = encode(record)
    assert decode(r.VolumeRecord, value) == record
    assert encode(decode(r.VolumeRecord, value)) == value
    assert list(json.loads(value)) == sorted(json.loads(value))


def test_records_of_another_version() -> None:
    newer = b'{"uid":"u","colour":"red","health":{"state":"HEALTH_STATE_PURPLE","depth":3},"size_bytes":"7"}'
    assert decode(r.VolumeRecord, newer).size_bytes == 7
    for broken in (b"", b"{", b"[]", b'{"size_bytes":"x"}', b"\xff"):
        with pytest.raises(DataLoss):
            decode(r.VolumeRecord, broken)


def test_what_people_read() -> None:
    record = r.ReplicaRecord(volume_uid="v", epoch=7, primary_host_id="a")
    record.in_sync.add(host_id="a", boot_id="b")
    assert encode(record) == (
        b'{"epoch":"7","in_sync":[{"boot_id":"b","host_id":"a"}],"primary_host_id":"a","volume_uid":"v"}'
    )


@given(st.lists(NAMES, unique=True, max_size=30).map(sorted), st.integers(1, 7), st.integers(0, 3))
def test_pages_hold_everything_once(names: list[str], size: int, skip: int) -> None:
    def fetch(after: str, limit: int) -> list[tuple[str, str | None]]:
        later = [name for name in names if name > after]
        return [(name, None if skip and hash(name) % 4 < skip else name) for name in later[:limit]]

    wanted = [item for _, item in fetch("", len(names)) if item]
    seen: list[str] = []
    token = ""
    while True:
        items, token = pages.fill(size, pages.read_token(token), fetch)
        assert len(items) <= size
        seen += items
        if not token:
            break
        assert len(items) == size, "only the last page is short"
    assert seen == wanted


@given(st.text(max_size=40))
def test_tokens_are_ours_or_refused(text: str) -> None:
    try:
        pages.read_token(text)
    except BadInput as error:
        assert error.reason == "BAD_PAGE_TOKEN"
    else:
        assert not text or pages.make_token(pages.read_token(text)) == text


@given(st.binary(max_size=64), st.text(max_size=20))
def test_sealed_secrets(secret: bytes, context: str) -> None:
    key, other = bytes(range(32)), bytes(range(1, 33))
    sealed = seal(secret, host_recipient("a"), public_key(key), context)
    assert unseal(sealed, key, context) == secret
    assert not secret or len(secret) < 8 or secret not in sealed.ciphertext
    moved = r.SealedSecret(recipient=host_recipient("b"), ciphertext=sealed.ciphertext)
    torn = r.SealedSecret(recipient=sealed.recipient, ciphertext=sealed.ciphertext[:-1])
    for wrong, wrong_key, wrong_context in [
        (sealed, other, context),
        (sealed, key, context + "x"),
        (moved, key, context),
        (torn, key, context),
        (r.SealedSecret(recipient=sealed.recipient), key, context),
    ]:
        with pytest.raises(DataLoss):
            unseal(wrong, wrong_key, wrong_context)


def test_secrets_are_kept_out_of_logs() -> None:
    attachment = ab.Attachment(attachment_id="a", chap_user="u", chap_secret="hush")
    answer = ab.ListAttachmentsResponse(attachments=[attachment])
    for message in (attachment, answer, ab.WatchAttachmentResponse(attachment=attachment)):
        line = redacted(message)
        assert "hush" not in line and "redacted" in line and '"u"' in line
    assert attachment.chap_secret == "hush", "only the copy in the log"
