"""The hf engine, as the service runs it, keeps the contract of all engines."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.rollout.engines.batching import BatchingEngine
from services.rollout.engines.hf import HfEngine
from tests.rollout.contract import EngineContract, Plain
from tests.rollout.helpers import LIMITS


@pytest.fixture
def folder(model_folder: Path) -> Path:
    return model_folder


@pytest.fixture
async def engine(folder: Path) -> AsyncIterator[BatchingEngine]:
    opened = BatchingEngine(HfEngine.open(str(folder), dtype="float32", limits=LIMITS), room=256, grace_s=10.0)
    yield opened
    await opened.aclose()


@pytest.fixture
def plain(folder: Path) -> Plain:
    return Plain(folder)


class TestHfEngine(EngineContract):
    """See `tests.rollout.contract`."""
