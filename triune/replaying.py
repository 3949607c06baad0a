"""A run's steps as its folder tells them: the groups of each with their images, and what was announced of it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from blake3 import blake3

from services.data.reading.images import beside
from services.data.reading.sample import read_row
from services.monitor.exports.images import kept_image
from services.monitor.history.queries import reading
from services.monitor.history.samples import FOLDER, step_file
from shared.blobs.store import BlobStore
from shared.errors import BadData, BadSample, BlobMissing, UserError
from shared.jobs.spec import JobSpec
from shared.messages import (
    BlobRef,
    Completed,
    Completion,
    ImageRef,
    Prompt,
    Reward,
    RewardSpec,
    Sampling,
    Scored,
)
from shared.samples.files import open_files, read_group
from shared.samples.places import ANYWHERE


@dataclass(frozen=True)
class Told:
    """A step as it was told; `digest` of its weights: None where that was not heard."""

    step: int
    groups: list[Scored]
    metrics: dict[str, float]
    advantages: dict[int, list[float | None]]
    importance: bool
    portions: list[list[int]]
    digest: str | None


def read_told(folder: Path, spec: JobSpec, step: int) -> Told:
    """Step `step` of the run in `folder`; raises UserError when the folder does not have it."""
    path = folder / FOLDER / step_file(step)
    with reading(folder) as reader:
        steps = reader.steps(step - 1, 1) if reader is not None else []
        importance, digest = reader.announced(step) if reader is not None else (False, None)
    if not steps or steps[0]["step"] != step or not path.exists():
        raise UserError(f"{folder} has no step {step}")
    rows = [row for row in pq.read_table(path).to_pylist() if row["state"] == "trained"]
    return Told(
        step,
        [scored_of(row, spec, folder.name) for row in rows],
        steps[0]["metrics"],
        {row["ordinal"]: [completion["advantage"] for completion in row["completions"]] for row in rows},
        importance,
        [portion["ordinals"] for portion in steps[0]["portions"]],
        digest,
    )


def last_step(folder: Path) -> int:
    """The last step that the run's history has; 0 for none."""
    with reading(folder) as reader:
        return reader.last_step() if reader is not None else 0


def threads_of(folder: Path) -> int | None:
    """With how many threads the learner computed; None where that is not known."""
    with reading(folder) as reader:
        engines = reader.engines() if reader is not None else []
    found = [engine.get("threads") for engine in engines if engine["service"] == "learner"]
    return int(found[-1]) if found and found[-1] else None


def scored_of(row: dict[str, Any], spec: JobSpec, job: str) -> Scored:
    """The record that a row of the samples was made of, as far as training needs it."""
    completions = row["completions"]
    prompt = Prompt(
        job=job,
        kind="train",
        ordinal=row["ordinal"],
        source=row["source"],
        task=row["task"],
        sample_id=row["sample_id"],
        turns=[],
        images=[
            ImageRef(blob=BlobRef(digest=image["digest"], size=0), width=image["width"], height=image["height"])
            for image in row["images"]
        ],
        reward=RewardSpec(verifier=row["verifier"], answer=row["answer"], ground_truth=row["ground_truth"]),
        sampling=Sampling(
            n=len(completions),
            temperature=spec.sampling.temperature,
            max_new_tokens=row["max_new_tokens"],
            seed=0,
            top_p=spec.sampling.top_p,
        ),
    )
    group = Completed(
        prompt=prompt,
        completions=[_completion(completion) for completion in completions],
        prompt_ids=row["prompt_ids"],
        image_grid_thw=[tuple(grid) for grid in row["image_grid"]],
        patch_size=row["patch_size"],
        replica=row["replica"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
    )
    return Scored(
        group=group,
        rewards=[_reward(completion) for completion in completions],
        replica=row["scorer"],
        started_at=row["score_started_at"],
        finished_at=row["score_finished_at"],
    )


def _completion(found: dict[str, Any]) -> Completion:
    return Completion(
        token_ids=found["token_ids"],
        log_probs=found["log_probs"],
        text=found["text"],
        finish=found["finish"],
        versions=[(run["version"], run["tokens"]) for run in found["versions"]],
    )


def _reward(found: dict[str, Any]) -> Reward:
    if found["status"] != "ok":
        return Reward(status="verifier-error", error=found["error"])
    numbers = {name: found[key] for name, key in (("final", "reward"), ("accuracy", "accuracy"), ("format", "format"))}
    return Reward(status="ok", parts=dict(found["parts"]), **numbers)


class Images:
    """Encoded images by digest: of the blob store, of those that the run folder keeps, or of the training files."""

    def __init__(self, folder: Path, blobs: BlobStore, spec: JobSpec) -> None:
        self._folder, self._blobs, self._spec = folder, blobs, spec
        self._found: dict[str, bytes] = {}

    def of(self, groups: Sequence[Scored]) -> list[list[bytes]]:
        """The images of each group; raises UserError when one is nowhere any more."""
        wanted = {image.blob.digest for scored in groups for image in scored.prompt.images}
        self._found = {digest: data for digest, data in self._found.items() if digest in wanted}
        for digest in wanted - self._found.keys():
            if (data := self._near(digest)) is not None:
                self._found[digest] = data
        missing = wanted - self._found.keys()
        if missing:
            self._found |= dict(self._in_files(missing))
        for digest in wanted - self._found.keys():
            raise UserError(
                f"image {digest} is gone: neither the blob store, nor {self._folder}, nor a training file has it"
            )
        return [[self._found[image.blob.digest] for image in scored.prompt.images] for scored in groups]

    def _near(self, digest: str) -> bytes | None:
        kept = kept_image(self._folder, digest)
        if kept is not None:
            return kept
        try:
            return self._blobs.get(BlobRef(digest=digest, size=0))
        except BlobMissing:
            return None

    def _in_files(self, missing: set[str]) -> Iterator[tuple[str, bytes]]:
        """A job's blobs go with its end; what they were made of lies where the job file says."""
        left = set(missing)
        try:
            for data in self._images_in_files():
                digest = blake3(data).hexdigest()
                if digest in left:
                    left.remove(digest)
                    yield digest, data
                if not left:
                    return
        except BadData as error:
            raise UserError(f"{len(left)} images are to be read from the training files again: {error}") from error

    def _images_in_files(self) -> Iterable[bytes]:
        for file in open_files(self._spec.data.train):
            load = beside(file.place, ANYWHERE)
            for group in range(len(file.groups)):
                for row in read_group(file, group):
                    try:
                        sample = read_row(row, str(file.place), load)
                    except BadSample:
                        continue
                    yield from (image.data for image in sample.images)
