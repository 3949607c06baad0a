"""Real servers as child processes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from shared.errors import Unavailable, UserError
from tests.fakes import wait_gone
from triune.local import servers
from triune.local.process import free_port
from triune.local.servers import NatsServer, find_binary, local_servers

pytestmark = [pytest.mark.nats, pytest.mark.redis]


def test_both_servers_answer_while_the_context_lasts_and_are_gone_after_it(tmp_path: Path) -> None:
    with local_servers(tmp_path) as both:
        assert both.nats.url == f"nats://127.0.0.1:{both.nats.port}"
        assert both.redis.url == f"redis://127.0.0.1:{both.redis.port}/0"
        pids = [both.nats.pid, both.redis.pid]
        assert all(pids)
    assert (both.nats.pid, both.redis.pid) == (None, None)
    wait_gone([pid for pid in pids if pid])


def test_a_killed_server_starts_again_on_its_port(tmp_path: Path) -> None:
    with local_servers(tmp_path) as both:
        port = both.nats.port
        both.nats.kill()
        assert both.nats.pid is None
        both.nats.start()
        assert (both.nats.port, both.nats.pid is None) == (port, False)


def test_servers_die_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys, time\n"
        "from triune.local.servers import local_servers\n"
        "with local_servers(pathlib.Path(sys.argv[1])) as both:\n"
        "    sys.stdout.write(f'{both.nats.pid} {both.redis.pid}\\n')\n"
        "    sys.stdout.flush()\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 2
        os.kill(parent.pid, signal.SIGKILL)
    wait_gone(pids)


def test_a_busy_port_is_one_sentence(tmp_path: Path) -> None:
    with local_servers(tmp_path / "one") as both:
        other = NatsServer(tmp_path / "two", both.nats.port)
        with pytest.raises(UserError, match=f"port {both.nats.port} on 127.0.0.1 is in use"):
            other.start()


def test_a_missing_package_is_one_sentence() -> None:
    with pytest.raises(UserError, match=r"no no-such-server binary: package 'no-such-package' is not installed"):
        find_binary("no-such-server", "no-such-package")


def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "MIN_FREE_BYTES", 1 << 62)
    with pytest.raises(Unavailable, match=f"nats-server cannot start: {tmp_path} has .* MB free"):
        NatsServer(tmp_path).start()


def test_a_server_that_ends_at_its_start_is_quoted(tmp_path: Path) -> None:
    server = NatsServer(tmp_path, free_port())
    (tmp_path / "jetstream").write_text("a file where the store's folder should be")
    with pytest.raises(Unavailable, match=r"nats-server ended at its start with code 1: .*Can't start JetStream"):
        server.start()


def test_the_durable_server_syncs_every_write(tmp_path: Path) -> None:
    server = NatsServer(tmp_path, durable=True)
    server.start()
    server.stop()
    assert "sync_interval: always" in (tmp_path / "nats-server.conf").read_text()


def test_a_server_that_dies_again_and_again_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "REVIVE_PAUSE_S", 0.0)
    server = NatsServer(tmp_path)
    server.start()
    with pytest.raises(Unavailable, match="nats-server died 5 times right after its start"):
        for _ in range(5):
            server.kill()
            server.revive()


def test_two_processes_do_not_share_one_store(tmp_path: Path) -> None:
    with (
        local_servers(tmp_path),
        pytest.raises(UserError, match=f"belong to process {os.getpid()}, expected them to be stopped"),
        local_servers(tmp_path),
    ):
        pass
    with local_servers(tmp_path) as both:
        assert both.nats.pid
