"""Names that callers choose, and the identities made from a uid."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.base.errors import BadInput
from holdfast.base.ids import IQN_MAX_BYTES, check_initiator, check_name, is_uid, naa, new_uid, target_iqn

_ALLOWED = "abcdefghijklmnopqrstuvwxyz0123456789._-"


@pytest.mark.parametrize("name", ["a", "0", "my-volume_1.2", "a" * 63])
def test_good_names(name: str) -> None:
    assert check_name("volume", name) == name


@pytest.mark.parametrize("name", ["", "-a", ".a", "_a", "A", "a/b", "a b", "a" * 64, "ä", "a\n", "a\0"])
def test_bad_names_are_refused_with_what_to_do(name: str) -> None:
    with pytest.raises(BadInput, match=r"volume id .* is malformed: use 1 to 63") as caught:
        check_name("volume", name)
    assert caught.value.reason == "BAD_ID"


@given(st.text(max_size=80))
def test_a_name_is_taken_only_if_every_character_is_allowed(name: str) -> None:
    good = 1 <= len(name) <= 63 and all(c in _ALLOWED for c in name) and name[0].isalnum()
    try:
        check_name("volume", name)
        assert good
    except BadInput:
        assert not good


@pytest.mark.parametrize(
    "name",
    [
        "iqn.2026-01.com.example:host1",
        "iqn.1993-08.org.debian:01:9c5a8f3b2e1d",
        "iqn.2026-12.com.example",
        "eui.0123456789abcdef",
        "naa.0123456789abcdef",
        "naa.0123456789abcdef0123456789abcdef",
    ],
)
def test_good_initiators(name: str) -> None:
    assert check_initiator(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "iqn",
        "iqn.2026-13.com.example:x",
        "iqn.26-01.com.example:x",
        "iqn.2026-01.com.example:",
        "IQN.2026-01.com.example:x",
        "iqn.2026-01.com.example:x y",
        "iqn.2026-01.com.example:x\n",
        "iqn.2026-01.com.example:../etc",
        "eui.123",
        "naa.xyz",
        "iqn.2026-01.com.example:" + "x" * IQN_MAX_BYTES,
    ],
)
def test_bad_initiators(name: str) -> None:
    with pytest.raises(BadInput) as caught:
        check_initiator(name)
    assert caught.value.reason == "BAD_IQN"


def test_identities_made_from_a_uid_are_valid_and_differ() -> None:
    uids = {new_uid() for _ in range(100)}
    assert len(uids) == 100 and all(is_uid(uid) for uid in uids)
    for uid in uids:
        assert check_initiator(target_iqn(uid)) == target_iqn(uid)
        assert len(naa(uid)) == 32 and int(naa(uid), 16) >> 124 == 6
    assert not is_uid("g" * 24) and not is_uid("a" * 23) and not is_uid("a" * 25)
