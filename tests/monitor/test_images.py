"""When a job is over and on file its blobs go, and its newest samples keep their images."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shared.bus.memory.server import MemoryServer
from shared.messages import BlobRef, ImageRef
from tests.fakes import eventually
from tests.monitor import runs
from tests.monitor.actor import drawn_image
from tests.monitor.stage import Stage, running


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with running(Stage(tmp_path, MemoryServer())) as stage:
        yield stage


async def run_to(stage: Stage, state: str) -> tuple[str, BlobRef]:
    """A job with one image that ends in `state`; its id and the image."""
    job = await stage.submit()
    await stage.state(job, "running")
    ref = stage.blobs.of(job).put(drawn_image(1))
    await stage.publish(job, runs.group(0, image=ImageRef(blob=ref, width=280, height=140)))
    await stage.announce(job, runs.step_done(1, [0]))
    if state == "stopped":
        await stage.jobs.move(job, "stopping")
    await stage.jobs.move(job, state)  # type: ignore[arg-type]

    async def is_on_file() -> bool:
        return bool((await stage.show(job))["on_file"])

    await eventually(is_on_file, 60.0)
    return job, ref


@pytest.mark.parametrize("state", ["done", "stopped"])
async def test_the_blobs_of_a_job_that_is_over_go_and_its_samples_keep_their_images(stage: Stage, state: str) -> None:
    job, ref = await run_to(stage, state)

    async def is_gone() -> bool:
        return not stage.blobs.has(ref)

    await eventually(is_gone, 60.0)
    image = await stage.http.get(f"/v1/jobs/{job}/images/{ref.digest}")
    assert (image.status_code, image.content) == (200, drawn_image(1))


async def test_a_failed_job_keeps_its_blobs_since_it_may_be_resumed(stage: Stage) -> None:
    job, ref = await run_to(stage, "failed")
    other, _ = await run_to(stage, "done")

    async def is_freed() -> bool:
        return other in stage.monitor.control._freed

    await eventually(is_freed, 60.0)
    assert stage.blobs.has(ref), "a job that shares it has ended, its own has not"
    assert (await stage.http.delete(f"/v1/jobs/{job}")).status_code == 202

    async def is_gone() -> bool:
        return not stage.blobs.has(ref)

    await eventually(is_gone, 60.0)
