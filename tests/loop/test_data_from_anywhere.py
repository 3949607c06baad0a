"""Jobs on an object store that goes away, on converted data sets; and a set curated by the services that run."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from services.data.checking.rows import check_file
from services.data.converting.kinds import CONVERTERS, told_kind
from services.data.converting.options import Options
from services.data.converting.writer import write
from shared.samples.files import open_files, read_group
from shared.samples.schema import cast_row
from tests.data.foreign import FORMS, ROWS
from tests.loop.system import B, agrees, running
from tests.object_store import serving, upload
from tests.shared.test_formats import as_jsonl, as_tar

pytestmark = [pytest.mark.loop, pytest.mark.timeout(600)]
AWAY_S = 20.0


async def test_an_object_store_that_is_away_for_twenty_seconds_voids_nothing(
    tmp_path: Path, model: Path, data: Path
) -> None:
    async with running(tmp_path, model, data) as system:
        with serving() as server:
            uri = upload(server, data) % "train"
            job = system.submit(data={"train": [uri], "held_out": [], "cot_prompts": False}, total_steps=12)
            await system.until(job, lambda details: details["step"] >= 1)
            place = server.get_host_and_port()
        system.kill("data")  # begins anew, with nothing read
        await asyncio.sleep(AWAY_S)
        with serving(*place):
            report = await system.finished(job)
    agrees(report, steps=12)
    assert report["state"] == "done" and report["groups"]["void"] == 0


def converted(folder: Path) -> list[str]:
    """Every form of foreign data as `data convert` writes it, which `data check` finds no fault in."""
    outputs = []
    for name, form in FORMS.items():
        source = form(folder / "foreign" / name)
        drafts = CONVERTERS[told_kind(source)](source, Options(name))
        done = write(drafts, folder / "converted" / name, origin="", name="a", advance=lambda _: None)
        assert (done.rows, done.left_out.told()) == (ROWS, {})
        outputs.append(str(folder / "converted" / name))
    assert not [problem for file in open_files(outputs) for problem in check_file(file)]
    return outputs


def in_the_schema(folder: Path, rows: list[dict[str, Any]]) -> list[str]:
    """`rows` as lines with images beside them, and as a tar."""
    for name in ("lines", "tar"):
        (folder / name).mkdir()
    return [str(as_jsonl(folder / "lines", rows)), str(as_tar(folder / "tar", rows))]


async def test_what_every_converter_writes_trains_and_lines_and_tars_do_and_a_set_is_curated(
    tmp_path: Path, model: Path, data: Path
) -> None:
    (file, *_) = open_files([str(data / "train")])
    rows = [cast_row(row) for row in read_group(file, 0)][:3]
    train = converted(tmp_path) + in_the_schema(tmp_path, rows)
    assert len(FORMS) * ROWS + 2 * len(rows) == 3 * B  # an epoch has three steps
    async with running(tmp_path, model, data) as system:
        job = system.submit(data={"train": train, "held_out": [], "cot_prompts": False, "epochs": 1}, total_steps=3)
        report = await system.finished(job)
        agrees(report, steps=3)
        assert report["groups"]["void"] == 0
        trained = {name: source["groups"]["trained"] for name, source in report["sources"].items()}
        assert trained == dict.fromkeys(FORMS, ROWS) | {rows[0]["data_source"]: 2 * len(rows)}
        told = await curated(system.deployment, model, str(file.place), tmp_path / "curated", "--tries", "4")
        again = await curated(
            system.deployment, model, str(file.place), tmp_path / "curated", "--tries", "4", "--most-pass", "1"
        )
    assert told["tried"] == file.rows - sum(count for reason, count in told["left_out"].items() if "too" not in reason)
    assert again["kept"] >= told["kept"] and again["tried"] == told["tried"]
    assert len(system_jobs(tmp_path)) == 2  # the second time nothing was generated


def system_jobs(tmp_path: Path) -> list[str]:
    return [path.name for path in (tmp_path / "runs").iterdir() if not path.name.startswith(".")]


async def curated(deployment: Any, model: Path, data: str, out: Path, *options: str) -> dict[str, Any]:
    """What `triune data curate` prints."""
    token = deployment.headers.get("authorization", "").removeprefix("Bearer ")
    env = os.environ | {
        "TRIUNE_API_URL": deployment.api_url,
        "TRIUNE_API_TOKEN": token,
        "TRIUNE_RUNS": str(deployment.runs),
    }
    command = ["-m", "triune", "data", "curate", data, "--out", str(out), "--model", str(model), "--no-rules", "--json"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, "--max-new-tokens", "12", *options, env=env, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(240):
        printed, _ = await process.communicate()
    assert process.returncode == 0
    return dict(json.loads(printed))
