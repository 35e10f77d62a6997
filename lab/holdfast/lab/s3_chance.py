"""Faults by chance, the same for a seed: for campaigns.

Names hold random words, and threads ask in any order. What goes wrong is therefore decided by the kind of
an object and by how many requests of that kind there have been, never by its name or by the time.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from random import Random

from holdfast.lab.s3_proxy import GET_ONLY, PUT_ONLY, Asked, Fault

_ANY = tuple(fault for fault in Fault if fault not in PUT_ONLY + GET_ONLY)
_BY_METHOD = {"PUT": _ANY + PUT_ONLY, "GET": _ANY + GET_ONLY, "HEAD": _ANY, "DELETE": _ANY}


class Chance:
    """A chooser of S3Proxy's: `rate` of all requests go wrong, each kind of fault alike.

    Args:
        without: faults that are left out.
    """

    def __init__(self, seed: int, rate: float, without: Sequence[Fault] = ()) -> None:
        self._seed = seed
        self._rate = rate
        self._without = without
        self._counts: Counter[tuple[str, str]] = Counter()

    def __call__(self, asked: Asked) -> Fault | None:
        kind = (asked.method, asked.name.rpartition("/")[2].partition("-")[0])
        self._counts[kind] += 1
        text = f"{self._seed} {kind} {self._counts[kind]}"
        chance = Random(hashlib.sha256(text.encode()).digest())
        faults = [fault for fault in _BY_METHOD.get(asked.method, ()) if fault not in self._without]
        return chance.choice(faults) if faults and chance.random() < self._rate else None
