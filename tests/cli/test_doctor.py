"""The doctor names each fault with what to do about it."""

import contextlib
import dataclasses
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.runtime.settings import Settings
from triune.cli.system.doctor import Finding, examine
from triune.local.process import free_port


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name in ("NATS_URL", "REDIS_URL"):
        monkeypatch.delenv(name, raising=False)
    port = free_port()
    runs = tmp_path / "runs"
    return Settings(runs=runs, blobs=(runs / "blobs").as_uri(), api_port=port, api_url=f"http://127.0.0.1:{port}")


def faults(settings: Settings) -> list[Finding]:
    return [one for one in examine(settings) if one.level == "fault"]


def test_a_fresh_machine_has_no_fault_and_is_told_what_to_start(settings: Settings) -> None:
    found = list(examine(settings))
    assert [one for one in found if one.level == "fault"] == []
    assert any(one.about == "api" and "triune up" in one.text for one in found)


def test_a_folder_that_cannot_be_written_names_its_variable(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = faults(dataclasses.replace(settings, runs=tmp_path / "file" / "runs"))
    assert [one.about for one in found] == ["runs"]
    assert "TRIUNE_RUNS" in found[0].text


def test_a_server_that_does_not_answer_is_named(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setenv("NATS_URL", "given")
    found = faults(dataclasses.replace(settings, nats_url=f"nats://127.0.0.1:{port}"))
    assert found == [Finding("servers", "fault", f"NATS_URL: 127.0.0.1:{port} does not answer")]


def test_a_port_in_use_by_something_else_is_named(settings: Settings) -> None:
    with listening() as port:
        found = faults(dataclasses.replace(settings, api_port=port, api_url=f"http://127.0.0.1:{free_port()}"))
    assert [one.about for one in found] == ["port"]
    assert "TRIUNE_API_PORT" in found[0].text


def test_a_data_root_that_is_no_folder_is_named(settings: Settings, tmp_path: Path) -> None:
    found = faults(dataclasses.replace(settings, data_roots=(str(tmp_path / "none"),)))
    assert found == [Finding("data", "fault", f"data root {tmp_path / 'none'} is no folder (TRIUNE_DATA_ROOTS)")]


@contextlib.contextmanager
def listening() -> Iterator[int]:
    """The port of a socket that takes connections and says nothing."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield int(taken.getsockname()[1])
