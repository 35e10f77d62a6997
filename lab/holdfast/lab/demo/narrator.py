"""Telling a person what happens, how long it took, and what is being waited for."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_TICK_S = 1.0


class Narrator:
    """Writes to standard output. On a terminal the line that waits counts its seconds."""

    def __init__(self) -> None:
        self._started_s = time.monotonic()
        self._terminal = sys.stdout.isatty()
        self._number = 0

    @contextmanager
    def chapter(self, title: str) -> Iterator[None]:
        """A part of the story; its duration is told at its end."""
        self._number += 1
        began_s = time.monotonic()
        print(f"\n{self._number}. {title}", flush=True)
        yield
        print(f"   ({time.monotonic() - began_s:.1f} s)", flush=True)

    def say(self, text: str) -> None:
        for line in text.splitlines():
            print(f"   {line}", flush=True)

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Something that takes time: told when it begins, and how long it took."""
        began_s = time.monotonic()
        over = threading.Event()
        if self._terminal:
            ticker = threading.Thread(target=self._tick, args=(what, began_s, over), daemon=True)
            ticker.start()
        else:
            print(f"   … {what}", flush=True)
        try:
            yield
        finally:
            over.set()
            if self._terminal:
                ticker.join()
                print("\r\033[K", end="")
        print(f"   ✓ {what}: {time.monotonic() - began_s:.1f} s", flush=True)

    def total_s(self) -> float:
        return time.monotonic() - self._started_s

    def _tick(self, what: str, began_s: float, over: threading.Event) -> None:
        while True:
            print(f"\r\033[K   … {what} ({time.monotonic() - began_s:.0f} s)", end="", flush=True)
            if over.wait(_TICK_S):
                return
