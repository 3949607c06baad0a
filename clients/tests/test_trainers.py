"""Five trainers' own reward clients, as published, against one server: equal rewards, and errors as errors.

Run by `make test-clients`, in an environment that has the trainers and not this project: what is theirs is imported
there, what is ours is the server, a process, and `triune_client`. Each trainer is one function here, which goes the way
from a row to a reward that its own trainer goes.
"""

import asyncio
import contextlib
import json
import math
import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).parents[2]
Rows = Sequence[tuple[str, dict[str, Any]]]
"""Completions, each with what says how to judge it."""

TEXT = "<think>\na\n</think>\n<answer>\n{}\n</answer>"
COUNT = {"verifier": "count", "ground_truth": "3", "format_ratio": 0.5}
MATH = {"verifier": "mathverify", "ground_truth": "\\boxed{\\frac{1}{2}}", "format_ratio": 0.0}
BOX = {"verifier": "iou", "ground_truth": "<answer>\n[0, 0, 10, 10]\n</answer>", "format_ratio": 0.0}
ROWS: Rows = (
    (TEXT.format(3), COUNT),
    (TEXT.format(4), COUNT),
    ("no tags", COUNT),
    (TEXT.format("\\boxed{0.5}"), MATH),
    (TEXT.format("\\boxed{0.6}"), MATH),
    (TEXT.format("[0, 0, 10, 8]"), BOX | {"options": {"iou_threshold": 0.5}}),
)
REWARDS = [1.0, 1 / 3, 0.0, 1.0, 0.0, 0.8]
"""Accuracy 1, 0, 0 at a weight of 1 beside format 1, 1, 0 at a half; then accuracy alone, the last an IoU of 80 %."""
UNSCORABLE: Rows = ((TEXT.format(3), COUNT | {"ground_truth": "many"}),)
REASON = "is no whole number"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@pytest.fixture(scope="session")
def url() -> Iterator[str]:
    """The server, run by the project's own environment."""
    port = _free_port()
    triune = os.environ.get("TRIUNE", str(ROOT / ".venv" / "bin" / "triune"))
    command = [triune, "reward", "serve", "--port", str(port), "--workers", "1"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as server:
        address, until = f"http://127.0.0.1:{port}", time.monotonic() + 120
        try:
            while True:
                with contextlib.suppress(httpx.TransportError):
                    httpx.get(address)
                    break
                assert time.monotonic() < until and server.poll() is None, "the server did not come up"
                threading.Event().wait(0.2)
            yield address
        finally:
            server.terminate()
            server.wait(30)


@pytest.fixture(autouse=True)
def _client(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "clients"))
    monkeypatch.setenv("TRIUNE_REWARD_URL", url)


def openrlhf(url: str, rows: Rows) -> list[float]:
    """Its single-turn agent's call to `--reward.remote_url`."""
    from openrlhf.utils.agent import SingleTurnAgentExecutor

    prompt = "<|im_start|>user\nq<|im_end|>\n"
    executor = SingleTurnAgentExecutor([f"{url}/get_reward"])

    async def run() -> list[float]:
        found = [
            await executor._fetch_rewards_via_http([f"{prompt}{text}<|im_end|>"], [prompt], [json.dumps(truth)])
            for text, truth in rows
        ]
        return [one["rewards"][0] for (one,) in found]

    return asyncio.run(run())


def verl(url: str, rows: Rows) -> list[float]:
    """Its loader of `reward.custom_reward_function`, and its naive reward manager."""
    import numpy as np
    import torch
    from omegaconf import OmegaConf
    from verl import DataProto
    from verl.experimental.reward_loop.reward_manager.naive import NaiveRewardManager
    from verl.trainer.ppo.reward import get_custom_reward_fn

    named = {"path": "pkg://triune_client.verl", "name": "compute_score", "reward_kwargs": {}}
    function = get_custom_reward_fn(OmegaConf.create({"reward": {"custom_reward_function": named}}))

    async def score(text: str, truth: dict[str, Any]) -> float:
        manager = NaiveRewardManager.__new__(NaiveRewardManager)  # its own start wants a tokenizer's folder
        manager.tokenizer = SimpleNamespace(decode=lambda ids, **_: "".join(chr(int(one)) for one in ids))
        manager.loop, manager.compute_score, manager.is_async_reward_score = asyncio.get_running_loop(), function, False
        manager.reward_router_address = manager.reward_model_tokenizer = None
        ids = torch.tensor([[ord(sign) for sign in text]])
        row = {
            "responses": ids,
            "attention_mask": torch.ones_like(ids),
            "data_source": np.array(["x"], dtype=object),
            "reward_model": np.array([{"ground_truth": truth}], dtype=object),
            "extra_info": np.array([{}], dtype=object),
        }
        return float((await manager.run_single(DataProto.from_single_dict(row)))["reward_score"])

    async def run() -> list[float]:
        return list(await asyncio.gather(*(score(text, truth) for text, truth in rows)))

    return asyncio.run(run())


def trl(url: str, rows: Rows) -> list[float]:
    """GRPOTrainer's calculation of rewards; NaN is what it leaves out of a group."""
    import trl.trainer.grpo_trainer as module
    from accelerate import PartialState
    from triune_client.trl import reward
    from trl.trainer.utils import shutdown_event_loop_in_daemon, start_event_loop_in_daemon

    PartialState()
    module.profiling_context = lambda *_, **__: contextlib.nullcontext()
    module.gather = lambda value: value
    thread, loop, ready = start_event_loop_in_daemon(name="rewards")
    ready.wait()
    accelerator = SimpleNamespace(device="cpu", gather=lambda value: value, is_main_process=True)
    trainer = SimpleNamespace(
        accelerator=accelerator, reward_funcs=[reward], reward_processing_classes=[None], reward_func_names=["triune"],
        state=SimpleNamespace(global_step=0), args=SimpleNamespace(report_to=[]), async_loop=loop, environments=None,
        chat_template_kwargs={}, _log_completion_extra=None, _log_metric=None, _metrics=None,
    )  # fmt: skip
    inputs = [{"prompt": "q", "reward_model": truth} for _, truth in rows]
    completions = [[{"role": "assistant", "content": text}] for text, _ in rows]
    try:
        found = module.GRPOTrainer._calculate_rewards(
            trainer, inputs, ["q"] * len(rows), completions, [[1]] * len(rows)
        )
    finally:
        shutdown_event_loop_in_daemon(thread, loop)
    return list(found.flatten().tolist())


def swift(url: str, rows: Rows) -> list[float]:
    """Its calculation of rewards, with the plug-in that `--external_plugins` loads."""
    import torch
    import triune_client.swift  # noqa: F401 — registers the plug-in
    from swift.rewards import orms
    from swift.rl_core.data import OnPolicySample
    from swift.rl_core.grpo_algorithm import compute_rewards_per_func

    def sample(text: str, truth: dict[str, Any]) -> OnPolicySample:
        turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": text}]
        return OnPolicySample.from_row({"messages": turns, "reward_model": truth})

    samples = [sample(text, truth) for text, truth in rows]
    found = compute_rewards_per_func(samples, [orms["triune"]()], [None], torch.device("cpu"))
    return list(found.flatten().tolist())


def areal(url: str, rows: Rows) -> list[float]:
    """Its wrapper, which runs reward functions in processes."""
    from areal.api.reward_api import AsyncRewardWrapper
    from triune_client.areal import reward

    AsyncRewardWrapper._atexit_shutdown_all()  # processes that know an earlier address
    wrapper = AsyncRewardWrapper(reward, max_workers=1, max_retries=0)

    async def run() -> list[float]:
        return [float(await wrapper("q", text, [1], [1], reward_model=truth)) for text, truth in rows]

    return asyncio.run(run())


@dataclass(frozen=True)
class Trainer:
    """A trainer's way from rows to rewards, and what it raises; `no_reward` None: a NaN, which it leaves out."""

    rewards: Callable[[str, Rows], list[float]]
    no_reward: tuple[str, str] | None
    no_server: tuple[str, str]


_HTTP = ("RuntimeError", "Request error for 5 times")  # its agent then has no reward, which its trainer refuses
_UNSCORABLE, _UNREACHABLE = ("Unscorable", REASON), ("Unreachable", "does not answer")
TRAINERS = {
    "openrlhf": Trainer(openrlhf, _HTTP, _HTTP),
    "verl": Trainer(verl, _UNSCORABLE, _UNREACHABLE),
    "trl": Trainer(trl, None, _UNREACHABLE),
    "ms-swift": Trainer(swift, _UNSCORABLE, _UNREACHABLE),
    "areal": Trainer(areal, _UNSCORABLE, _UNREACHABLE),
}


def test_the_server_itself_gives_these_rewards(url: str) -> None:
    body = {"samples": [{"completion": text, **truth} for text, truth in ROWS]}
    results = httpx.post(f"{url}/v1/score", json=body).json()["results"]
    assert [result["final"] for result in results] == pytest.approx(REWARDS)


@pytest.mark.parametrize("name", TRAINERS)
def test_its_own_client_gets_the_rewards_of_the_server(url: str, name: str) -> None:
    assert TRAINERS[name].rewards(url, ROWS) == pytest.approx(REWARDS)


@pytest.mark.parametrize("name", TRAINERS)
def test_a_sample_that_cannot_be_scored_is_an_error_of_its_kind(url: str, name: str) -> None:
    trainer = TRAINERS[name]
    if trainer.no_reward is None:
        assert all(map(math.isnan, trainer.rewards(url, UNSCORABLE)))
    else:
        _raises(trainer.no_reward, lambda: trainer.rewards(url, UNSCORABLE))


@pytest.mark.parametrize("name", TRAINERS)
def test_no_server_is_another_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from triune_client import Client, client

    nobody = f"http://127.0.0.1:{_free_port()}"
    monkeypatch.setenv("TRIUNE_REWARD_URL", nobody)
    impatient = lru_cache(lambda urls, token=None: Client(urls, token=token, patience_s=0.5))
    monkeypatch.setattr(client, "client_of", impatient)  # three minutes else
    _raises(TRAINERS[name].no_server, lambda: TRAINERS[name].rewards(nobody, ROWS))


def _raises(kind: tuple[str, str], work: Callable[[], object]) -> None:
    name, text = kind
    with pytest.raises(Exception) as caught:
        work()
    assert type(caught.value).__name__ == name and re.search(text, str(caught.value)), caught.value
