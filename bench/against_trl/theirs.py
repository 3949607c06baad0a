"""TRL's side, run in an environment of its own (`make bench-trl`): prints one JSON line with seconds a step.

`python theirs.py MODEL IMAGES --prompts N --completions N --tokens N --steps N`; it imports nothing of ours.
"""

import argparse
import json
import sys
import tempfile
import time
import zlib
from pathlib import Path

import torch
import trl
from datasets import Dataset, Features, Image, Value
from transformers import (
    AutoModelForImageTextToText,
    AutoTokenizer,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    TrainerCallback,
)
from trl import GRPOConfig, GRPOTrainer


class Watch(TrainerCallback):
    """The time at the end of every step."""

    def __init__(self):
        self.times = []

    def on_step_end(self, args, state, control, **_):
        self.times.append((time.perf_counter(), time.process_time()))


def reward(completions, **_):
    """A number from the text, as the other side's plugin takes it."""
    return [zlib.crc32(one[0]["content"].encode()) % 1000 / 1000 for one in completions]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--question", required=True)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of weights and computing")
    for name in ("prompts", "completions", "tokens", "steps", "threads"):
        parser.add_argument(f"--{name}", type=int, required=True)
    wanted = parser.parse_args()
    torch.set_num_threads(wanted.threads)
    tokenizer = AutoTokenizer.from_pretrained(wanted.model)
    processor = Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor.from_pretrained(wanted.model),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=tokenizer.chat_template,
    )
    rows = [
        {"prompt": [{"role": "user", "content": wanted.question}], "image": str(path)}
        for path in sorted(wanted.images.glob("*.png"))
    ]
    features = Features({"prompt": [{"role": Value("string"), "content": Value("string")}], "image": Image()})
    watch = Watch()
    with tempfile.TemporaryDirectory() as folder:
        trainer = GRPOTrainer(
            model=AutoModelForImageTextToText.from_pretrained(wanted.model, dtype=getattr(torch, wanted.dtype)),
            reward_funcs=reward,
            args=GRPOConfig(
                output_dir=folder,
                per_device_train_batch_size=wanted.prompts * wanted.completions,
                num_generations=wanted.completions,
                max_completion_length=wanted.tokens,
                max_steps=wanted.steps,
                learning_rate=1e-6,
                beta=0.0,
                use_cpu=True,
                bf16=wanted.dtype == "bfloat16",
                gradient_checkpointing=False,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                logging_strategy="no",
            ),
            train_dataset=Dataset.from_list(rows, features=features),
            processing_class=processor,
            callbacks=[watch],
        )
        trainer.train()
    steps = [(b[0] - a[0], b[1] - a[1]) for a, b in zip(watch.times, watch.times[1:], strict=False)]
    steps.sort()
    wall, cpu = steps[len(steps) // 2]
    sys.stdout.write(json.dumps({"trl": trl.__version__, "wall": wall, "cpu": cpu, "steps": len(steps)}) + "\n")


if __name__ == "__main__":
    main()
