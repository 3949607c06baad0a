"""What runs inside vLLM's processes: banned tokens, weights from mapped files, and no life without the parent.

vLLM imports this module in each of them before the model is built, since it is named as logits processor.
"""

import multiprocessing
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import vllm._custom_ops
from vllm.distributed.weight_transfer.base import WeightTransferEngine, WeightTransferInitInfo, WeightTransferUpdateInfo
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.v1.sample.logits_processor import LogitsProcessor

from services.rollout.engines.vllm.launch import BACKEND, BANNED
from shared.models.hf.adapters import opened


class Ban(LogitsProcessor):
    """Gives the banned tokens probability 0, for every request, before its log-probs are taken."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self._ids = torch.tensor(vllm_config.additional_config[BANNED], dtype=torch.long, device=device)

    def is_argmax_invariant(self) -> bool:
        return False  # a greedy request needs it, too

    def update_state(self, batch_update: Any) -> None:
        return

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        logits[:, self._ids] = -torch.inf
        return logits


@dataclass
class NoInfo(WeightTransferInitInfo):
    """Nothing has to be agreed on: the files are on this host."""


@dataclass
class Files(WeightTransferUpdateInfo):
    """Safetensors files, and which tensors of them have changed, by the names that transformers gives them."""

    paths: list[str]
    names: list[str]


class FileWeights(WeightTransferEngine[NoInfo, Files]):
    """Copies tensors from mapped files into the model, whose own `load_weights` knows fused matrices and shards."""

    init_info_cls, update_info_cls = NoInfo, Files

    def receive_weights(self, update_info: Files) -> None:
        self.model.load_weights(_tensors(update_info))

    def init_transfer_engine(self, *_: object) -> None:
        return

    def start_weight_update(self, *_: object) -> None:
        return

    def finish_weight_update(self, *_: object) -> None:
        return

    def shutdown(self) -> None:
        return


def _tensors(files: Files) -> Iterator[tuple[str, torch.Tensor]]:
    with opened([Path(path) for path in files.paths], set(files.names)) as tensors:
        for name, stored in tensors.items():
            yield name, stored.read()


def _die_with_the_parent() -> None:
    """vLLM's processes outlive a parent that is killed, with the card's memory in their hands."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, name="parent", daemon=True).start()


_die_with_the_parent()
vllm._custom_ops._supports_onednn = False  # packed matrices can't be written over; a CPU loses no speed without
WeightTransferEngineFactory.register_engine(BACKEND, FileWeights)
