"""A model that is loaded while another load goes on in the process, as when a job ends before its model is there."""

from pathlib import Path
from threading import Thread

import torch

from shared.models.hf.loading import open_model
from triune.demo.tiny_vlm import make_tiny_vlm


def test_loads_that_overlap_do_not_harm_each_other_nor_a_later_one(tmp_path: Path) -> None:
    folder = make_tiny_vlm(tmp_path / "model", ["Which colour is this?", "user", "assistant"] * 4, seed=1)
    tied: list[bool] = []

    def load() -> None:
        model = open_model(folder, dtype=torch.float32)
        tied.append(model.lm_head.weight is model.model.language_model.embed_tokens.weight)

    threads = [Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    load()
    assert tied == [True] * 9
