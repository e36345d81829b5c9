"""Whether a call gives up Python's lock."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable


def lets_python_run(call: Callable[[], object]) -> bool:
    """The caller says `begun`, calls and says `ended`; a second thread, waiting for the first word, looks whether the
    last has been said. As no thread has to give up Python's lock before 1000 s have passed, the second gets to look
    where the first gives the lock up by itself: inside the call, or not before the end.
    """

    def looks_into(call: Callable[[], object]) -> bool:
        begun, ended = threading.Event(), False

        def caller() -> None:
            nonlocal ended
            begun.set()
            call()
            ended = True

        thread = threading.Thread(target=caller)
        thread.start()
        begun.wait()
        inside = not ended
        thread.join()
        return inside

    before = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    try:
        assert not looks_into(lambda: sum(range(100_000)))  # a call that keeps the lock
        # A machine may be too busy to let the second thread run in time, but not every time.
        return any(looks_into(call) for _ in range(50))
    finally:
        sys.setswitchinterval(before)
