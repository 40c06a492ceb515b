"""Turn Ctrl-C and SIGTERM into a request to stop after the current step."""

import contextlib
import os
import shutil
import signal
import socket
import sys
import threading

from roadseg.errors import StopRequest

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SECONDS_TO_CLEAN_UP = 0.8


class Stopping:
    """Listens for SIGINT and SIGTERM while it is open.

    Inside `deferred()` the first signal only becomes a request, which `check()` answers; a second
    one ends the process at once. Outside, the first raises StopRequest, so that what is unfinished
    is removed; where the main thread does not come to that within a second, a thread removes what
    is registered by `removing` and ends the process.
    """

    def __init__(self):
        self.requested = None  # number of the signal
        self.is_deferring = False
        self.leftovers = set()  # paths
        self.is_closed = threading.Event()

    def __enter__(self):
        self.listener, self.teller = socket.socketpair()
        self.teller.setblocking(False)
        self.earlier_fd = signal.set_wakeup_fd(self.teller.fileno())
        self.earlier = {number: signal.signal(number, self._interrupt) for number in SIGNALS}
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.is_closed.set()
        for number, handler in self.earlier.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self.earlier_fd)
        self.teller.close()

    def _interrupt(self, number, _):
        """Raise StopRequest in the main thread, unless that is deferred."""
        if not self.is_deferring:
            raise StopRequest(number)

    def _listen(self):
        """Wait for signals in a thread: Python's handlers wait for the end of a training step."""
        while number := self.listener.recv(1):
            if number[0] not in SIGNALS:
                continue
            if not self.is_deferring:
                if not self.is_closed.wait(SECONDS_TO_CLEAN_UP):
                    self._end(number[0])
            elif self.requested:
                self._end(number[0])
            else:
                self.requested = number[0]
                print("\nstopping; what is done is kept …", file=sys.stderr, flush=True)
        self.listener.close()

    def _end(self, number):
        """Remove what is registered and end the process at once."""
        for path in tuple(self.leftovers):  # which another thread may be changing
            shutil.rmtree(path, ignore_errors=True)  # a file is left by it
            with contextlib.suppress(OSError):
                os.unlink(path)
        print("\nstopped at once; saved files are complete", file=sys.stderr, flush=True)
        os._exit(128 + number)

    @contextlib.contextmanager
    def removing(self, path):
        """Register a temporary file or folder that is to go, however the process is stopped."""
        self.leftovers.add(path)
        try:
            yield
        finally:
            self.leftovers.discard(path)

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
