"""The codec's tables."""

from hypothesis import given
from hypothesis import strategies as st

from holdfast.base.device import Outcome
from holdfast.base.nbd import wire


def test_structs_have_the_sizes_that_the_protocol_gives() -> None:
    assert wire.REQUEST.size == 28
    assert wire.SIMPLE_REPLY.size == 16
    assert wire.CHUNK.size == 20
    assert wire.OPTION.size == 16
    assert wire.OPTION_REPLY.size == 20
    assert wire.GREETING.size == 18
    assert wire.EXPORT_NAME_REPLY.size == 10


def test_every_outcome_has_an_error_that_comes_back_as_itself() -> None:
    for outcome in Outcome:
        error = wire.error_of(outcome)
        assert (error == 0) == (outcome is Outcome.OK)
        if outcome is not Outcome.MISCOMPARE:  # No NBD command compares.
            assert wire.outcome_of(error) is outcome


@given(st.integers(1, 2**32 - 1))
def test_no_error_is_taken_for_success(error: int) -> None:
    assert wire.outcome_of(error) is not Outcome.OK
