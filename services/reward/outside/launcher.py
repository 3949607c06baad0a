"""A process that gives each program a process of its own: it has imported what they may use, and runs none itself.

    python -m services.reward.outside.launcher CHANNEL_FD PARENT_PID

It answers a byte on its channel, a socket, once it can work. From then on each message brings a descriptor: a child is
forked, which reads a program there and tells what came out (`services.reward.outside.program`), and the channel has the
next byte when that child has ended. One program at a time, and the launcher never reads one.
"""

import gc
import importlib
import os
import socket
import sys
from collections.abc import Sequence

from services.reward.outside import program
from services.reward.workers import sandbox

NEXT = b"."
"""What goes over the channel, either way: the next one, please."""


def main(argv: Sequence[str]) -> int:
    """Import, then launch until the channel ends."""
    channel, parent = socket.socket(fileno=int(argv[0])), int(argv[1])
    for name in program.MODULES:
        importlib.import_module(name)
    sandbox.die_with(parent)
    gc.freeze()  # no page is copied for the collector's sake
    channel.sendall(NEXT)
    while (asked := socket.recv_fds(channel, 1, 1))[0]:
        _launch(channel, asked[1][0])
        channel.sendall(NEXT)
    return 0


def _launch(channel: socket.socket, exchange: int) -> None:
    """Have a child run what it reads from `exchange`; return once it has ended. It can start no other process."""
    launcher = os.getpid()
    if not (child := os.fork()):
        channel.close()
        sandbox.die_with(launcher)
        program.run(exchange)
    os.close(exchange)
    os.waitpid(child, 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
