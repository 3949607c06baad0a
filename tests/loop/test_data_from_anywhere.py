"""Jobs on an object store that goes away, on converted data sets; and a set curated by the services that run."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from services.data.converting.kinds import CONVERTERS, told_kind
from services.data.converting.options import Options
from services.data.converting.writer import write
from shared.samples.files import open_files, read_group
from shared.samples.schema import cast_row
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


def foreign(tmp_path: Path, rows: list[dict[str, Any]]) -> list[str]:
    """The same small pictures as COCO and as a table of questions, converted; and as lines and a tar in the schema."""
    pictures = tmp_path / "coco/val"
    pictures.mkdir(parents=True)
    for number in range(6):
        Image.new("RGB", (84, 84), (40 * number, 90, 90)).save(pictures / f"{number}.png")
    coco = {
        "images": [{"id": n, "file_name": f"{n}.png", "width": 84, "height": 84} for n in range(6)],
        "categories": [{"id": 1, "name": "square"}],
        "annotations": [{"id": n, "image_id": n, "category_id": 1, "bbox": [8, 8, 30, 30]} for n in range(6)],
    }
    (tmp_path / "coco/annotations").mkdir()
    (tmp_path / "coco/annotations/instances_val.json").write_text(json.dumps(coco))
    questions = [{"image": f"coco/val/{n}.png", "question": "How many?", "answer": n} for n in range(6)]
    (tmp_path / "questions.jsonl").write_text("\n".join(map(json.dumps, questions)))
    folders = []
    for number, source in enumerate((tmp_path / "coco/annotations/instances_val.json", tmp_path / "questions.jsonl")):
        drafts = CONVERTERS[told_kind(source)](source, Options(f"foreign-{number}"))
        write(drafts, tmp_path / f"converted/{number}", origin="", name="a", advance=lambda _: None)
        folders.append(str(tmp_path / f"converted/{number}"))
    for name, form in (("lines", as_jsonl), ("tar", as_tar)):
        (tmp_path / name).mkdir()
        folders.append(str(form(tmp_path / name, rows)))
    return folders


async def test_converted_sets_lines_and_tars_train_and_a_set_is_curated(
    tmp_path: Path, model: Path, data: Path
) -> None:
    (file, *_) = open_files([str(data / "train")])
    rows = [cast_row(row) for row in read_group(file, 0)][:6]
    async with running(tmp_path, model, data) as system:
        job = system.submit(
            data={"train": foreign(tmp_path, rows), "held_out": [], "cot_prompts": False}, total_steps=3
        )
        report = await system.finished(job)
        agrees(report, steps=3)
        assert report["groups"] == report["groups"] | {"trained": 3 * B, "void": 0}
        assert set(report["sources"]) == {"foreign-0", "foreign-1", rows[0]["data_source"]}
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
