"""Checkpoints and prompts against transformers' own processors, which want torchvision: part of `make test-vllm`."""

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from services.learner.engines.torch import TorchEngine
from services.learner.intake.ingest import GroupIngest
from shared.jobs.document import parse_job
from shared.messages import ChatTurn
from tests.models.official import publish
from tests.models.tiny import FAMILIES, make

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("default")]

QUESTION = "Which one is larger?"
SIZES = [(84, 112), (140, 84)]


@pytest.mark.parametrize("model_type", list(FAMILIES))
def test_a_checkpoint_opens_with_its_processor_which_makes_the_same_tokens(model_type: str, tmp_path: Path) -> None:
    source = make(model_type, tmp_path / "source")
    publish(source, model_type)
    spec = parse_job({"model": str(source), "total_steps": 1, "data": {"train": ["x"]}})
    ingest = GroupIngest(spec)
    engine = TorchEngine(ingest.pixels)
    engine.open(spec, None)
    engine.save(tmp_path)
    shutil.rmtree(source)

    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "model", dtype="auto").eval()
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    processor = AutoProcessor.from_pretrained(tmp_path / "model")
    pictures = [picture(*size) for size in SIZES]
    for count in (1, 2):
        turns = [ChatTurn(role="user", content="<image>" * count + QUESTION)]
        ours = ingest.inputs.prompt(
            turns, [ingest.inputs.image(png(one), alone=count == 1) for one in pictures[:count]]
        )
        asked = [{"type": "image"}] * count + [{"type": "text", "text": QUESTION}]
        text = processor.apply_chat_template([{"role": "user", "content": asked}], add_generation_prompt=True)
        theirs = processor(text=[text], images=[pictures[:count]], add_special_tokens=False, return_tensors="pt")
        assert theirs["input_ids"][0].tolist() == ours.ids.tolist()
        with torch.no_grad():
            assert torch.isfinite(model(**theirs).logits).all()


def picture(width: int, height: int) -> Image.Image:
    random = np.random.default_rng(width)
    return Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
