"""When an initiator's way to the primary is taken for cut: as a real one was seen to behave."""

from holdfast.target.volume_sessions import REFUSED_RECENT_S, PathWatch


def test_a_path_that_is_cut() -> None:
    """The initiator tries the standby path once, and queues; the kernel finds its session gone later."""
    watch = PathWatch()
    assert not watch.matters(0)
    watch.refused(2)
    assert watch.matters(3) and watch.cut_s(3) == 0
    watch.asked(True, 4)
    assert watch.cut_s(4) == 0
    watch.asked(False, 8)
    assert watch.cut_s(11) == 3
    # Until somebody logs in it stays so, however long the move is refused.
    assert watch.matters(200) and watch.cut_s(200) == 192
    watch.asked(True, 201)
    assert watch.cut_s(201) == 0 and not watch.matters(201)


def test_one_that_logs_out_is_not_cut() -> None:
    """What it was refused long before (Linux reads every path when it finds it) does not count."""
    watch = PathWatch()
    watch.refused(1)
    watch.asked(True, 2)
    assert not watch.matters(REFUSED_RECENT_S + 2)
    watch.asked(False, REFUSED_RECENT_S + 5)
    assert watch.cut_s(100) == 0
    # But I/O that is refused later does: it has only the other path.
    watch.refused(110)
    assert watch.cut_s(111) > 0
    watch.forget()
    assert watch.cut_s(111) == 0 and not watch.matters(111)


def test_nobody_is_cut_while_anybody_is_logged_in() -> None:
    watch = PathWatch()
    for now_s in range(60):
        watch.refused(now_s)
        watch.asked(True, now_s)
        assert watch.cut_s(now_s) == 0
