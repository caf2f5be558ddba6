"""SIGTERM and Ctrl-C as requests: the batch in hand is finished, what is done is kept, then the process ends.

Python runs a signal's handler only when the main thread is back in the interpreter, which may be minutes away while a device
computes. So a thread of its own learns of the signal at once, and where the batch takes too long it keeps what is done and ends the
process itself.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Generator
from types import FrameType, TracebackType
from typing import Any, Self, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
GRACE = 7.0
"""Seconds from SIGTERM until the batch in hand is given up; what stops machines waits 10 and more."""
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopping:
    """While this is entered, SIGTERM and Ctrl-C ask to stop; on leaving, what was asked for happens.

    A second signal, or a batch that takes longer than `GRACE` after SIGTERM, ends the process at once, with what is done kept. Does
    nothing outside of the main thread, where Python takes no signals.

    Args:
        keep: writes what is done and returns it in words; called once, from any thread.
    """

    def __init__(self, keep: Callable[[], str]):
        self._keep, self._kept = keep, threading.Lock()
        self._asked: signal.Signals | None = None
        self._ended = threading.Event()
        self._handlers: dict[signal.Signals, Any] = {}

    def until(
        self, stream: Generator[Item, None, None], agreed: Callable[[int], int] = int
    ) -> Generator[Item, None, None]:
        """The stream, up to where the signal comes; closed then.

        Args:
            stream: batches.
            agreed: for several processes that must end at the same batch: asked before every batch with the number of the signal that came
                here, 0 for none; the stream ends here as if the signal that it returns had come.
        """
        with contextlib.closing(stream):
            for item in stream:
                number = agreed(self._asked or 0)
                if number:
                    self._asked = self._asked or signal.Signals(number)
                    return
                yield item

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            return self
        self._receive, self._send = socket.socketpair()
        self._send.setblocking(False)
        self._handlers = {number: signal.signal(number, self._ask) for number in SIGNALS}
        self._woken = signal.set_wakeup_fd(self._send.fileno(), warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._listen, name="case_jax-stopping", daemon=True)
        self._thread.start()
        return self

    def _ask(self, number: int, frame: FrameType | None) -> None:
        """Python's handler, which only has to exist: `_listen` does the work."""

    def _listen(self) -> None:
        while word := self._receive.recv(1):
            if word[0] not in SIGNALS:
                continue
            number = signal.Signals(word[0])
            if self._asked is not None:
                self._end(number)
            self._asked = number
            threading.Thread(target=self._limit, args=(number,), daemon=True).start()
            _say(f"{number.name}: finishing the batch in hand; once more ends at once")

    def _limit(self, number: signal.Signals) -> None:
        if number is signal.SIGTERM and not self._ended.wait(GRACE):
            self._end(number)

    def _end(self, number: signal.Signals) -> None:
        with self._kept:
            if not self._ended.is_set():
                _say(f"stopped by {number.name}; {self._keep()}")
            os._exit(128 + number)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._handlers:
            if self._asked is not None and kind is None:  # by another process
                raise SystemExit(128 + self._asked)
            return
        with self._kept:
            if self._asked is not None and kind is None:
                _say(f"stopped by {self._asked.name}; {self._keep()}")
            self._ended.set()
        signal.set_wakeup_fd(self._woken)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._send.close()
        self._thread.join()
        self._receive.close()
        if self._asked is not None and kind is None:
            signal.raise_signal(self._asked)
            raise SystemExit(128 + self._asked)  # where a handler of the program's own has returned


def _say(line: str) -> None:
    tqdm.write(f"case-jax: {line}", file=sys.stderr)
