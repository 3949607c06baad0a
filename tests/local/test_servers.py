"""Real servers as child processes."""

import asyncio
import errno
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from shared.bus.nats.bus import NatsBus
from shared.errors import Unavailable, UserError
from tests.disks import filled, is_small, small_disk
from tests.fakes import make_id, make_prompt, wait_gone
from triune.local import room, servers
from triune.local.process import bound_log, free_port
from triune.local.secret import local_secret
from triune.local.servers import NatsServer, find_binary, local_servers

pytestmark = [pytest.mark.nats, pytest.mark.redis]


def test_both_servers_answer_while_the_context_lasts_and_are_gone_after_it(tmp_path: Path) -> None:
    with local_servers(tmp_path) as both:
        assert both.nats.url == f"nats://triune:{both.nats.password}@127.0.0.1:{both.nats.port}"
        assert both.redis.url == f"redis://:{both.redis.password}@127.0.0.1:{both.redis.port}/0"
        pids = [both.nats.pid, both.redis.pid]
        assert all(pids)
    assert (both.nats.pid, both.redis.pid) == (None, None)
    wait_gone([pid for pid in pids if pid])


def said(port: int, *lines: str) -> str:
    """All that a server says to a stranger who sends these lines and then QUIT."""
    with socket.create_connection(("127.0.0.1", port), timeout=5.0) as line:
        line.sendall("".join(f"{text}\r\n" for text in (*lines, "QUIT")).encode())
        heard = b""
        while part := line.recv(4096):
            heard += part
    return heard.decode()


def test_a_stranger_on_loopback_gets_no_word_of_either_server(tmp_path: Path) -> None:
    with local_servers(tmp_path) as both:
        assert "-NOAUTH" in said(both.redis.port, "SET a b")
        assert "Authorization Violation" in said(both.nats.port, "CONNECT {}", "PING")


def test_who_knows_the_password_of_redis_still_has_no_config_command(tmp_path: Path) -> None:
    with local_servers(tmp_path) as both:
        heard = said(both.redis.port, f"AUTH {both.redis.password}", "CONFIG SET dir /tmp", "SAVE")
        assert "unknown command `CONFIG`" in heard


def test_passwords_are_kept_over_restarts_in_files_that_only_their_owner_reads(tmp_path: Path) -> None:
    with local_servers(tmp_path) as both:
        passwords = (both.nats.password, both.redis.password)
        holding = [path for path in tmp_path.rglob("*") if path.is_file() and _holds(path, passwords)]
        assert len(holding) == 4, "each password and the configuration that names it"
        assert {path.stat().st_mode & 0o777 for path in holding} == {0o600}
        commands = [" ".join(psutil.Process(server.pid).cmdline()) for server in (both.nats, both.redis)]
        assert not any(password in command for password in passwords for command in commands)
    with local_servers(tmp_path) as both:
        assert (both.nats.password, both.redis.password) == passwords


def _holds(path: Path, passwords: tuple[str, str]) -> bool:
    return any(password.encode() in path.read_bytes() for password in passwords)


def test_a_secret_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    assert local_secret(path) == local_secret(path) != ""
    path.chmod(0o644)
    with pytest.raises(UserError, match="can be read by others, expected mode 600"):
        local_secret(path)


def test_a_secret_that_is_there_is_read_and_one_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1 << 20) as disk:
        if not is_small(disk):
            pytest.skip("needs the right to mount")
        secret = local_secret(disk / "there")
        with filled(disk):
            assert local_secret(disk / "there") == secret
            with pytest.raises(OSError, match="No space left"):
                local_secret(disk / "new")
        assert [path.name for path in disk.iterdir()] == ["there"]


def test_a_log_that_has_become_long_goes_on_empty_beside_what_it_held(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-c", "import sys\nfor line in sys.stdin: sys.stderr.write(line); sys.stderr.flush()"]
    with log.open("ab") as output, subprocess.Popen(command, stdin=subprocess.PIPE, stderr=output) as writer:
        assert writer.stdin is not None

        def write(line: bytes) -> None:
            before = log.stat().st_size
            writer.stdin.write(line)
            writer.stdin.flush()
            until = time.monotonic() + 30.0
            while log.stat().st_size < before + len(line):
                assert time.monotonic() < until

        write(b"one\n")
        bound_log(log, 4)
        assert not (tmp_path / "log.1").exists()
        write(b"two\n")
        bound_log(log, 4)
        write(b"three\n")
        writer.stdin.close()
    assert (log.read_text(), (tmp_path / "log.1").read_text()) == ("three\n", "one\ntwo\n")


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


@pytest.mark.parametrize("lacking", ["MIN_FREE_BYTES", "MIN_FREE_FILES"])
def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacking: str) -> None:
    monkeypatch.setattr(room, lacking, 1 << 62)
    with pytest.raises(
        Unavailable, match=f"nats-server cannot start: {tmp_path} has .* MB and .* files free, expected"
    ):
        NatsServer(tmp_path).start()


async def test_a_disk_is_as_large_as_what_is_on_it_and_not_as_what_the_streams_may_hold(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 2 * room.MIN_FREE_BYTES) as disk, local_servers(disk) as both:
        bus = await NatsBus.connect(both.nats.url)
        assert (await bus.stream_state("scored")).max_bytes == 2 << 30
        await bus.close()


async def test_a_server_whose_disk_was_full_goes_on_once_there_is_room(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 2 * room.MIN_FREE_BYTES) as disk, local_servers(disk) as both:
        if not is_small(disk):
            pytest.skip("needs the right to mount")
        bus = await NatsBus.connect(both.nats.url)

        async def publish() -> None:
            for ordinal in range(50):
                await bus.publish("prompts", "j", "train", make_prompt(ordinal, job="j"), make_id("j", ordinal))

        async with asyncio.timeout(60.0):
            with filled(disk):
                publishing, pid = asyncio.create_task(publish()), both.nats.pid
                await asyncio.wait({publishing}, timeout=2.0)
                assert not publishing.done()
                both.heal()
                assert both.nats.pid == pid, "nothing can be done while the disk is full"
            while not publishing.done():
                await asyncio.to_thread(both.heal)
                both.revive()
                await asyncio.wait({publishing}, timeout=0.2)
        assert both.nats.pid != pid
        assert (await bus.stream_state("prompts")).messages == 50
        await bus.close()


def test_a_server_that_dies_on_a_full_disk_is_started_once_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "REVIVE_PAUSE_S", 0.0)
    with local_servers(tmp_path) as both:
        both.nats.kill()
        with monkeypatch.context() as patch:
            patch.setattr(room, "MIN_FREE_BYTES", 1 << 62)
            for _ in range(10):
                both.revive()
            assert both.nats.pid is None
        with monkeypatch.context() as patch:  # it fills up between the look at it and the start
            patch.setattr(servers, "write_private", _no_space)
            for _ in range(10):
                both.revive()
            assert both.nats.pid is None
        both.revive()
        assert both.nats.pid is not None


def _no_space(path: Path, text: str) -> None:
    raise OSError(errno.ENOSPC, "No space left on device", str(path))


def test_a_server_that_is_frozen_or_away_is_not_stopped_for_its_health(tmp_path: Path) -> None:
    with local_servers(tmp_path) as both:
        pid = both.nats.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        both.heal()
        os.kill(pid, signal.SIGCONT)
        both.heal()
        assert both.nats.pid == pid
        both.nats.kill()
        both.heal()
        assert both.nats.pid is None


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


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    folder, sentence = (
        tmp_path / "file" / "runs",
        r"file/runs cannot be written \(Not a directory\); name another folder",
    )
    with pytest.raises(UserError, match=sentence), local_servers(folder):
        pass


def test_a_disk_without_a_byte_is_one_sentence_at_the_very_start(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1 << 20) as disk:
        if not is_small(disk):
            pytest.skip("needs the right to mount")
        (disk / "servers.lock").touch()
        with filled(disk), pytest.raises(UserError, match="cannot be written"), local_servers(disk):
            pass


def test_two_processes_do_not_share_one_store(tmp_path: Path) -> None:
    with (
        local_servers(tmp_path),
        pytest.raises(UserError, match=f"belong to process {os.getpid()}, expected them to be stopped"),
        local_servers(tmp_path),
    ):
        pass
    with local_servers(tmp_path) as both:
        assert both.nats.pid


def test_a_port_is_drawn_for_one_server_alone() -> None:
    drawn = [free_port() for _ in range(1000)]  # of 12,000: without a memory some 40 of them come twice
    assert len(set(drawn)) == len(drawn)
