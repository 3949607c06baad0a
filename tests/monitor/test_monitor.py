"""The whole monitor over the in-memory bus: REST in, run folder out."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pyarrow.parquet as pq
import pytest
import structlog
from fastapi import APIRouter

from services.monitor.api.app import AWAY_S, PATIENCE_S, create_app
from services.monitor.api.jobs import SEEN_S
from shared.bus.memory.server import MemoryServer
from shared.errors import Unavailable, UserError
from shared.ledger.port import Window
from shared.messages import DeadLetter, EndOfOrder, Heartbeat
from shared.runtime.retry import time_left
from shared.runtime.settings import Settings
from tests.fakes import eventually
from tests.monitor import runs
from tests.monitor.actor import Actor
from tests.monitor.stage import CONFIG, Stage, running
from tests.weather import under

weather = under("stored twice", "empty answers")


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with running(Stage(tmp_path, MemoryServer())) as stage:
        yield stage


async def test_a_job_goes_from_submission_to_its_report(stage: Stage) -> None:
    job = await stage.submit(name="demo")
    await stage.state(job, "running")
    assert (stage.folder / "runs" / job / "job.toml").exists()
    await stage.publish(job, *(runs.group(n, (0.0,), kind="eval", version=0) for n in range(2)))
    await stage.announce(job, runs.eval_done(0, 2))
    await stage.publish(job, runs.group(0), runs.group(1), runs.void(2))
    await stage.jobs.set_ordinal(job, 3)
    await stage.announce(job, EndOfOrder(job=job, kind="train", total=3))
    await stage.announce(job, runs.step_done(1, [0, 1], [2]))
    await stage.publish(job, *(runs.group(n, (1.0,), kind="eval", version=1) for n in range(2)))
    await stage.announce(job, runs.eval_done(1, 2))
    await stage.jobs.move(job, "done")
    report = await stage.report(job, "done")
    groups = {"published": 3, "trained": 2, "void": 1, "duplicates": 0}
    assert report["groups"] == groups
    source = report["sources"]["sums"]  # type: ignore[index]
    assert (source["before"], source["after"], source["n"]) == (0.0, 1.0, 2)
    assert (source["groups"], source["void_reasons"]) == (groups, {"bad-sample": 1})
    assert report["staleness"] == {"max": 0, "mean": 0.0, "bound": 0}
    assert report["timing"]["learner_step_s"] == 1.0  # type: ignore[index]
    folder = stage.folder / "runs" / job

    async def is_on_file() -> bool:
        return (folder / "curves.png").exists() and (folder / "samples" / "eval-000001.parquet").exists()

    await eventually(is_on_file)
    points = pq.read_table(folder / "metrics.parquet").to_pylist()
    assert {p["value"] for p in points if p["name"] == "reward" and p["source"] == "sums"} == {0.5}


async def test_one_job_runs_and_the_others_wait_in_order(stage: Stage) -> None:
    first = await stage.submit()
    second, third = await stage.submit(), await stage.submit()
    await stage.state(first, "running")
    assert [(await stage.show(job))["state"] for job in (second, third)] == ["queued", "queued"]
    assert (await stage.http.post(f"/v1/jobs/{second}/stop")).json()["state"] == "stopped"
    await stage.jobs.move(first, "done")
    await stage.state(third, "running")
    active = await stage.jobs.active()
    assert active is not None and active.id == third


async def test_legal_moves_are_made_and_others_refused(stage: Stage) -> None:
    job = await stage.submit()
    await stage.state(job, "running")
    for verb, state in (("pause", "paused"), ("resume", "running"), ("stop", "stopping")):
        answer = await stage.http.post(f"/v1/jobs/{job}/{verb}")
        assert (answer.status_code, answer.json()["state"]) == (200, state)
    for verb in ("pause", "resume", "checkpoint"):
        answer = await stage.http.post(f"/v1/jobs/{job}/{verb}")
        assert answer.status_code == 409
        assert job in answer.json()["error"]
    await stage.jobs.move(job, "failed", "the disk is full")
    answer = await stage.http.post(f"/v1/jobs/{job}/resume")
    assert answer.json()["state"] == "queued"
    await stage.state(job, "stopping")  # it failed while it was being stopped


async def test_a_change_is_refused_with_what_the_job_is_now(stage: Stage) -> None:
    job = await stage.submit()
    await stage.state(job, "running")
    await stage.jobs.update(job, lambda record: msgspec.structs.replace(record, ending=True, seal_wanted=True))
    for state in ("running", "done"):
        if state == "done":
            await stage.jobs.move(job, "done")
        answer = await stage.http.patch(f"/v1/jobs/{job}", json={"max_staleness": 2})
        now = "is making its last evaluation and checkpoint" if state == "running" else "is done"
        assert (answer.status_code, answer.json()["error"]) == (409, f"job {job} {now}; it can no longer be changed")


async def test_an_unknown_job_is_404_everywhere(stage: Stage) -> None:
    for method, path in (
        ("GET", ""),
        ("PATCH", ""),
        ("POST", "/stop"),
        ("GET", "/metrics"),
        ("GET", "/samples"),
        ("GET", "/events"),
    ):
        body = {"content": "{}"} if method == "PATCH" else {}
        answer = await stage.http.request(method, f"/v1/jobs/nope{path}", **body)  # type: ignore[arg-type]
        assert answer.status_code == 404
        assert "nope" in answer.json()["error"]


async def test_a_submission_lists_every_mistake_at_once(stage: Stage) -> None:
    answer = await stage.http.post("/v1/jobs", json=stage.job(totl_steps=1, total_steps=0))
    assert answer.status_code == 422
    assert len(answer.json()["mistakes"]) == 2
    data = {"train": ["/nowhere/a.parquet"], "held_out": [str(stage.folder / "model" / "config.json")]}
    answer = await stage.http.post("/v1/jobs", json=stage.job(model="/nowhere/model", data=data))
    assert answer.status_code == 422
    assert len(answer.json()["mistakes"]) == 3
    answer = await stage.http.post("/v1/jobs", content=b"total_steps = [", headers={"content-type": "application/toml"})
    assert answer.status_code == 422
    assert (await stage.http.get("/v1/jobs")).json() == {"jobs": [], "next": None, "waiting_for": ""}


async def test_toml_and_json_make_the_same_job(stage: Stage) -> None:
    toml = f'model = "{stage.folder}/model"\ntotal_steps = 3\n[data]\ntrain = ["{stage.folder}/train.parquet"]\n'
    one = await stage.http.post("/v1/jobs:validate", content=toml, headers={"content-type": "application/toml"})
    other = await stage.http.post("/v1/jobs:validate", json=stage.job())
    assert one.status_code == other.status_code == 200
    assert one.json() == other.json()
    assert one.json()["derived"]["total_groups"] == 96
    form = {"content-type": "application/x-www-form-urlencoded"}  # as curl says of whatever it sends
    untyped = await stage.http.post("/v1/jobs:validate", content=" " + json.dumps(stage.job()), headers=form)
    assert (untyped.status_code, untyped.json()) == (200, one.json())


async def test_a_change_in_a_body_without_a_type_is_read_and_a_broken_one_is_no_job_file(stage: Stage) -> None:
    job = await stage.submit()
    changed = await stage.http.patch(f"/v1/jobs/{job}", content='{"max_staleness": 2}')
    assert (changed.status_code, changed.json()["max_staleness"]) == (200, 2)
    refused = await stage.http.patch(f"/v1/jobs/{job}", content="max_staleness")
    assert (refused.status_code, refused.json()["error"].split(":")[0]) == (422, "the body is not TOML")


async def test_a_change_is_recorded_and_a_bad_one_refused(stage: Stage) -> None:
    job = await stage.submit()
    changed = await stage.http.patch(f"/v1/jobs/{job}", json={"max_staleness": 2, "sources.sums.weight": 0.5})
    assert changed.status_code == 200, changed.text
    assert [(c["key"], c["value"], c["since"]) for c in changed.json()["changes"]] == [
        ("max_staleness", 2.0, None),
        ("sources.sums.weight", 0.5, None),
    ]
    assert changed.json()["max_staleness"] == 2
    nested = await stage.http.patch(f"/v1/jobs/{job}", json={"sources": {"sums": {"weight": 2}}})
    assert nested.json()["changes"][-1]["key"] == "sources.sums.weight"
    bad = {"max_stalenes": 1, "total_steps": 0, "sources.sums.weight": -1, "seed": 3}
    refused = await stage.http.patch(f"/v1/jobs/{job}", json=bad)
    assert (refused.status_code, len(refused.json()["mistakes"])) == (422, 4)


async def test_changes_that_cannot_hold_are_refused(stage: Stage) -> None:
    job = await stage.submit(total_steps=50)
    await stage.state(job, "running")
    await stage.announce(job, runs.step_done(43, [0]))
    for change, sentence in (
        ({"total_steps": 3}, "the job has made 43 steps"),
        ({"sources.sums.weight": 0}, "every weight is 0"),
    ):
        refused = await stage.http.patch(f"/v1/jobs/{job}", json=change)
        assert refused.status_code == 422
        assert sentence in refused.json()["error"]
    assert (await stage.show(job))["changes"] == []


async def test_an_abandoned_job_is_stopped_and_nothing_of_it_is_left_on_the_bus(stage: Stage) -> None:
    job, waiting = await stage.submit(), await stage.submit()
    await stage.state(job, "running")
    await Actor(stage, job).step()
    answer = await stage.http.delete(f"/v1/jobs/{job}")
    assert (answer.status_code, answer.json()["state"]) == (202, "stopping")
    await stage.jobs.move(job, "stopped")

    async def is_unknown() -> bool:
        return (await stage.http.get(f"/v1/jobs/{job}")).status_code == 404

    await eventually(is_unknown)
    server = stage.bus.server
    assert not [key for key in server.records if job in key and key != f"job.{job}"]
    assert not [one for stream in server.streams.values() for one in stream.entries.values() if job in one.subject]
    assert (stage.folder / "runs" / job / "report.json").exists()
    again = await stage.http.post(f"/v1/jobs/{job}/import")
    assert (again.status_code, "was deleted, and ids are never reused" in again.text) == (409, True)
    await stage.state(waiting, "running")
    assert (await stage.http.delete(f"/v1/jobs/{waiting}", params={"files": True})).status_code == 202
    await stage.jobs.move(waiting, "stopped")

    async def is_gone() -> bool:
        return not (stage.folder / "runs" / waiting).exists() and await stage.jobs.get(waiting) is None

    await eventually(is_gone)


async def test_metrics_and_samples_are_found_by_what_is_wanted(stage: Stage) -> None:
    job = await stage.submit()
    await stage.state(job, "running")
    await stage.publish(job, runs.group(0, (1.0, 1.0)), runs.group(1, (0.0, None), source="shapes"))
    await stage.announce(job, runs.step_done(1, [0, 1]))
    await stage.publish(job, runs.group(2))

    async def has_sample() -> bool:
        samples = (await stage.http.get(f"/v1/jobs/{job}/samples")).json()["samples"]
        return len(samples) == 3 and (await stage.show(job))["step"] == 1

    await eventually(has_sample)
    answer = (await stage.http.get(f"/v1/jobs/{job}/metrics", params={"name": "reward", "source": "sums"})).json()
    assert [(s["name"], s["source"], s["points"]) for s in answer["series"]] == [
        ("reward", "sums", [{"step": 1, "time": 100.0, "value": 1.0}])
    ]

    async def ordinals(**query: object) -> list[int]:
        found = await stage.http.get(f"/v1/jobs/{job}/samples", params=query)  # type: ignore[arg-type]
        return [sample["ordinal"] for sample in found.json()["samples"]]

    assert await ordinals() == [2, 1, 0]
    assert await ordinals(source="sums", limit=1) == [2]
    assert await ordinals(step=1) == [1, 0]
    assert await ordinals(errors=True) == [1]
    assert await ordinals(min_reward=0.9) == [0]
    (sample,) = (await stage.http.get(f"/v1/jobs/{job}/samples", params={"ordinal": 0})).json()["samples"]
    assert [c["text"] for c in sample["completions"]] == ["4", "4"]
    assert "token_ids" not in sample["completions"][0]


async def test_services_show_replicas_queues_and_the_window(stage: Stage) -> None:
    job = await stage.submit()
    await stage.state(job, "running")
    await stage.ledger.write_window(job, Window(version=3, cursor=96, end=128, max_staleness=0))

    async def is_heard() -> bool:
        await stage.bus.beat(Heartbeat(service="reward", replica="r1", pid=7, state="scoring", in_flight=2))
        return bool((await stage.http.get("/v1/services")).json()["replicas"])

    await eventually(is_heard)
    shown = (await stage.http.get("/v1/services")).json()
    assert shown["active_job"] == job
    assert (shown["replicas"][0]["replica"], shown["replicas"][0]["alive"]) == ("r1", True)
    assert shown["ledger"]["window_end"] == 128
    assert {queue["stream"] for queue in shown["queues"]} == {"prompts", "completions"}


async def test_what_the_monitor_itself_waits_for_is_shown_with_its_services(stage: Stage) -> None:
    assert (await stage.http.get("/v1/services")).json()["waiting_for"] == ""
    stage.retry.lost("NATS at nats://127.0.0.1:4222")
    assert (await stage.http.get("/v1/services")).json()["waiting_for"] == "NATS at nats://127.0.0.1:4222"


async def test_where_others_reach_the_api_a_job_reads_from_named_folders_alone(tmp_path: Path) -> None:
    public = {"token": "secret", "api_host": "0.0.0.0"}
    own = {"authorization": "Bearer secret"}
    async with running(Stage(tmp_path, MemoryServer(), **public)) as stage:
        refused = await stage.http.post("/v1/jobs", json=stage.job(), headers=own)
        assert (refused.status_code, "TRIUNE_DATA_ROOTS is not set" in refused.json()["error"]) == (422, True)
    async with running(Stage(tmp_path, MemoryServer(), data_roots=(str(tmp_path),), **public)) as stage:
        assert (await stage.http.post("/v1/jobs", json=stage.job(), headers=own)).status_code == 201


async def test_with_a_token_only_who_knows_it_is_answered(tmp_path: Path) -> None:
    async with running(Stage(tmp_path, MemoryServer(), token="secret")) as stage:
        assert (await stage.http.get("/v1/jobs")).status_code == 401
        assert (await stage.http.get("/metrics")).status_code == 401
        wrong = await stage.http.get("/v1/jobs", headers={"authorization": "Bearer secre"})
        assert wrong.status_code == 401
        right = await stage.http.get("/v1/jobs", headers={"authorization": "Bearer secret"})
        assert right.status_code == 200
        assert (await stage.http.get("/healthz")).status_code == 200


def test_bound_to_more_than_loopback_it_wants_a_token() -> None:
    def bound(host: str, token: str | None = None) -> object:
        settings = Settings(api_host=host, api_token=token)
        return create_app(settings, CONFIG, [], lambda: True, lambda: False)

    for host in ("0.0.0.0", "192.168.1.2", "monitor", "::"):
        with pytest.raises(UserError, match="TRIUNE_API_TOKEN"):
            bound(host)
        assert bound(host, "secret")
    for host in ("127.0.0.1", "::1", "localhost"):
        assert bound(host)


async def test_a_question_waits_shortly_for_a_peer_that_is_known_to_be_away_and_a_command_does_not_give_up() -> None:
    router = APIRouter()
    router.add_api_route("/left", time_left, methods=["GET", "POST"])

    async def left(method: str, *, is_away: bool) -> float:
        app = create_app(Settings(), CONFIG, [router], lambda: True, lambda: is_away)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as http:
            return float((await http.request(method, "/left")).json())

    assert 0 <= await left("GET", is_away=True) <= AWAY_S < await left("GET", is_away=False)
    assert AWAY_S < await left("POST", is_away=True) <= PATIENCE_S


async def test_a_fault_of_ours_is_answered_as_every_error_is_and_logged() -> None:
    async def broken() -> None:
        raise ZeroDivisionError("by nothing")

    router = APIRouter()
    router.add_api_route("/broken", broken)
    app = create_app(Settings(), CONFIG, [router], lambda: True, lambda: False)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    client = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1")
    with structlog.testing.capture_logs() as logged:
        async with client as http:
            answer = await http.get("/broken")
    assert (answer.status_code, answer.json()["mistakes"]) == (500, [])
    assert answer.json()["error"].startswith("GET /broken met a fault of ours, ZeroDivisionError")
    (line,) = logged
    assert (line["request"], line["log_level"], str(line["exc_info"])) == ("GET /broken", "error", "by nothing")


async def test_what_was_seen_before_is_shown_soon_by_a_bus_that_keeps_silent(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await stage.submit()
    await stage.state(job, "running")
    limits: list[float] = []

    async def is_seen() -> bool:
        record = stage.monitor.control.records.get(job)
        return record is not None and record.state == "running"

    async def silence(*_: object) -> None:
        if (left := time_left()) is not None:
            limits.append(left)
        raise Unavailable("no answer")

    await eventually(is_seen)
    for question in ("get", "list", "ordinal"):
        monkeypatch.setattr(stage.monitor.desk.jobs, question, silence)
    shown = await stage.http.get(f"/v1/jobs/{job}")
    listed = await stage.http.get("/v1/jobs")
    assert shown.json()["state"] == "running"
    assert [one["job_id"] for one in listed.json()["jobs"]] == [job]
    assert len(limits) == 3
    assert max(limits) <= SEEN_S
    assert (await stage.http.get("/v1/jobs/unheard-of")).status_code == 404
    assert SEEN_S < limits[-1] <= PATIENCE_S, "of what was never seen"


async def test_a_foreign_page_is_refused_and_a_large_body_too(stage: Stage) -> None:
    foreign = await stage.http.post("/v1/jobs", json=stage.job(), headers={"origin": "http://evil.example"})
    assert foreign.status_code == 403
    rebound = await stage.http.get("/v1/jobs", headers={"host": "evil.example:8000"})
    assert rebound.status_code == 403
    no_address = await stage.http.get("/v1/jobs", headers={"host": "[::1"})
    assert no_address.status_code == 403
    large = await stage.http.post("/v1/jobs", content=b"#" * (CONFIG.body_bytes + 1))
    assert large.status_code == 413
    assert "bytes" in large.json()["error"]

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"#" * (CONFIG.body_bytes // 2)

    unannounced = await stage.http.post("/v1/jobs", content=pieces())
    assert (unannounced.status_code, "bytes" in unannounced.json()["error"]) == (413, True)


async def test_the_stream_tells_steps_and_ends_with_the_job(stage: Stage) -> None:
    job = await stage.submit()
    await stage.state(job, "running")

    async def act() -> None:
        async def is_listening() -> bool:
            return bool(stage.monitor.desk.live.listeners(job))

        await eventually(is_listening)
        await stage.publish(job, runs.group(0))
        await stage.announce(job, runs.step_done(1, [0]))

        async def has_step() -> bool:
            return (await stage.show(job))["step"] == 1

        await eventually(has_step)
        await stage.jobs.move(job, "done")

    acting = asyncio.ensure_future(act())
    text = (await stage.http.get(f"/v1/jobs/{job}/events")).text  # returns when the stream has ended
    await acting
    assert "event: step\n" in text and "id: 1\n" in text
    assert text.index('"running"') < text.index("event: step") < text.index('"done"')


async def test_a_monitor_that_is_killed_goes_on_without_hole_or_double_count(tmp_path: Path) -> None:
    server = MemoryServer()
    async with running(Stage(tmp_path, server)) as stage:
        job = await stage.submit()
        await stage.state(job, "running")
        await stage.publish(job, runs.group(0), runs.group(1))
        await stage.announce(job, runs.step_done(1, [0, 1]))
        await stage.publish(job, runs.group(2))

        async def has_read() -> bool:
            return (await stage.show(job))["report"]["groups"]["published"] == 3  # type: ignore[index]

        await eventually(has_read)
    server.floors.clear()  # as if it had been killed between its commit and its acks
    async with running(Stage(tmp_path, server)) as stage:
        await stage.publish(job, runs.group(3))
        await stage.announce(job, runs.step_done(2, [2, 3]))
        await stage.jobs.move(job, "done")
        report = await stage.report(job, "done")
        assert report["groups"] == {"published": 4, "trained": 4, "void": 0, "duplicates": 0}
        answer = (await stage.http.get(f"/v1/jobs/{job}/metrics", params={"name": "groups", "source": ""})).json()
        (overall,) = [series for series in answer["series"] if series["task"] == ""]
        assert [(p["step"], p["value"]) for p in overall["points"]] == [(1, 2.0), (2, 2.0)]


async def test_a_damaged_store_is_told_and_harms_no_other_job(stage: Stage) -> None:
    job = await stage.submit()
    await stage.state(job, "running")
    await stage.publish(job, runs.group(0))
    await stage.announce(job, runs.step_done(1, [0]))
    await stage.jobs.move(job, "done")
    await stage.report(job, "done")
    folder = stage.folder / "runs" / job
    (folder / "samples" / "train-000001.parquet").write_bytes(b"torn")
    answer = await stage.http.get(f"/v1/jobs/{job}/samples")
    assert (answer.status_code, "run folder" in answer.json()["error"]) == (503, True)
    broken = await stage.submit()
    (stage.folder / "runs" / broken / "monitor.sqlite").write_bytes(b"not a database" * 1000)

    async def is_told() -> bool:
        return "damaged" in stage.monitor.control.errors.get(broken, "")

    await eventually(is_told)
    assert "damaged" in str((await stage.show(broken))["reading_error"])
    assert len((await stage.http.get("/v1/jobs")).json()["jobs"]) == 2
    assert (await stage.http.get(f"/v1/jobs/{broken}/metrics")).status_code == 503
    assert (await stage.http.get("/v1/services")).status_code == 200
    assert (await stage.http.get(f"/v1/jobs/{job}")).status_code == 200


async def test_the_documents_page_and_all_that_it_loads_come_from_here(stage: Stage) -> None:
    page = await stage.http.get("/docs")
    assert page.status_code == 200
    loaded = re.findall(r"(?:src|href)=\"([^\"]+)\"", page.text)
    assert loaded and all(url.startswith("/") for url in loaded)
    for url in [*loaded, "/openapi.json"]:
        answer = await stage.http.get(url)
        assert answer.status_code == 200, url


async def test_void_groups_are_counted_filtered_and_paged(stage: Stage) -> None:
    job = await stage.submit()
    await stage.state(job, "running")
    actor = Actor(stage, job)
    for _ in range(3):  # each step voids one group
        await actor.step()

    async def are_known() -> bool:
        return len((await stage.http.get(f"/v1/jobs/{job}/voids")).json()["voids"]) == 3

    await eventually(are_known)
    first = (await stage.http.get(f"/v1/jobs/{job}/voids", params={"limit": 2})).json()
    assert [void["ordinal"] for void in first["voids"]] == [23, 15]
    assert sum(sum(reasons.values()) for reasons in first["counts"].values()) == 3
    rest = (await stage.http.get(f"/v1/jobs/{job}/voids", params={"limit": 2, "before": first["next"]})).json()
    assert ([void["ordinal"] for void in rest["voids"]], rest["next"]) == ([7], None)
    none = (await stage.http.get(f"/v1/jobs/{job}/voids", params={"reason": "stopped"})).json()
    assert none["voids"] == []


async def test_void_held_out_samples_are_counted_apart_and_by_source(stage: Stage) -> None:
    job = await stage.submit()
    await stage.state(job, "running")
    for version in (0, 3):
        first = runs.group(0, (1.0,), kind="eval", version=version)
        others = [runs.void(ordinal, kind="eval", version=version) for ordinal in range(1, 3 + version)]
        await stage.publish(job, first, *others)
        await stage.announce(job, runs.eval_done(version, 3 + version, 2 + version))

    async def are_told() -> bool:
        return len((await stage.show(job))["report"]["evaluations"]) == 2  # type: ignore[index]

    await eventually(are_told)
    report: dict[str, Any] = (await stage.show(job))["report"]  # type: ignore[assignment]
    assert [done["void"] for done in report["evaluations"]] == [2, 5]
    source = report["sources"]["sums"]
    assert (source["n"], source["held_out_void"], source["groups"]["void"]) == (1, 5, 0)  # of the last evaluation
    voids = (await stage.http.get(f"/v1/jobs/{job}/voids")).json()
    assert (voids["counts"], voids["held_out_counts"]) == ({}, {"sums": {"bad-sample": 7}})


async def test_a_series_that_cannot_exist_is_refused_with_the_nearest_name(stage: Stage) -> None:
    job = await stage.submit()
    refused = await stage.http.get(f"/v1/jobs/{job}/metrics", params={"name": "rewrd"})
    assert refused.status_code == 422
    assert refused.json()["error"] == "name: there is no series 'rewrd'; the nearest one is 'reward'"
    assert (await stage.http.get(f"/v1/jobs/{job}/metrics", params={"name": "part/*"})).status_code == 200


async def test_one_evaluation_says_nothing_of_what_comes_after(stage: Stage) -> None:
    job = await stage.submit()
    await stage.state(job, "running")
    actor = Actor(stage, job)
    await actor.evaluate(0)

    async def sources() -> dict[str, Any]:
        return (await stage.show(job))["report"]["sources"]  # type: ignore[index, no-any-return]

    async def is_evaluated() -> bool:
        return any(one["before"] is not None for one in (await sources()).values())

    await eventually(is_evaluated)
    assert {one["after"] for one in (await sources()).values()} == {None}


async def test_dead_letters_are_shown(stage: Stage) -> None:
    job = await stage.submit()
    letter = DeadLetter(
        job=job, subject=f"prompts.{job}.train", ordinal=3, deliveries=6, reason="it died 6 times", service="rollout"
    )
    await stage.bus.publish("dead", job, "train", letter, f"{job}/train/-/3/0")
    (shown,) = (await stage.http.get(f"/v1/jobs/{job}/dead-letters")).json()["letters"]
    assert (shown["ordinal"], shown["reason"], shown["service"]) == (3, "it died 6 times", "rollout")
    assert (await stage.http.get("/v1/jobs/nobody/dead-letters")).status_code == 404
