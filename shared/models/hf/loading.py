"""A model folder or hub id as transformers loads it: inputs without weights, and the model itself."""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from huggingface_hub.utils import logging as hub_logging
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoTokenizer,
    GenerationConfig,
)
from transformers.utils import cached_file, logging

from shared.errors import BadJob
from shared.models.catalog import family_of
from shared.models.family import Parts
from shared.models.inputs import ANY_SIZE, Inputs, Kept, PixelLimits

PROCESSOR_FILES = (
    "preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json", "chat_template.json",
    "chat_template.jinja",
)  # fmt: skip


def check_config(source: str | Path) -> None:
    """Raises BadJob: the configuration of `source` can't be loaded, or its family isn't known."""
    with _one_sentence(source):
        family_of(AutoConfig.from_pretrained(source).model_type, str(source))


def open_inputs(
    source: str | Path,
    *,
    pixels: PixelLimits = ANY_SIZE,
    banned_tokens: Sequence[str] = (),
    kept: Kept | None = None,
) -> Inputs:
    """Tokenizer, image processor and configurations of `source`; raises BadJob: it can't be loaded, or isn't known."""
    with _one_sentence(source):
        config = AutoConfig.from_pretrained(source)
        family = family_of(config.model_type, str(source))
        tokenizer = AutoTokenizer.from_pretrained(source)
        tokenizer.chat_template = tokenizer.chat_template or _processor_template(source)
        # Another backend makes other pixels (by up to 0.3), and which one is the default depends on what is installed.
        processor = AutoImageProcessor.from_pretrained(source, backend="pil")
        return Inputs(
            family,
            Parts(config, tokenizer, processor),
            _generation_config(source, config),
            pixels=pixels,
            banned_tokens=banned_tokens,
            kept=kept,
        )


def open_model(source: str | Path, *, dtype: torch.dtype) -> Any:
    """The model with its weights; raises BadJob: it can't be loaded, isn't known, or a weight is missing, which
    transformers would draw at random.
    """
    with _one_sentence(source):
        family_of(AutoConfig.from_pretrained(source).model_type, str(source))
        model, loading = AutoModelForImageTextToText.from_pretrained(source, dtype=dtype, output_loading_info=True)
        if missing := sorted(loading["missing_keys"]):
            raise ValueError(f"it has no weights for {missing[0]!r} and {len(missing) - 1} others")
        return model


def copy_processor_files(source: str | Path, folder: Path) -> None:
    """Copy what `AutoProcessor` reads from `source` into `folder` as it is: there is more in it than Triune opens."""
    for name in PROCESSOR_FILES:
        path = cached_file(source, name, _raise_exceptions_for_missing_entries=False)
        if path is not None:
            shutil.copyfile(path, folder / name)


def _processor_template(source: str | Path) -> str:
    """The chat template of an older folder, which stands beside the processor; raises ValueError: there is none."""
    path = cached_file(source, "chat_template.json", _raise_exceptions_for_missing_entries=False)
    if path is None:
        raise ValueError("it has no chat template, neither in its tokenizer nor in chat_template.json")
    return str(json.loads(Path(path).read_text())["chat_template"])


def _generation_config(source: str | Path, config: Any) -> Any:
    try:
        return GenerationConfig.from_pretrained(source)
    except OSError:  # an older folder has none
        return GenerationConfig.from_model_config(config)


_LOADING = Lock()
"""transformers patches its classes while it loads; two loads that overlap leave `tie_weights` patched for good."""


@contextmanager
def _one_sentence(source: str | Path) -> Iterator[None]:
    hub_logging.set_verbosity_error()  # it tells each of its retries
    logging.set_verbosity_error()  # the services' own log is one JSON line an event
    logging.disable_progress_bar()
    try:
        with _LOADING:
            yield
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().split("\n")[0]
        raise BadJob([f"model {str(source)!r} cannot be loaded: {reason}"]) from error
