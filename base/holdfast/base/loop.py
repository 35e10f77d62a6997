"""One thread, one epoll: descriptors, timers, and completions handed over by other threads.

Everything that a worker decides runs on this thread, so nothing it owns needs a lock. What may block
goes to `in_pool`; its result comes back here. A callback that raises stops the loop and the process:
a broken invariant must not be served past (style rule 11), and the agent starts the worker again.
"""

import heapq
import itertools
import math
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from holdfast.base.kernel_sync import KernelSync
from holdfast.base.timer_fd import TimerFd

_T = TypeVar("_T")
READABLE = select.EPOLLIN
WRITABLE = select.EPOLLOUT
EDGE = select.EPOLLET
"""With READABLE: told once each time that something comes, read or not."""
POOL_THREADS = 8


class Timer:
    """A call to come. `cancel` is idempotent and may be called after it ran."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class Loop:
    """An event loop. Only `call_from_thread` may be called from another thread."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._timer_fd = TimerFd()
        self._armed_s = math.inf
        self._overdue = False
        self._soon: deque[Callable[[], None]] = deque()
        self._handed_over: list[Callable[[], None]] = []
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._pool = ThreadPoolExecutor(POOL_THREADS, thread_name_prefix="io")
        # A signal's handler may want it while the very thread that it interrupts has it.
        self._wake_lock = threading.RLock()
        self._stopped = False
        self._syncs: KernelSync | None = None
        self._kernel_syncs = True
        """The kernel may be able to."""
        self.add(self._wake_fd, READABLE, self._drain_handed_over)
        self.add(self._timer_fd.fd, READABLE, self._timer_due)

    def now(self) -> float:
        """Seconds on CLOCK_BOOTTIME: it counts while the machine is suspended (I-3)."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def add(self, fd: int, events: int, handler: Callable[[int], None]) -> None:
        """Call `handler(events)` when `fd` is ready (level triggered, without EDGE)."""
        self._handlers[fd] = handler
        self._epoll.register(fd, events)

    def modify(self, fd: int, events: int) -> None:
        self._epoll.modify(fd, events)

    def remove(self, fd: int) -> None:
        """Forget `fd`; call it before closing. Unknown descriptors are ignored."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Run `callback` on this thread after the events at hand."""
        self._soon.append(callback)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        timer, now_s = Timer(callback), self.now()
        due_s = now_s + delay_s
        heapq.heappush(self._timers, (due_s, next(self._order), timer))
        if due_s < self._armed_s:
            self._arm(now_s)
        return timer

    def call_about(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        """As `call_later`, at the nearest whole multiple of `delay_s`: what is done now and then, without a
        need for the moment, wakes an idle process together.
        """
        now_s = self.now()
        return self.call_later(round(now_s / delay_s + 1) * delay_s - now_s, callback)

    def call_from_thread(self, callback: Callable[[], None]) -> None:
        """Run `callback` on the loop's thread; safe from any thread. After `close` nothing is run."""
        with self._wake_lock:
            # A closed descriptor's number may be a data file's by now.
            if self._wake_fd >= 0:
                # Looked at before: what a signal's handler adds in between must not pass for the wake-up.
                is_asleep = not self._handed_over
                self._handed_over.append(callback)
                if is_asleep:
                    os.eventfd_write(self._wake_fd, 1)

    def in_pool(
        self,
        work: Callable[[], _T],
        done: Callable[[_T], None],
        failed: Callable[[BaseException], None],
        pool: Executor | None = None,
    ) -> None:
        """Run `work` in the pool (or in one of the caller's, for what may block for long), then
        `done(result)` or `failed(error)` on this thread.
        """

        def finish(future: "Future[_T]") -> None:
            if future.cancelled():
                return
            error = future.exception()
            if error is not None:
                self.call_from_thread(lambda: failed(error))
            else:
                self.call_from_thread(lambda: done(future.result()))

        (pool or self._pool).submit(work).add_done_callback(finish)

    def sync_file(
        self, fd: int, done: Callable[[None], None], failed: Callable[[BaseException], None]
    ) -> None:
        """fdatasync(2) of `fd`, which stays open meanwhile; then `done(None)` or `failed(OSError)` on this
        thread. The pool does it where the kernel does not by itself.
        """
        if self._syncs is None and self._kernel_syncs:
            self._kernel_syncs = self._begin_syncs()

        def ended(number: int) -> None:
            if number:
                failed(OSError(number, os.strerror(number)))
            else:
                done(None)

        if self._syncs is None or not self._syncs.begin(fd, ended):
            self.in_pool(partial(os.fdatasync, fd), done, failed)

    def _begin_syncs(self) -> bool:
        try:
            self._syncs = syncs = KernelSync()
        except OSError:
            return False
        self.add(syncs.fd, READABLE | EDGE, lambda _events: syncs.take())
        return True

    def run(self) -> None:
        """Serve until `stop`."""
        while not self._stopped:
            self.run_once()

    def run_once(self, limit_s: float | None = None) -> None:
        """One turn: wait for events (at most `limit_s`), then run what is due."""
        hurry = self._soon or self._overdue or self._stopped
        for fd, events in self._epoll.poll(0 if hurry else limit_s):
            handler = self._handlers.get(fd)
            if handler is not None:
                handler(events)
        if self._overdue:
            self._run_timers()
        for _ in range(len(self._soon)):
            self._soon.popleft()()

    def stop(self) -> None:
        self._stopped = True

    def close(self) -> None:
        """Release descriptors and wait for the pool. Call from the loop's thread, after `run`."""
        self._pool.shutdown(wait=True)
        if self._syncs is not None:
            self.remove(self._syncs.fd)
            self._syncs.close()
        with self._wake_lock:
            wake_fd, self._wake_fd = self._wake_fd, -1
        for fd in (wake_fd, self._timer_fd.fd):
            self.remove(fd)
        os.close(wake_fd)
        self._armed_s = -math.inf  # Nothing is earlier: the alarm's number may be a data file's by now.
        self._timer_fd.close()
        self._epoll.close()

    def _arm(self, now_s: float) -> None:
        """Be woken when the first timer is due; one that is due already is not waited for."""
        first_s = self._timers[0][0] if self._timers else math.inf
        self._overdue = first_s <= now_s
        if not self._overdue and first_s != self._armed_s:
            self._armed_s = first_s
            if first_s < math.inf:
                self._timer_fd.set(first_s)

    def _timer_due(self, _events: int) -> None:
        self._timer_fd.clear()
        self._armed_s = math.inf
        self._overdue = True  # `run_once` runs it, after the events at hand.

    def _run_timers(self) -> None:
        # One look at the clock: a timer that starts another with no delay must not starve descriptors.
        now_s = self.now()
        while self._timers and self._timers[0][0] <= now_s:
            callback = heapq.heappop(self._timers)[2].callback
            if callback is not None:
                callback()
        self._arm(now_s)

    def _drain_handed_over(self, _events: int) -> None:
        os.eventfd_read(self._wake_fd)
        with self._wake_lock:
            callbacks, self._handed_over = self._handed_over, []
        for callback in callbacks:
            callback()
