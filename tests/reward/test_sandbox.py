"""What a verifier, ours or a third party's, can reach from its worker: nothing but its sample."""

import ctypes
import json
import os
import socket
from typing import Any

import pytest

from services.reward.workers.pool import Pool
from services.reward.workers.sandbox import clean_environment
from tests.reward.samples import text

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000


async def confession(pool: Pool, port: int) -> dict[str, Any]:
    """What a verifier found when it tried; its error text carries it out."""
    (reward,) = await pool.score([text("confess", "misbehave", str(port))])
    return dict(json.loads(reward.error[reward.error.index("{") : reward.error.rindex("}") + 1]))


def test_of_the_environment_only_what_a_worker_needs_to_start_is_kept() -> None:
    secrets = {"NATS_URL": "nats://u:p@h", "TRIUNE_API_TOKEN": "t", "AWS_SECRET_ACCESS_KEY": "s", "REDIS_URL": "r"}
    kept = clean_environment({"PATH": "/bin", "LANG": "C.UTF-8", **secrets})
    assert not set(kept) & set(secrets)
    assert (kept["PATH"], kept["LANG"]) == ("/bin", "C.UTF-8")


async def test_a_verifier_finds_no_secret_no_network_and_no_way_out(
    plugin: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIUNE_API_TOKEN", "secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        async with Pool(workers=1) as pool:
            found = await confession(pool, listening.getsockname()[1])
    assert not [name for name in found["environment"] if "TOKEN" in name or "SECRET" in name or "URL" in name]
    assert found["no_new_privs"]
    assert (found["writes"], found["opens"]) == (False, False)
    assert found["forks"] == (os.getuid() == 0), "the kernel holds everybody but root to the limit on processes"
    assert found["connects"] != _has_namespaces()


def _has_namespaces() -> bool:
    """Whether this kernel lets this user leave the network."""
    child = os.fork()
    if not child:
        libc = ctypes.CDLL(None)
        os._exit(0 if any(libc.unshare(flags) == 0 for flags in (_CLONE_NEWUSER | _CLONE_NEWNET, _CLONE_NEWNET)) else 1)
    return os.waitpid(child, 0)[1] == 0
