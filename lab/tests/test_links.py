"""The bookkeeping of faults."""

import pytest

from holdfast.lab.links import Fault, Links


def test_faults_of_a_link_add_up_and_go_away_together() -> None:
    links = Links()
    links.delay("a", "b", 0.5, one_way=True)
    links.cut("a", "b", one_way=False)
    assert links.faults == {
        ("a", "b"): Fault(cut=True, delay_s=0.5),
        ("b", "a"): Fault(cut=True),
    }
    links.mend("b", "a")
    assert links.faults == {}


def test_a_sound_link_has_no_entry() -> None:
    links = Links()
    links.delay("a", "b", 1, one_way=False)
    links.delay("a", "b", 0, one_way=True)
    assert links.faults == {("b", "a"): Fault(delay_s=1)}


@pytest.mark.parametrize("delay_s", [-1, 61, float("nan")])
def test_a_delay_has_limits(delay_s: float) -> None:
    links = Links()
    with pytest.raises(ValueError, match="not between"):
        links.delay("a", "b", delay_s, one_way=False)
    assert links.faults == {}
