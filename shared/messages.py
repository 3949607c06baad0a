"""Every message between services, declared once.

Evolution follows msgspec's four rules: new fields have defaults and come last; types and tags never change; a breaking
change is a new class with a new tag. Arrays ride as raw little-endian bytes (`arrays` below); images and weights never
ride at all: a message carries their digests (`shared.blobs.port`). Encoding is msgpack.

Flow: data ─Prompt→ rollout ─Completed→ reward ─Scored | Voided→ learner and monitor; events: all → all.
"""

import re
from typing import Annotated, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

Kind = Literal["train", "eval"]

JOB_ID_PATTERN = r"^[a-z0-9][a-z0-9-]{0,39}$"
SOURCE_PATTERN = r"^[a-z0-9_-]+$"

JobId = Annotated[str, msgspec.Meta(pattern=JOB_ID_PATTERN)]
SourceName = Annotated[str, msgspec.Meta(pattern=SOURCE_PATTERN)]


def source_name(data_source: str | None) -> str:
    """`data_source` as a source's name: lower-case, and `_` for `/` and whatever else is not a letter, digit, - or _.

    A row without a name counts under `unknown`. V-Triune replaces the slash only.
    """
    return re.sub(r"[^a-z0-9_-]", "_", (data_source or "").strip().lower()) or "unknown"


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """Base of all that crosses the bus."""


# ---------------------------------------------------------------- parts


IMAGE_MARK = "<image>"
"""Where an image stands in a user turn (V-Triune's data format)."""


class ChatTurn(Message, frozen=True, kw_only=True):
    """One turn of a conversation; each `IMAGE_MARK` in a user turn stands for the next image of the sample."""

    role: Literal["system", "user", "assistant"]
    content: str


class BlobRef(Message, frozen=True, kw_only=True):
    """A claim check: the blob's blake3 digest (64 hex digits) and its size in bytes."""

    digest: str
    size: int


class ImageRef(Message, frozen=True, kw_only=True):
    """An encoded image (PNG or JPEG bytes as in the data set) in the blob store; width and height in pixels."""

    blob: BlobRef
    width: int
    height: int


class RewardSpec(Message, frozen=True, kw_only=True):
    """How a sample wants to be judged: sample-level data formatting (V-Triune, section 3.1).

    `params` goes to the verifier as it is (for detection: `det_verifier_normalized`, `det_reward_ratio`).
    `step` and `total_steps` are the training progress at which the sample is judged, so that dynamic IoU needs no
    state. `options` are the job's settings of the verifier (thresholds, progress bounds, coordinate convention).
    """

    verifier: str
    answer: str
    ground_truth: str
    accuracy_ratio: float = 1.0
    format_ratio: float = 0.1
    params: dict[str, object] = {}
    step: int = 0
    total_steps: int = 1
    options: dict[str, object] = {}


class Sampling(Message, frozen=True, kw_only=True):
    """How to sample: `n` completions at `temperature` (0 = greedy), at most `max_new_tokens` tokens each."""

    n: int
    temperature: float
    max_new_tokens: int
    seed: int
    top_p: float = 1.0


class Prompt(Message, frozen=True, kw_only=True, tag="prompt.v1"):
    """data → rollout: one group to generate.

    `ordinal` is the group's place in the job's seeded order. For kind `train`, `min_version` is the version whose
    window admits it and `version` is None; for kind `eval`, `version` is the version to evaluate, exactly.
    """

    job: JobId
    kind: Kind
    ordinal: int
    source: SourceName
    task: str
    sample_id: str
    turns: list[ChatTurn]
    images: list[ImageRef]
    reward: RewardSpec
    sampling: Sampling
    min_version: int = 0
    version: int | None = None
    attempt: int = 0
    published_at: float = 0.0  # seconds since the epoch


class Completion(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One sampled answer of T tokens (the end token included if there was one).

    `token_ids` int32 (T,), `log_probs` float32 (T,): log π_rollout of each token, with logits divided by the
    sampling temperature and the banned tokens removed. `versions` are runs (version, number of tokens) that sum to T.
    """

    token_ids: bytes
    log_probs: bytes
    text: str
    finish: Literal["stop", "length"]
    versions: list[tuple[int, int]]

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids) // 4


class Completed(Message, frozen=True, kw_only=True, tag="completed.v1"):
    """rollout → reward: a group with its n completions.

    `prompt_ids` int32 (P,): the prompt as the model saw it, image placeholders expanded. `image_grid_thw` holds one
    (t, h, w) in patches an image, as the model saw it; `patch_size` in pixels. `box_convention` is what the model's
    family writes for a box (`shared.models.family.Boxes`), empty where its makers say nothing.
    """

    prompt: Prompt
    completions: list[Completion]
    prompt_ids: bytes
    image_grid_thw: list[tuple[int, int, int]]
    patch_size: int
    replica: str
    started_at: float  # seconds since the epoch
    finished_at: float
    box_convention: str = ""


class Reward(Message, frozen=True, kw_only=True):
    """The verdict on one completion, three-valued: `ok`, or `verifier-error` (deterministic, never retried).

    The third value, an infra-error, is no verdict: the group is delivered again, to another replica.
    With `verifier-error` only `error` means anything; a failure is never a zero. `final` is the weighted mean of
    `accuracy` and `format`, each in [0, 1]. `parts` holds every metric of the verifier by its name.
    """

    status: Literal["ok", "verifier-error"]
    final: float = 0.0
    accuracy: float = 0.0
    format: float = 0.0
    parts: dict[str, float] = {}
    error: str = ""

    @property
    def ok(self) -> bool:
        return self.status == "ok"


class Scored(Message, frozen=True, kw_only=True, tag="scored.v1"):
    """reward → learner, monitor: a group with one reward a completion, in the same order.

    `teacher`: of a job with distillation, float32 (T,) a completion, log π_teacher of each token; empty bytes where
    the teacher has none. Of any other job an empty list.
    """

    group: Completed
    rewards: list[Reward]
    replica: str
    started_at: float
    finished_at: float
    teacher: list[bytes] = []

    def __post_init__(self) -> None:
        if len(self.rewards) != len(self.group.completions):
            raise ValueError(f"{len(self.rewards)} rewards for {len(self.group.completions)} completions")
        if self.teacher and len(self.teacher) != len(self.group.completions):
            raise ValueError(f"{len(self.teacher)} of a teacher for {len(self.group.completions)} completions")

    @property
    def prompt(self) -> Prompt:
        return self.group.prompt

    @property
    def oldest_version(self) -> int:
        """The oldest version that sampled any token of the group; the one that admitted it when it has no token."""
        sampled = (version for completion in self.group.completions for version, _ in completion.versions)
        return min(sampled, default=self.prompt.min_version)


class Voided(Message, frozen=True, kw_only=True, tag="voided.v1"):
    """any stage → learner, monitor: the group at `ordinal` will not be trained on, and why.

    `reason` is one word of a small set (a metric label): bad-sample, unverifiable, redelivered, too-large, filtered,
    stopped. `detail` is a sentence. One with stage `learner` overrides an earlier Scored record of its ordinal: the
    group was scored, but the learner put it aside.
    """

    job: JobId
    kind: Kind
    ordinal: int
    source: SourceName
    task: str
    reason: str
    detail: str
    stage: str
    version: int | None = None
    sample_id: str = ""


def void_of(prompt: Prompt, reason: str, detail: str, stage: str) -> Voided:
    """The word that `prompt` has no group to train on."""
    return Voided(
        job=prompt.job,
        kind=prompt.kind,
        ordinal=prompt.ordinal,
        source=prompt.source,
        task=prompt.task,
        reason=reason,
        detail=detail,
        stage=stage,
        version=prompt.version,
        sample_id=prompt.sample_id,
    )


JournalRecord = Scored | Voided

# ---------------------------------------------------------------- events


class WeightsSync(Message, frozen=True, kw_only=True):
    """What a version took to publish: bytes of blobs that were written, and bytes of its trained tensors.

    `export_s`: seconds that the learner computed nothing; `publish_s`: until its blobs were stored, beside the next
    step where there is one. `is_anchor`: its whole tensors are published.
    """

    sent_bytes: int = 0
    full_bytes: int = 0
    is_anchor: bool = False
    export_s: float = 0.0
    publish_s: float = 0.0


class WeightsPublished(Message, frozen=True, kw_only=True, tag="weights.v2"):
    """learner → all: the newest weights and the window they open; self-contained, sent again when the window widens.

    Version v = the weights after training step v. `cursor` is the first ordinal not yet consumed, `window_end` the
    first ordinal that no group may start at yet (it never decreases). `next_end`, once the next step is being made: how
    far version v + 1 will open its window at least, so that its prompts are with the replicas when it comes. `manifest`
    names its tensors and, link by link, all that a late replica needs (`shared.blobs.manifest`).
    """

    job: JobId
    version: int
    incarnation: int
    cursor: int
    window_end: int
    next_end: int = 0
    max_staleness: int
    total_steps: int
    manifest: BlobRef
    digest: str  # of all tensors, however they are encoded: equal digests are equal weights
    sync: WeightsSync = WeightsSync()
    published_at: float = 0.0
    stale_until: int = 0  # groups below this ordinal may be of an earlier incarnation

    @property
    def prompts_end(self) -> int:
        """The first ordinal whose prompt may not be published yet."""
        return max(self.window_end, self.next_end)


class Portion(msgspec.Struct, frozen=True):
    """Groups of a step, by ordinal, that were computed while others of it were still generated.

    Times are seconds since the epoch.
    """

    ordinals: list[int]
    started_at: float
    finished_at: float


class StepDone(Message, frozen=True, kw_only=True, tag="step.v1"):
    """learner → monitor: training step `step` made version `step`; what it consumed and what it measured.

    `trained` and `voided` are the ordinals that it consumed: a replay makes the step of these, weighs its tokens as
    `importance` says, and sums gradients portion by portion as `portions` has them. `staleness` has one entry a trained
    group: version trained on − oldest version that sampled any token of it. `metrics` by name; `advantages` by ordinal,
    one value a completion (NaN: masked). `timing` in seconds.
    """

    job: JobId
    step: int
    incarnation: int
    trained: list[int]
    voided: list[int]
    staleness: list[int]
    metrics: dict[str, float]
    advantages: dict[int, list[float]]
    timing: dict[str, float]
    finished_at: float = 0.0
    importance: bool = False
    portions: list[Portion] = []


class EngineOpened(Message, frozen=True, kw_only=True, tag="engine.v1"):
    """learner, rollout → monitor: a replica has loaded the job's model; `facts` say what it computes with.

    `self_check`, in nats, is the largest |difference| of a log-prob from the model's own forward pass, on a probe.
    """

    job: JobId
    service: str
    replica: str
    facts: dict[str, str | int | float]
    opened_at: float = 0.0  # seconds since the epoch


class WeightsLoaded(Message, frozen=True, kw_only=True, tag="loaded.v1"):
    """rollout → monitor: a replica runs `version`; what that took.

    `fetched_bytes` come from the blob store; `load_s` is from when the weights were here to the resumed engine, waiting
    for groups included; `stall_s` of it no token was sampled; `kept` groups went on under the new weights.
    """

    job: JobId
    replica: str
    version: int
    fetched_bytes: int
    load_s: float
    stall_s: float
    kept: int
    loaded_at: float  # seconds since the epoch


class DeviceTurn(Message, frozen=True, kw_only=True, tag="device.v1"):
    """learner ⇄ rollout: whose a shared device is, with `rollout.shares_device`.

    For its turn number `turn` the learner says that the device is `wanted`; the replica, once nothing of it is on the
    device, that it is `free`; the learner, once nothing of it is there any more, that it is `returned`.
    """

    job: JobId
    turn: int
    state: Literal["wanted", "free", "returned"]
    replica: str = ""
    sent_at: float = 0.0  # seconds since the epoch


class EvalDue(Message, frozen=True, kw_only=True, tag="eval-due.v2"):
    """learner → data, rollout: generate the held-out set with exactly `version`, whose weights `manifest` names."""

    job: JobId
    version: int
    manifest: BlobRef
    incarnation: int = 0


class EvalDone(Message, frozen=True, kw_only=True, tag="eval-done.v1"):
    """learner → all: every held-out group of `version` is in the journal: `total` groups, `void` of them void.

    They are of the weights of `incarnation`, also when a replay has announced that version with other bits since.
    """

    job: JobId
    version: int
    total: int
    void: int
    incarnation: int = 0


class EndOfOrder(Message, frozen=True, kw_only=True, tag="end-of-order.v1"):
    """data → learner: the order of `kind` has exactly `total` ordinals (for eval: at `version`).

    `open` names (source, task) of the ordinals that may not be consumed yet, so that a stop can void them by source.
    """

    job: JobId
    kind: Kind
    total: int
    version: int | None = None
    open: dict[int, tuple[str, str]] = {}


class JobChanged(Message, frozen=True, kw_only=True, tag="job.v1"):
    """monitor, learner → all: look at the job's record again."""

    job: JobId
    state: str


Event = (
    EngineOpened
    | WeightsPublished
    | WeightsLoaded
    | StepDone
    | DeviceTurn
    | EvalDue
    | EvalDone
    | EndOfOrder
    | JobChanged
)

EVENT_NAMES: dict[type, str] = {
    EngineOpened: "engine",
    WeightsPublished: "weights",
    WeightsLoaded: "loaded",
    StepDone: "step",
    DeviceTurn: "device",
    EvalDue: "eval-due",
    EvalDone: "eval-done",
    EndOfOrder: "end-of-order",
    JobChanged: "job",
}


class DeadLetter(Message, frozen=True, kw_only=True, tag="dead.v1"):
    """any stage → monitor: what was given up after too many deliveries, and why."""

    job: JobId
    subject: str
    ordinal: int
    deliveries: int
    reason: str
    service: str


class Heartbeat(Message, frozen=True, kw_only=True, tag="heartbeat.v1"):
    """every service → monitor, over core NATS, once a second: alive, and doing what."""

    service: str
    replica: str
    pid: int
    state: str
    version: int = -1  # weights loaded; -1: none or does not apply
    in_flight: int = 0
    sent_at: float = 0.0


AnyMessage = Prompt | Completed | Scored | Voided | Event | DeadLetter | Heartbeat

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(AnyMessage)


def encode(message: Message) -> bytes:
    """The wire form of a message."""
    return _encoder.encode(message)


def decode(data: bytes) -> AnyMessage:
    """The message in `data`; raises msgspec.ValidationError with the path of the wrong field."""
    return _decoder.decode(data)


# ---------------------------------------------------------------- subjects and ids


def event_subject(event: Event) -> str:
    """`events.<job>.<name>`."""
    return f"events.{event.job}.{EVENT_NAMES[type(event)]}"


def message_id(job: str, kind: Kind, version: int | None, ordinal: int, attempt: int = 0) -> str:
    """`<job>/<kind>/<version or ->/<ordinal>/<attempt>`: a retried publish reuses the id."""
    return f"{job}/{kind}/{'-' if version is None else version}/{ordinal}/{attempt}"


# ---------------------------------------------------------------- arrays


def pack_ints(values: NDArray[np.integer] | list[int]) -> bytes:
    """int32 little-endian bytes of a one-dimensional sequence."""
    return np.asarray(values, dtype="<i4").tobytes()


def unpack_ints(data: bytes) -> NDArray[np.int32]:
    """Read-only int32 array of the bytes made by `pack_ints`."""
    return np.frombuffer(data, dtype="<i4")


def pack_floats(values: NDArray[np.floating] | list[float]) -> bytes:
    """float32 little-endian bytes of a one-dimensional sequence."""
    return np.asarray(values, dtype="<f4").tobytes()


def unpack_floats(data: bytes) -> NDArray[np.float32]:
    """Read-only float32 array of the bytes made by `pack_floats`."""
    return np.frombuffer(data, dtype="<f4")
