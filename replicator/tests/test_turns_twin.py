"""How plain WRITEs enter an order, in C, beside what order.py does with each of them."""

import random

import pytest

from holdfast.base.device import Op, Outcome, Request
from holdfast.base.limits import MIB
from holdfast.replicator import local
from holdfast.replicator.bitmap import Bitmap
from holdfast.replicator.order import BUCKET_SHIFT, Order, Turn

REGION_SHIFT = 22
SIZE = 12 * MIB
REGIONS = SIZE >> REGION_SHIFT
SIZES = (SIZE, BUCKET_SHIFT, REGION_SHIFT)
STORIES = 400
quick = local._quick

pytestmark = pytest.mark.skipif(quick is None, reason="built without a compiler")


class _Mine(Turn):
    __slots__ = ("mark", "request")

    def __init__(self, request: Request, mark: object) -> None:
        super().__init__(request.offset, request.offset + request.length, True)
        self.request = request
        self.mark = mark

    def begin(self) -> None: ...


def _ignored(_outcome: Outcome) -> None: ...


def _requests(chance: random.Random) -> list[Request]:
    found = []
    for _ in range(chance.randrange(1, 30)):
        op = chance.choice([Op.WRITE] * 20 + [Op.ZERO, Op.FLUSH])
        length, start = chance.choice((512, 4096)), chance.randrange(SIZE // 4096) * 4096
        if chance.random() < 0.1:
            length, start = (
                chance.choice((0, 65536, MIB, MIB + 512, SIZE)),
                chance.choice((start, -512, SIZE)),
            )
        found.append(Request(op, start, length, _ignored, [], chance.random() < 0.03))
    return found


def _shape(order: Order) -> list[object]:
    """What is in each bucket, in its order."""
    return [
        (
            index,
            type(found).__name__,
            [turn.start for turn in (found if isinstance(found, dict) else [found])],
        )
        for index, found in sorted(order.buckets.items())
    ]


def _enter_each(order: Order, requests: list[Request], at: int, hot: set[int], touched: set[int]) -> int:
    """As the twin must: by the rules in its header."""
    for request in requests[at:]:
        start, end = request.offset, request.offset + request.length
        inside = 0 <= start < end <= SIZE and start >> BUCKET_SHIFT == (end - 1) >> BUCKET_SHIFT
        if request.op is not Op.WRITE or request.fua or not inside or start >> REGION_SHIFT not in hot:
            return at
        turn = _Mine(request, None)
        if any(start < to and since < end for since, to in order.writing()):
            return at
        assert order.enter(turn)
        touched.add(start >> REGION_SHIFT)
        at += 1
    return at


def test_they_enter_alike() -> None:
    assert quick is not None
    several = 0
    for seed in range(STORIES):
        chance = random.Random(seed)
        orders, touched, touched_bits = (Order(), Order()), set[int](), Bitmap.in_memory(REGIONS)
        for _ in range(chance.randrange(3)):
            start = chance.randrange(SIZE // 4096 - 300) * 4096
            length = chance.choice((4096, 2 * MIB // 2))
            for order in orders:
                order.enter(_Mine(Request(Op.WRITE, start, length, _ignored), None))
        hot = set(chance.sample(range(REGIONS), chance.choice((2, 3, 3))))
        hot_bits = Bitmap.in_memory(REGIONS)
        for region in hot:
            hot_bits.set(region)
        requests, mark = _requests(chance), object()
        at = chance.randrange(len(requests))
        template = _Mine(requests[0], mark)
        entered: list[_Mine] = []
        known = (orders[0].buckets, hot_bits.buffer, touched_bits.buffer)
        stopped = quick.enter(template, requests, at, Op.WRITE, known, SIZES, entered)
        assert stopped == _enter_each(orders[1], requests, at, hot, touched), f"seed {seed}"
        assert _shape(orders[0]) == _shape(orders[1]), f"seed {seed}"
        assert touched == set(touched_bits.set_bits())
        assert [turn.request for turn in entered] == requests[at:stopped]
        for turn in entered:
            assert (turn.start, turn.end) == (turn.request.offset, turn.request.offset + turn.request.length)
            assert turn.mark is mark and turn.exclusive and not turn.over and turn.waiters is None
            orders[0].give_back(turn)
        several += stopped - at > 1
    assert several > STORIES / 10


def test_what_is_no_plain_turn_is_not_copied() -> None:
    assert quick is not None

    class Loose(_Mine):
        pass

    request = Request(Op.WRITE, 0, 512, _ignored)
    arguments = (Op.WRITE, ({}, bytearray(1), bytearray(1)), SIZES, [])
    for wrong in (Loose(request, None), [], "turn"):
        with pytest.raises(TypeError):
            quick.enter(wrong, [request], 0, *arguments)


def test_bitmaps_too_short_for_the_volume_are_refused() -> None:
    assert quick is not None
    request = Request(Op.WRITE, 8 << REGION_SHIFT, 512, _ignored)
    sizes = (9 << REGION_SHIFT, BUCKET_SHIFT, REGION_SHIFT)
    for hot, touched in ((1, 2), (2, 1)):
        with pytest.raises(TypeError):
            known = ({}, bytearray(hot), bytearray(touched))
            quick.enter(_Mine(request, None), [request], 0, Op.WRITE, known, sizes, [])
