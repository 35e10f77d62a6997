"""Work in several waits, written top to bottom: a generator that the loop resumes.

    def freeze() -> Steps[int]:
        yield from ...                       # another sequence
            answer = yield link.flush            # start it; go on when it calls back

Each `yield` hands over a starter: a function that is called with `resume` and begins something that
calls `resume(value)` once, at once or later. For what happens once in a while (a freeze, the opening of
a session); the path of an I/O uses plain callbacks.
"""

from collections.abc import Callable, Generator
from typing import Any, TypeVar

T = TypeVar("T")
Resume = Callable[[Any], None]
Starter = Callable[[Resume], None]
Steps = Generator[Starter, Any, T]


def run(steps: Steps[T], done: Callable[[T], None], failed: Callable[[Exception], None]) -> None:
    """Run `steps` to its end, then `done(what it returned)` or `failed(what it raised)`.

    A starter that calls back at once does not deepen the stack.
    """

    def advance(value: Any, error: Exception | None = None) -> None:
        while True:
            try:
                starter = steps.send(value) if error is None else steps.throw(error)
            except StopIteration as end:
                done(end.value)
                return
            except Exception as raised:
                failed(raised)
                return
            waiting = _Wait(advance)
            starter(waiting.resume)
            if not waiting.park():
                return
            value, error = waiting.take()

    advance(None)


class _Wait:
    """Tells a call-back during the starter from one after it."""

    __slots__ = ("_advance", "_answered", "_parked", "_value")

    def __init__(self, advance: Callable[..., None]) -> None:
        self._advance = advance
        self._answered = False
        self._parked = False
        self._value: Any = None

    def resume(self, value: Any) -> None:
        if self._answered:
            raise AssertionError("a step was resumed twice")
        self._answered = True
        self._value = value
        if self._parked:
            self._advance(*self.take())

    def park(self) -> bool:
        """True if the answer is there already."""
        self._parked = True
        return self._answered

    def take(self) -> tuple[Any, Exception | None]:
        value = self._value
        return (None, value) if isinstance(value, Exception) else (value, None)


def all_of(*starters: Starter) -> Starter:
    """Start all; go on with the list of their answers when each has called back."""

    def start(resume: Resume) -> None:
        if not starters:
            resume([])
            return
        answers: list[Any] = [None] * len(starters)
        left = len(starters)

        def one(index: int) -> Resume:
            def collect(value: Any) -> None:
                nonlocal left
                answers[index] = value
                left -= 1
                if left == 0:
                    resume(next((a for a in answers if isinstance(a, Exception)), answers))

            return collect

        for index, starter in enumerate(starters):
            starter(one(index))

    return start


def starting(steps: Steps[Any]) -> Starter:
    """A sequence as one step of another: for `all_of`."""
    return lambda resume: run(steps, resume, resume)
