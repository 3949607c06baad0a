"""The system in containers, for real, where a Docker engine is reachable: deaths of every service, reward scaled."""

import json
import logging
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.deploy.compose_files import OURS, ROOT, written_env
from tests.deploy.stack import BUILD_S, Stack, docker, until, why_not

REASON = why_not()
pytestmark = [pytest.mark.timeout(3600), pytest.mark.skipif(bool(REASON), reason=REASON)]

IMAGES = ("triune-core", "triune-torch")
JOB: dict[str, Any] = {
    "name": "containers",
    "model": "/data/quick/model",
    "total_steps": 5000,
    "data": {"train": ["/data/quick/data/train"], "held_out": ["/data/quick/data/test"], "cot_prompts": False},
    "algorithm": {"prompts_per_step": 8, "samples_per_prompt": 4},
    "sampling": {"max_new_tokens": 12},
    "optimizer": {"learning_rate": 1e-4},
    "learner": {"checkpoint_every": 10},
}
log = logging.getLogger("containers")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The system, built and healthy, with data and model of the demo's quick kind."""
    stack = Stack("triune-test", written_env(), tmp_path_factory.mktemp("compose") / "env")
    try:
        stack.compose("build", limit_s=BUILD_S)
        started = time.monotonic()
        stack.up()
        log.info("up and healthy after %.1f s", time.monotonic() - started)
        stack.compose("run", "--rm", "--no-TTY", "demo", "--quick", "/data/quick")
        yield stack
    finally:
        stack.client.close()
        stack.compose("--profile", "*", "down", "--volumes", "--remove-orphans")


def test_images_are_small_and_run_as_a_user_without_rights(stack: Stack) -> None:
    sizes = {image: _size(image) for image in IMAGES}
    base = (ROOT / "deploy/compose/Dockerfile").read_text().split("ARG PYTHON_IMAGE=")[1].split()[0]
    log.info("MB over %s: %s", base, {image: (size - _size(base)) // 10**6 for image, size in sizes.items()})
    assert sizes["triune-core"] - _size(base) < 600 * 10**6
    for container in stack.inspect(stack.ids()):
        assert container["Config"]["User"] == "10001:10001", container["Name"]
        assert container["HostConfig"]["ReadonlyRootfs"]


def test_the_reward_service_alone_answers_judge(stack: Stack) -> None:
    cases = {case["name"]: case for case in _golden("reward_http_cases.json")}
    started = time.monotonic()
    limits = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL")
    serve = ("reward", "serve", "--host", "0.0.0.0")  # within the container: it is published on loopback alone
    container = docker("run", "--detach", *limits, "--publish", "127.0.0.1::8192", "triune-core", *serve)
    try:
        url = "http://" + docker("port", container, "8192").splitlines()[0]
        message = until(lambda: httpx.get(url, timeout=2).json(), "the reward server's greeting")
        log.info("the reward server answers %.1f s after `docker run`", time.monotonic() - started)
        assert message == {"message": "Reward Judge Server"}
        case = cases["ok_math"]
        answer = httpx.post(f"{url}/judge", json=case["body"], timeout=30)
        assert (answer.status_code, answer.json()) == (case["status"], case["response"])
    finally:
        docker("rm", "--force", container)


def test_a_job_outlives_the_death_of_every_service_while_reward_is_scaled(stack: Stack) -> None:
    assert httpx.get(stack.client.base_url.join("/v1/jobs")).status_code == 401
    job = stack.submit(JOB)
    stack.advance(job, 2)
    stack.up("--no-recreate", "--scale", "reward=4")
    until(lambda: stack.replicas("reward") == 4, "four reward replicas")
    for service in ("reward", "rollout", "learner", "data", "monitor", "redis", "nats"):
        started = time.monotonic()
        docker("kill", stack.ids(service)[0])
        stack.up("--no-recreate", "--scale", "reward=4")  # Docker leaves what `docker kill` stopped to the operator
        step = stack.advance(job, 2)
        log.info("%s killed: at step %d again after %.1f s", service, step, time.monotonic() - started)
    for service in OURS:
        started = time.monotonic()
        stack.crash(service)  # and starts again what died by itself
        stack.up("--no-recreate", "--scale", "reward=4")
        step = stack.advance(job, 2)
        log.info("%s crashed: at step %d again after %.1f s", service, step, time.monotonic() - started)
    restarts = stack.restarts()
    log.info("restarts: %s", restarts)
    assert restarts == dict.fromkeys(restarts, 0) | {f"/{stack.name}-{service}-1": 1 for service in OURS}
    _stops_in_order(stack)
    stack.up("--no-recreate", "--scale", "reward=2")  # waits until all are healthy
    until(lambda: stack.replicas("reward") == 2, "two reward replicas")
    step, restarts = stack.advance(job, 2), stack.restarts()
    assert stack.client.patch(f"/v1/jobs/{job}", json={"total_steps": step + 40}).status_code == 200
    details = until(lambda: (shown := stack.show(job))["on_file"] and shown, "the job's end")
    _agrees(details)
    _calm(stack, restarts)


def test_down_leaves_nothing(stack: Stack) -> None:
    assert stack.leftovers()
    started = time.monotonic()
    stack.compose("--profile", "*", "down", "--volumes", "--remove-orphans")
    log.info("down after %.1f s", time.monotonic() - started)
    assert stack.leftovers() == []


def _stops_in_order(stack: Stack) -> None:
    """Every service ends by itself within its grace, in the middle of a job."""
    started = time.monotonic()
    stack.compose("stop", *OURS)
    log.info("all services stopped after %.1f s", time.monotonic() - started)
    ours = [one for one in stack.inspect(stack.ids()) if "triune serve" in " ".join([one["Path"], *one["Args"]])]
    assert {one["Name"]: one["State"]["ExitCode"] for one in ours if one["State"]["ExitCode"]} == {}
    assert len(ours) == 8


def _agrees(details: dict[str, Any]) -> None:
    report = details["report"]
    log.info("%d steps, groups %s, staleness %s", report["steps"], report["groups"], report["staleness"])
    assert details["state"] == "done"
    assert report["groups"]["published"] == report["groups"]["trained"] + report["groups"]["void"]
    assert report["groups"]["trained"] == 8 * report["steps"]
    for name, source in report["sources"].items():
        groups = source["groups"]
        assert groups["published"] == groups["trained"] + groups["void"], name
        assert source["n"] == 4, name


def _calm(stack: Stack, restarts: dict[str, int]) -> None:
    """Nothing was restarted since the last death, and everything runs and is healthy."""
    assert stack.restarts() == restarts
    for container in stack.inspect(stack.ids()):
        name, state = container["Name"], container["State"]
        assert state["Status"] == "running" and state["Health"]["Status"] == "healthy", name
        assert not state["OOMKilled"], name


def _size(image: str) -> int:
    return int(docker("image", "inspect", image, "--format", "{{.Size}}"))


def _golden(name: str) -> list[dict[str, Any]]:
    return list(json.loads((ROOT / "tests" / "golden" / name).read_text()))
