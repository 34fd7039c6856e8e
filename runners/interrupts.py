"""Ctrl-C and SIGTERM during a training: taken up where nothing is half done, and at once where time is only waited."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

__all__ = ["Interrupted", "Interrupts"]


class Interrupted(BaseException):
    """A signal was heard while nothing was half done."""


class Interrupts:
    """A context that takes up SIGINT and SIGTERM in place of the process; a second Ctrl-C interrupts at once.

    Attributes:
        caught: the numbers of the signals so far.
    """

    def __init__(self) -> None:
        self.caught: list[int] = []
        self._waiting = False

    def __enter__(self) -> "Interrupts":
        self._handlers = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    @contextmanager
    def heard_at_once(self) -> Iterator[None]:
        """A block that a signal may leave anywhere: waiting for data, drawing a picture.

        Raises:
            Interrupted: at the signal, or at the start where there was one before.
        """
        self._waiting = True
        try:
            if self.caught:
                raise Interrupted
            yield
        finally:
            self._waiting = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.caught.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if self._waiting:
            self._waiting = False
            raise Interrupted
