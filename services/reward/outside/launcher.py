"""A process that gives each program a process of its own: it has imported what they may use, and runs none itself.

    python -m services.reward.outside.launcher CHANNEL_FD PARENT_PID

It answers a byte on its channel, a socket, once it can work. From then on each message brings a descriptor: a child is
forked, which reads a program there and tells what came out (`services.reward.outside.program`), and the channel has the
next byte when nothing of that child is left. One program at a time, and the launcher never reads one.

Where the kernel allows it the launcher is the first process of a PID namespace: a program sees, and can signal, no
process but its own, and whatever is left in there ends with it.
"""

import gc
import importlib
import os
import signal
import socket
import sys
from collections.abc import Sequence

from services.reward.outside import program
from services.reward.workers import sandbox

NEXT = b"."
"""What goes over the channel, either way: the next one, please."""


def main(argv: Sequence[str]) -> int:
    """Import, give up what can be given up, then launch until the channel ends."""
    channel, parent = socket.socket(fileno=int(argv[0])), int(argv[1])
    for name in program.MODULES:
        importlib.import_module(name)
    alone = sandbox.leave()
    sandbox.die_with(parent)
    if alone and (first := os.fork()):
        channel.close()
        return os.waitstatus_to_exitcode(os.waitpid(first, 0)[1])
    if alone:
        sandbox.die_with()
    gc.freeze()  # no page is copied for the collector's sake
    channel.sendall(NEXT)
    while (asked := socket.recv_fds(channel, 1, 1))[0]:
        _launch(channel, asked[1][0], alone=alone)
        channel.sendall(NEXT)
    return 0


def _launch(channel: socket.socket, exchange: int, *, alone: bool) -> None:
    """Have a child run what it reads from `exchange`; return once it has ended, and all that it started."""
    launcher = os.getpid()
    if not (child := os.fork()):
        channel.close()
        os.setsid()  # a signal to its group reaches nobody else
        if not alone:
            sandbox.die_with(launcher)
        program.run(exchange)
    os.close(exchange)
    os.waitpid(child, 0)
    if alone:
        _clear()


def _clear() -> None:
    """End and reap whatever else is in the namespace, whose first process this is."""
    if os.getpid() != 1:
        raise RuntimeError("not the first process of a PID namespace: nothing may be ended from here")
    try:
        os.kill(-1, signal.SIGKILL)
        while True:
            os.wait()
    except (ProcessLookupError, ChildProcessError):
        pass


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
