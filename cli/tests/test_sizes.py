"""Sizes: what is written is what is read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.cli.sizes import parse_size, show_size


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("0", 0),
        ("4096", 4096),
        ("4096B", 4096),
        ("1GiB", 1 << 30),
        ("1g", 1 << 30),
        ("1.5GiB", 3 << 29),
        ("500 MiB", 500 << 20),
        ("1GB", 10**9),
        ("2TiB", 2 << 40),
        ("-4096", -4096),
    ],
)
def test_parse(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize("text", ["", "GiB", "1.3", "1 PiB", "1GiBB", "0x10", "1I", "1e9", "1,5GiB", "1IB"])
def test_refuse(text: str) -> None:
    with pytest.raises(ValueError, match="not a"):
        parse_size(text)


@given(st.integers(0, 1023), st.sampled_from(["KiB", "MiB", "GiB", "TiB"]))
def test_whole_units_come_back(count: int, unit: str) -> None:
    size_bytes = parse_size(f"{count}{unit}")
    assert parse_size(show_size(size_bytes)) == size_bytes
