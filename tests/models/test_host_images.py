"""Prepared images that the processes of a host share."""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from shared.models.family import PreparedImage
from shared.models.hf.host_images import LEAST_BYTES, HostImages, host_images
from shared.models.hf.loading import open_inputs
from shared.models.patch_grid import PatchGrid
from tests.models.tiny import make

MB = 1 << 20


def image(size: int = LEAST_BYTES, value: float = 0.5) -> PreparedImage:
    """`size` bytes held, shown twice; and the arrays of other families: a flag without a shape, whole numbers."""
    held = np.full((size // 16, 2, 1, 2), value, dtype=np.float32)
    arrays: dict[str, NDArray[Any]] = {
        "pixel_values": np.broadcast_to(held, (size // 16, 2, 3, 2)),
        "alone": np.array(True),
        "image_sizes": np.array([[4, 6]]),
    }
    return PreparedImage(arrays, "<x><x>", 2, (1, 4, 6))


def test_another_process_reads_what_one_has_prepared(tmp_path: Path) -> None:
    HostImages(tmp_path, "job-1", MB).put("abc/among", image())
    found = HostImages(tmp_path, "job-1", MB).get("abc/among")
    assert found is not None
    assert (found.text, found.tokens, found.grid, found.nbytes) == ("<x><x>", 2, (1, 4, 6), image().nbytes)
    for name, array in image().arrays.items():
        assert found.arrays[name].dtype == array.dtype and np.array_equal(found.arrays[name], array)


def test_what_is_small_missing_or_torn_is_prepared_again(tmp_path: Path) -> None:
    kept = HostImages(tmp_path, "job-1", MB)
    kept.put("small", image(LEAST_BYTES // 2))
    kept.put("torn", image())
    (path,) = (tmp_path / "job-1").iterdir()
    os.truncate(path, path.stat().st_size // 2)
    assert kept.get("small") is None and kept.get("torn") is None and kept.get("none") is None


def test_the_least_recently_used_go_when_the_bound_is_reached(tmp_path: Path) -> None:
    kept = HostImages(tmp_path, "job-1", 4 * LEAST_BYTES)
    for number in range(12):
        kept.put(str(number), image())
        for age, path in enumerate(sorted((tmp_path / "job-1").iterdir(), key=lambda path: path.stat().st_mtime_ns)):
            os.utime(path, (age, age))  # clocks of file systems are coarse
        assert kept.get("0") is not None  # used all the time
    assert sum(path.stat().st_size for path in (tmp_path / "job-1").iterdir()) <= 4 * LEAST_BYTES
    assert kept.get("11") is not None and kept.get("1") is None


def test_a_folder_that_cannot_be_written_keeps_nothing_and_other_jobs_leave_nothing(tmp_path: Path) -> None:
    (tmp_path / "job-1").write_text("a file")
    kept = HostImages(tmp_path, "job-1", MB)
    kept.put("a", image())
    assert kept.get("a") is None
    (tmp_path / "job-1").unlink()
    kept.put("a", image())
    HostImages(tmp_path, "job-2", MB)
    assert kept.get("a") is None and host_images(tmp_path, "job-2", 0.0) is None


def test_inputs_prepare_an_image_once_for_all_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make("qwen2_5_vl", tmp_path / "model")
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (280, 280, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    first, second = (open_inputs(folder, kept=HostImages(tmp_path / "images", "job-1", 16 * MB)) for _ in range(2))
    made = first.image(buffer.getvalue(), alone=True)
    monkeypatch.delattr(PatchGrid, "prepare")  # it would be an error to prepare it again
    found = second.image(buffer.getvalue(), alone=True)
    assert np.array_equal(found.arrays["patches"], made.arrays["patches"])
    assert second.family.collate([found])["pixel_values"].shape == (400, 1176)  # 20 · 20 patches of 3 · 2 · 14 · 14
