"""What the REST API answers, as its OpenAPI document shows it."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from services.monitor.analysis.spans import StepCost


class Mistakes(BaseModel):
    """Why a request was refused."""

    error: str = Field(description="one sentence", examples=["job demo-1f2e3d4c is done; it cannot become paused"])
    mistakes: list[str] = Field(
        default=[],
        description="every mistake of the body, one sentence each",
        examples=[["unknown key 'totl_steps'; the nearest known one is 'total_steps'"]],
    )


class JobState(BaseModel):
    """A job and its state."""

    job_id: str = Field(examples=["demo-1f2e3d4c"])
    state: Literal["queued", "running", "paused", "stopping", "stopped", "done", "failed"]


class JobChange(BaseModel):
    """A change asked for while the job was alive; `since` is the first step or ordinal that it holds for."""

    key: str
    value: int | float
    requested_at: float
    since: int | None
    since_unit: Literal["step", "ordinal"]


class JobSummary(JobState):
    """One line of the list of jobs. Times are seconds since the epoch."""

    name: str
    error: str
    created_at: float
    started_at: float | None
    ended_at: float | None
    title: str = Field(description="what people call the run; empty: nothing")
    tags: list[str]
    hidden: bool = Field(description="people do not want to see it in lists")
    step: int = Field(description="training steps done")
    total_steps: int
    max_staleness: int


class JobDetails(JobSummary):
    """A job with what is known of its run; `report` has the keys of report.json."""

    spec: dict[str, Any]
    changes: list[JobChange]
    report: dict[str, Any]
    on_file: bool = Field(description="the job has ended and all of its run folder is written")
    reading_error: str = Field(description="why the monitor cannot read the job's streams; empty: it can")


class JobList(BaseModel):
    """Jobs, oldest first."""

    jobs: list[JobSummary]
    next: str | None = Field(description="`before` of the page of older ones; null: there are none")
    waiting_for: str = Field(
        description="the peer that the monitor waits for; empty: none. What is shown was seen last"
    )


class Validated(BaseModel):
    """A job that could be submitted: all keys with their defaults, and the numbers that follow from them."""

    warnings: list[str] = Field(description="what is legal and hardly meant, one sentence each")

    spec: dict[str, Any]
    derived: dict[str, float]
    learner_memory_gib: dict[str, dict[str, float]]
    """By kind of device, each part of the learner's memory on it (`host:` in front: in the host's) at its peak."""


class Point(BaseModel):
    """One value; `time` in seconds since the epoch."""

    step: int
    time: float
    value: float


class Series(BaseModel):
    """One curve; an empty source or task means all of them."""

    name: str
    source: str
    task: str
    points: list[Point]


class SeriesList(BaseModel):
    """Curves, thinned to at most the wanted number of points: the lowest and the highest value of each stretch stay."""

    job_id: str
    series: list[Series]


class SeriesDescribed(BaseModel):
    """What a series is; a name that ends in `/*` stands for a family. Units are UCUM codes."""

    name: str
    unit: str
    description: str
    section: str
    v_triune: str = Field(description="V-Triune's name for it, as a template; empty: it has none")


class Catalogue(BaseModel):
    """Every series that a run can have."""

    series: list[SeriesDescribed]


class SampleList(BaseModel):
    """Groups with their completions, newest first."""

    job_id: str
    samples: list[dict[str, Any]]
    next: int | None = Field(description="`before` of the next page; null: this was the last one")


class VoidList(BaseModel):
    """Groups that were given up, newest first, each with its reason."""

    job_id: str
    counts: dict[str, dict[str, int]] = Field(description="all void training groups, by source and reason")
    held_out_counts: dict[str, dict[str, int]] = Field(
        description="all void held-out groups, by source and reason; each evaluation counts its own"
    )
    next: int | None = Field(description="`before` of the next page; null: this was the last one")
    voids: list[dict[str, Any]]


class DeadLetters(BaseModel):
    """Messages that were given up, oldest first: ordinal, deliveries, reason, and the service that gave up."""

    job_id: str
    letters: list[dict[str, Any]]


class SourceFinding(BaseModel):
    """One source's part in a finding; an empty source means all of them."""

    rule: str
    source: str
    step: int
    level: Literal["note", "warning"]
    sentence: str = Field(examples=["chart: 92% of groups have zero variance since step 40; they carry no gradient"])
    series: str


class FindingShown(BaseModel):
    """One line of the diagnostics: a rule and the sources that it is about."""

    rule: str
    level: Literal["note", "warning"]
    sentence: str = Field(examples=["completions are cut at the length limit: 7 of 8 sources"])
    helps: str = Field(description="what to change or to look at")
    series: str = Field(description="the curve that shows it; empty: none does")
    cost: float = Field(description="share of the run's recent groups that it concerns, 0 to 1")
    changes: dict[str, float] = Field(description="a PATCH that may help; empty: no key of it can be changed")
    findings: list[SourceFinding]


class Findings(BaseModel):
    """What the curves say, warnings first, the dearest of them first."""

    job_id: str
    findings: list[FindingShown]


class StepCosts(BaseModel):
    """What the newest steps took, newest first; GPUs and their price as the job file says."""

    job_id: str
    gpus: float
    gpu_hour_price: float
    steps: list[StepCost]


class ReplicaShown(BaseModel):
    """A process of a service, as its heartbeats tell."""

    service: str
    replica: str
    pid: int
    state: str
    version: int | None = Field(description="version of the weights that it has loaded")
    in_flight: int
    heard_s_ago: float
    alive: bool


class QueueShown(BaseModel):
    """A job's work queue: messages nobody has taken, and those in somebody's hands."""

    stream: str
    kind: str
    waiting: int
    in_hand: int


class StreamShown(BaseModel):
    """A stream's size; `max_bytes` -1: unlimited."""

    stream: str
    messages: int
    bytes: int
    max_bytes: int


class LedgerShown(BaseModel):
    """The active job's window, as Redis shows it."""

    version: int | None
    cursor: int | None
    window_end: int | None
    max_staleness: int | None
    in_flight: int
    loaded: dict[str, int] = Field(description="version by rollout replica")


class Services(BaseModel):
    """All replicas, the active job's queues, the streams, and the ledger (null while Redis does not answer)."""

    active_job: str | None
    waiting_for: str = Field(
        description="the peer that the monitor itself waits for; empty: none. While it is NATS, no heartbeat arrives"
    )
    replicas: list[ReplicaShown]
    queues: list[QueueShown]
    streams: list[StreamShown]
    ledger: LedgerShown | None
