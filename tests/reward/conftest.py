"""A third party's verifier, and pools of one and two workers for whole modules."""

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from services.reward.workers.pool import Pool

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An installed package, as a worker sees it, that adds the verifier `misbehave` by its entry point."""
    folder = tmp_path_factory.mktemp("plugin")
    meta = folder / "thirdparty-1.0.dist-info"
    meta.mkdir()
    (meta / "METADATA").write_text("Metadata-Version: 2.1\nName: thirdparty\nVersion: 1.0\n")
    (meta / "entry_points.txt").write_text("[triune.verifiers]\nmisbehave = tests.reward.samples:misbehave\n")
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join((str(folder), str(ROOT)))
    yield
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def pool(plugin: None) -> AsyncIterator[Pool]:
    async with Pool(workers=2, memory_bytes=2 * 1024**3) as made:
        yield made
