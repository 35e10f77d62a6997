"""Sizes as people write and read them: 1GiB, 500M, 4096."""

import re

import click

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_DECIMAL = {"K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_SIZE = re.compile(r"(-?\d+)(?:\.(\d+))?\s*([KMGT]?)(I?B?)", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Bytes. `G` and `GiB` are 2^30, `GB` is 10^9. Raises ValueError unless it is a whole number of bytes."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a size: write 1GiB, 500MiB or a number of bytes")
    whole, fraction, unit, suffix = match[1], match[2] or "", match[3].upper(), match[4].upper()
    if suffix == "I" or (suffix == "IB" and not unit):
        raise ValueError(f"{text!r} is not a size: write 1GiB, 500MiB or a number of bytes")
    factor = _DECIMAL[unit] if suffix == "B" and unit else _UNITS[unit]
    scaled: int
    scaled, rest = divmod(int(whole + fraction) * factor, 10 ** len(fraction))
    if rest:
        raise ValueError(f"{text!r} is not a whole number of bytes")
    return scaled


def show_size(size_bytes: int) -> str:
    """Short, for people: exact where a unit divides it, else one decimal."""
    for unit in ("T", "G", "M", "K"):
        factor = _UNITS[unit]
        if size_bytes >= factor:
            if size_bytes % factor == 0:
                return f"{size_bytes // factor} {unit}iB"
            return f"{size_bytes / factor:.1f} {unit}iB"
    return f"{size_bytes} B"


class SizeType(click.ParamType[int]):
    name = "size"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            return parse_size(str(value))
        except ValueError as error:
            self.fail(f"{error}.", param, ctx)


SIZE = SizeType()
