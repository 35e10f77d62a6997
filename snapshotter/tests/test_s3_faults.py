"""Snapshots through a proxy that goes wrong, before a real S3 server: right, or told; never a wrong byte."""

import threading
from collections.abc import Iterator

import pytest

from holdfast.base.errors import DataLoss, NotFound, Unavailable
from holdfast.lab.s3_proxy import Fault, Rule, S3Proxy
from holdfast.lab.swift import SwiftServer
from holdfast.snapshotter.objects import ObjectStore
from holdfast.snapshotter.objects_url import open_store
from holdfast.snapshotter.patient import PatientStore

NAME = "snapshots/one/pack-1"
BODY = bytes(range(256)) * 1024


@pytest.fixture(scope="module")
def shared(swift_server: SwiftServer) -> Iterator[tuple[S3Proxy, ObjectStore]]:
    bucket = swift_server.make_bucket("s3-faults")
    with S3Proxy(swift_server.port) as proxy, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", swift_server.credentials.access_key)
        patch.setenv("AWS_SECRET_ACCESS_KEY", swift_server.credentials.secret_key)
        patience = "connect_timeout_s=1&read_timeout_s=3&attempts=1"
        made = open_store(f"s3://{bucket}/p?endpoint={proxy.endpoint_url}&{patience}")
        yield proxy, made
        made.close()


@pytest.fixture
def proxy(shared: tuple[S3Proxy, ObjectStore]) -> S3Proxy:
    shared[0].mend()
    shared[0].done.clear()
    return shared[0]


@pytest.fixture
def store(shared: tuple[S3Proxy, ObjectStore], proxy: S3Proxy) -> ObjectStore:
    shared[1].delete(NAME)
    return shared[1]


def patient(store: ObjectStore) -> PatientStore:
    return PatientStore(store, threading.Event(), lambda _: None)


NOT_DONE = (Fault.INTERNAL, Fault.SLOW_DOWN, Fault.FORBIDDEN, Fault.TIMEOUT)
DONE = (Fault.LOST_ANSWER, Fault.LOST_LINK)


@pytest.mark.parametrize("fault", [*NOT_DONE, *DONE, Fault.CUT_REQUEST])
def test_a_put_that_goes_wrong_is_unavailable_and_may_be_repeated(
    store: ObjectStore, proxy: S3Proxy, fault: Fault
) -> None:
    proxy.rules.append(Rule("PUT", "pack-1", fault, times=1))
    with pytest.raises(Unavailable):
        store.put(NAME, BODY)
    if fault in DONE:
        assert store.size(NAME) == len(BODY)
    else:
        with pytest.raises(NotFound):
            store.size(NAME)
    store.put(NAME, BODY)
    assert store.get(NAME) == BODY and len(proxy.done) == 1


@pytest.mark.parametrize("fault", [*NOT_DONE, Fault.LOST_LINK, Fault.LOST_ANSWER])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_look_that_goes_wrong_is_unavailable(
    store: ObjectStore, proxy: S3Proxy, fault: Fault, method: str
) -> None:
    store.put(NAME, BODY)
    proxy.rules.append(Rule(method, "pack-1", fault, times=1))
    with pytest.raises(Unavailable):
        if method == "GET":
            store.get_range(NAME, 1, 100)
        else:
            store.size(NAME)
    assert store.get_range(NAME, 1, 100) == BODY[1:101] and store.size(NAME) == len(BODY)


def test_a_body_that_is_cut_is_asked_for_again(store: ObjectStore, proxy: S3Proxy) -> None:
    store.put(NAME, BODY)
    proxy.rules.append(Rule("GET", "pack-1", Fault.CUT_ANSWER, times=2))
    assert store.get(NAME) == BODY and len(proxy.done) == 2
    proxy.rules.append(Rule("GET", "pack-1", Fault.CUT_ANSWER))
    with pytest.raises(Unavailable):
        store.get(NAME)


@pytest.mark.parametrize("length", [len(BODY) // 16, 1000, 100_000, 250_000])
def test_pieces_of_a_body_that_is_cut_go_on_where_it_ended(
    store: ObjectStore, proxy: S3Proxy, length: int
) -> None:
    store.put(NAME, BODY)
    lengths = [length] * (len(BODY) // length)
    lengths += [len(BODY) - sum(lengths)] * (sum(lengths) < len(BODY))
    proxy.rules.append(Rule("GET", "pack-1", Fault.CUT_ANSWER, times=2))
    assert b"".join(store.get_pieces(NAME, 0, lengths)) == BODY and len(proxy.done) == 2
    proxy.rules.append(Rule("GET", "pack-1", Fault.CUT_ANSWER))
    with pytest.raises(Unavailable):
        list(store.get_pieces(NAME, 0, lengths))


def test_slow_bodies_are_waited_for(store: ObjectStore, proxy: S3Proxy) -> None:
    proxy.rules += [Rule("PUT", "", Fault.SLOW_REQUEST), Rule("GET", "", Fault.SLOW_ANSWER)]
    store.put(NAME, BODY)
    assert store.get(NAME) == BODY and len(proxy.done) == 2


@pytest.mark.parametrize("fault", [Fault.VANISHED, Fault.LATE])
def test_what_is_acknowledged_and_not_there_is_put_until_it_is(
    store: ObjectStore, proxy: S3Proxy, fault: Fault
) -> None:
    proxy.rules.append(Rule("PUT", "pack-1", fault, times=2))
    assert patient(store).put_confirmed(NAME, BODY).size_bytes == len(BODY)
    assert len(proxy.done) == 2 or fault is Fault.LATE
    assert store.get(NAME) == BODY


def test_what_vanishes_later_is_missing(store: ObjectStore, proxy: S3Proxy) -> None:
    proxy.rules.append(Rule("PUT", "pack-1", Fault.VANISHED_LATER, times=1))
    patient(store).put_confirmed(NAME, BODY)
    with pytest.raises(NotFound):
        store.get(NAME)
    with pytest.raises(NotFound):
        store.size(NAME)
    store.put(NAME, BODY)
    assert store.get(NAME) == BODY


@pytest.mark.parametrize("fault", [Fault.LATE, Fault.VANISHED_LATER, Fault.VANISHED])
def test_what_is_not_to_be_found_is_not_listed(store: ObjectStore, proxy: S3Proxy, fault: Fault) -> None:
    proxy.rules.append(Rule("PUT", "pack-1", fault, times=1))
    store.put("snapshots/one/pack-0", BODY)
    store.put(NAME, BODY)
    looks = [NAME in {one.name for one in store.list("snapshots/one/")} for _ in range(4)]
    assert (
        looks
        == {
            Fault.LATE: [False, False, True, True],
            Fault.VANISHED_LATER: [True, False, False, False],
            Fault.VANISHED: [False] * 4,
        }[fault]
    )


def test_what_is_cut_at_rest_is_told(store: ObjectStore) -> None:
    store.put(NAME, BODY[:100])
    with pytest.raises(DataLoss):
        store.get_range(NAME, 50, 100)
    with pytest.raises(DataLoss):
        store.get_range(NAME, 200, 100)
