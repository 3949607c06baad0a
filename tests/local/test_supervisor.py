"""The supervisor, with small scripts in place of the services."""

import asyncio
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from shared.errors import Unavailable, UserError
from tests.fakes import eventually, runs, wait_gone
from triune.local import supervisor as module
from triune.local.servers import local_servers
from triune.local.supervisor import QUICK_DEATHS, ServiceDied, Supervisor

READY = """
import http.server, os, signal, sys
signal.signal(signal.SIGTERM, lambda *_: (sys.stderr.write("stopped\\n"), os._exit(0)))
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/readyz" else 404)
        self.end_headers()
    def log_message(self, *_):
        pass
sys.stderr.write("started " + os.environ["TRIUNE_REPLICA"] + " " + os.environ.get("COLOUR", "") + "\\n")
sys.stderr.flush()
http.server.HTTPServer(("127.0.0.1", int(os.environ["TRIUNE_HEALTH_PORT"])), Answer).serve_forever()
"""
STUBBORN = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + READY.replace(
    "signal.signal(signal.SIGTERM, lambda", "(lambda *_: None)(signal.SIGTERM, lambda"
)
BROKEN = "import sys\nsys.exit('the model is broken')"
MISCONFIGURED = "import sys\nsys.stderr.write('NATS_URL is empty\\n')\nsys.exit(2)"
PARENT = (
    f"import subprocess, sys\nchild = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n{READY}"
)
LIMIT_S = 30.0


def supervisor(log_dir: Path, services: dict[str, int], code: str = READY, **options: object) -> Supervisor:
    def command(service: str) -> Sequence[str]:
        return [sys.executable, "-c", code]

    return Supervisor(services=services, env=dict(os.environ), log_dir=log_dir, command=command, **options)


async def test_services_become_ready_and_are_gone_afterwards(tmp_path: Path) -> None:
    async with supervisor(tmp_path, {"reward": 2, "monitor": 1}, env_by_service={"reward": {"COLOUR": "red"}}) as s:
        await s.wait_ready(LIMIT_S)
        pids = s.pids("reward") + s.pids("monitor")
        assert len(set(pids)) == 3
        assert s.pids("learner") == []
    assert not any(map(runs, pids))
    log = (tmp_path / "reward-1.log").read_text()
    assert log.startswith("started reward-1-") and "red" in log and log.endswith("stopped\n")


async def test_a_killed_service_is_started_again_under_its_name(tmp_path: Path) -> None:
    async with supervisor(tmp_path, {"learner": 1}) as s:
        await s.wait_ready(LIMIT_S)
        (old,) = s.pids("learner")
        os.kill(old, signal.SIGKILL)

        async def lives_again() -> bool:
            return bool(s.pids("learner")) and s.pids("learner") != [old]

        await eventually(lives_again)
        await s.wait_ready(LIMIT_S)
    names = [line.split()[1] for line in (tmp_path / "learner-0.log").read_text().splitlines() if "started" in line]
    assert len(names) == 2 and len(set(names)) == 1


@pytest.mark.nats
@pytest.mark.redis
async def test_killed_servers_are_started_again(tmp_path: Path) -> None:
    with local_servers(tmp_path / "servers") as both:
        async with supervisor(tmp_path, {"data": 1}, servers=both):
            old = (both.nats.pid, both.redis.pid)
            for pid in old:
                assert pid is not None
                os.kill(pid, signal.SIGKILL)

            async def both_live_again() -> bool:
                return None not in (both.nats.pid, both.redis.pid) and both.nats.pid != old[0]

            await eventually(both_live_again)


async def test_a_service_that_cannot_be_started_now_is_started_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = 0

    def fork_fails(*_: object) -> None:
        nonlocal refused
        refused += 1
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    async def is_refused() -> bool:
        return refused > QUICK_DEATHS

    async def runs_again() -> bool:
        return s.pids("reward") not in ([], pids)

    monkeypatch.setattr(module, "_PAUSES_S", (0.05,))
    async with supervisor(tmp_path, {"reward": 1}) as s:
        await s.wait_ready(LIMIT_S)
        pids = s.pids("reward")
        with monkeypatch.context() as patch:
            patch.setattr(module, "spawn", fork_fails)
            os.kill(pids[0], signal.SIGKILL)
            await eventually(is_refused)
        await eventually(runs_again)
        await s.wait_ready(LIMIT_S)


async def test_a_killed_service_takes_its_own_children_along(tmp_path: Path) -> None:
    async with supervisor(tmp_path, {"reward": 1}, PARENT) as s:
        await s.wait_ready(LIMIT_S)
        (pid,) = s.pids("reward")
        (child,) = psutil.Process(pid).children()
        os.kill(pid, signal.SIGKILL)

        async def child_is_gone() -> bool:
            return not runs(child.pid)

        await eventually(child_is_gone)


async def test_a_service_that_dies_again_and_again_ends_the_watch_with_its_last_lines(tmp_path: Path) -> None:
    async with supervisor(tmp_path, {"learner": 1}, BROKEN, quick_deaths=2) as s:
        with pytest.raises(ServiceDied, match=r"learner-0 died 2 times .*the model is broken.*learner-0\.log"):
            async with asyncio.timeout(LIMIT_S):
                await s.watch()
        with pytest.raises(ServiceDied):
            await s.wait_ready(LIMIT_S)


async def test_faults_in_the_work_on_a_job_do_not_end_the_watch(tmp_path: Path) -> None:
    faulty = f"import pathlib, sys\nlives = pathlib.Path({str(tmp_path / 'lives')!r})\n" + (
        "lives.touch()\nlives.write_text(lives.read_text() + 'x')\nif len(lives.read_text()) < 4: sys.exit(3)\n" + READY
    )
    async with supervisor(tmp_path, {"learner": 1}, faulty, quick_deaths=2) as s:
        await s.wait_ready(LIMIT_S)
    assert (tmp_path / "lives").read_text() == "xxxx"


async def test_bad_input_is_not_tried_again(tmp_path: Path) -> None:
    async with supervisor(tmp_path, {"data": 1}, MISCONFIGURED) as s:
        with pytest.raises(UserError, match="data-0 refused to start: NATS_URL is empty"):
            await s.wait_ready(LIMIT_S)


async def test_a_service_that_is_never_ready_is_named(tmp_path: Path) -> None:
    async with supervisor(tmp_path, {"data": 1}, "import time\ntime.sleep(60)") as s:
        with pytest.raises(Unavailable, match=r"data-0 was not ready within 0\.2 s"):
            await s.wait_ready(0.2)


async def test_a_service_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    async with supervisor(tmp_path, {"data": 1}, STUBBORN, stop_s=0.2) as s:
        await s.wait_ready(LIMIT_S)
        (pid,) = s.pids("data")
    assert not runs(pid)


def test_services_die_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import asyncio, os, pathlib, sys\n"
        "from triune.local.supervisor import Supervisor\n"
        "async def main():\n"
        "    command = lambda service: [sys.executable, '-c', sys.argv[2]]\n"
        "    options = dict(env=dict(os.environ), log_dir=pathlib.Path(sys.argv[1]), command=command)\n"
        "    async with Supervisor(services={'data': 2}, **options) as s:\n"
        "        await s.wait_ready(30)\n"
        "        print(*s.pids('data'), flush=True)\n"
        "        await s.watch()\n"
        "asyncio.run(main())\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path), READY]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 2
        os.kill(parent.pid, signal.SIGKILL)
    wait_gone(pids)
