"""Turn Ctrl-C and SIGTERM into a request to stop after the current step."""

import contextlib
import os
import signal
import socket
import sys
import threading

from roadseg.errors import StopRequest

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopping:
    """Context manager that listens for signals.

    Inside `deferred()` the first signal is a request, which `check()` raises. A second one, or one
    outside, ends the process at once. A thread listens, because Python's signal handlers wait for
    the end of a training step.
    """

    def __init__(self):
        self.requested = None  # number of the signal
        self.is_deferring = False

    def __enter__(self):
        self.listener, self.teller = socket.socketpair()
        self.teller.setblocking(False)
        self.earlier_fd = signal.set_wakeup_fd(self.teller.fileno())
        self.earlier = {number: signal.signal(number, lambda *_: None) for number in SIGNALS}
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(self, *_):
        for number, handler in self.earlier.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self.earlier_fd)
        self.teller.close()

    def _listen(self):
        while number := self.listener.recv(1):
            if number[0] not in SIGNALS:
                continue
            if not self.is_deferring or self.requested:
                print("\nstopped at once; saved files are complete", file=sys.stderr)
                sys.stderr.flush()
                os._exit(128 + number[0])
            self.requested = number[0]
            print("\nstopping after this step and saving …", file=sys.stderr, flush=True)
        self.listener.close()

    @contextlib.contextmanager
    def deferred(self):
        """Turn a signal into a request in the body, which calls `check` between steps."""
        self.is_deferring = True
        try:
            yield
            self.check()
        finally:
            self.is_deferring = False

    def check(self):
        """Raise StopRequest if a stop was requested."""
        if self.requested:
            raise StopRequest(self.requested)
