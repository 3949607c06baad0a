"""The job file: one TOML document that describes a training run, and the only place where its keys are declared.

One vocabulary: `prompts_per_step` groups of `samples_per_prompt` completions make a step of `updates_per_step`
optimizer updates, and no group is older than `max_staleness` versions. `docs/job-file.md` is generated from here.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Rate = Annotated[float, Meta(gt=0.0, le=10.0)]
Fraction = Annotated[float, Meta(ge=0.0, le=1.0)]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of the job file's tables."""


class Data(Section, frozen=True, kw_only=True):
    """Where the samples are: parquet files, folders or glob patterns in the Orsta schema."""

    train: Annotated[list[str], Meta(min_length=1, description="training files, folders or patterns")]
    held_out: Annotated[list[str], Meta(description="held-out files, folders or patterns; empty: no evaluation")] = []
    epochs: Annotated[
        int, Meta(ge=0, le=10**6, description="passes over the training set; 0: as many as total_steps needs")
    ] = 0
    max_image_pixels: Annotated[
        int, Meta(ge=784, le=10**9, description="a larger image is scaled down to so many pixels (V-Triune: 2048²)")
    ] = 2048 * 2048
    min_image_pixels: Annotated[
        int, Meta(ge=0, le=10**9, description="a smaller image is scaled up to so many pixels (V-Triune: 512²)")
    ] = 0
    max_prompt_tokens: Annotated[
        int, Meta(ge=1, le=10**7, description="a longer prompt, image tokens included, is void")
    ] = 8192
    size_exponent: Annotated[
        float,
        Meta(ge=0.0, le=1.0, description="sources are drawn by weight · rows^this; below 1 small ones come more often"),
    ] = 1.0
    prepared_gib: Annotated[
        float,
        Meta(
            ge=0.0,
            le=10**6,
            description="large images, prepared, kept on each host's disk for rollout and learner together; 0: none",
        ),
    ] = 4.0
    cot_prompts: Annotated[
        bool, Meta(description="append a sentence of the prompt pool to mathverify rows, as V-Triune does")
    ] = True


class Source(Section, frozen=True, kw_only=True):
    """Settings of one data source, by its name."""

    weight: Annotated[
        float, Meta(ge=0.0, le=10**9, description="share of this source in the mixture, relative to its size")
    ] = 1.0
    schedule: Annotated[
        list[
            tuple[
                Annotated[int, Meta(ge=0, le=10**9)],
                Annotated[float, Meta(ge=0.0, le=10**9)],
            ]
        ],
        Meta(description="(step, weight): the weight from that step on; rising steps"),
    ] = []
    order: Annotated[
        Literal["shuffled", "stored"],
        Meta(description="of its rows in a pass; stored: as the files have them, such as from easy to hard"),
    ] = "shuffled"
    samples_per_prompt: Annotated[
        Annotated[int, Meta(ge=2, le=10**4)] | None,
        Meta(description="completions of one prompt; absent: algorithm.samples_per_prompt"),
    ] = None
    max_new_tokens: Annotated[
        Annotated[int, Meta(ge=1, le=10**7)] | None,
        Meta(description="tokens of one completion; absent: sampling.max_new_tokens"),
    ] = None


class Algorithm(Section, frozen=True, kw_only=True):
    """GRPO as in the paper (section 3.2): no KL term, clip-higher, token-mean."""

    prompts_per_step: Annotated[int, Meta(ge=1, le=10**6, description="groups that one training step consumes (B)")] = (
        32
    )
    samples_per_prompt: Annotated[int, Meta(ge=1, le=10**4, description="completions of one prompt (n)")] = 8
    updates_per_step: Annotated[
        int, Meta(ge=1, le=10**6, description="optimizer updates in one step; 1 = on-policy updates")
    ] = 1
    max_staleness: Annotated[
        int, Meta(ge=0, le=10**6, description="η: versions a trained group may be old; 0 = on-policy")
    ] = 0
    order: Annotated[
        Literal["seeded", "arrival"],
        Meta(description="groups that a step takes: the next ones of the order, or the first that have come"),
    ] = "seeded"
    advantage: Annotated[
        Literal["grpo", "dr_grpo", "rloo", "reinforce_baseline", "pass_at_k"],
        Meta(description="how a completion compares with its group; docs/algorithms.md has the formulas"),
    ] = "grpo"
    pass_k: Annotated[int, Meta(ge=2, le=10**4, description="k of advantage pass_at_k")] = 4
    loss: Annotated[
        Literal["ppo_clip", "gspo", "cispo", "sapo"], Meta(description="policy loss of a token or a response")
    ] = "ppo_clip"
    aggregation: Annotated[
        Literal["token_mean", "sequence_mean", "constant"],
        Meta(description="weight of a token: 1/tokens, 1/(responses · length), or 1/(responses · max_new_tokens)"),
    ] = "token_mean"
    old_policy: Annotated[
        Literal["recomputed", "rollout"],
        Meta(description="what the ratio is against: the step's first weights (decoupled), or the sampler"),
    ] = "recomputed"
    clip_low: Annotated[float, Meta(gt=0.0, le=1.0, description="lower clip of the ratio: 1 − clip_low")] = 0.2
    clip_high: Annotated[float, Meta(gt=0.0, le=10**6, description="upper clip of the ratio: 1 + clip_high")] = 0.28
    dual_clip: Annotated[
        float, Meta(ge=0.0, le=10**6, description="bound c of −A·r for negative advantages (V-Triune: 3); 0: off")
    ] = 3.0
    importance: Annotated[
        Literal["auto", "on", "off"],
        Meta(description="correct for the sampler; auto: on when it can differ (stale, bfloat16, another engine)"),
    ] = "auto"
    correction: Annotated[
        Literal["token", "sequence", "icepop", "geometric"],
        Meta(description="weights π_old/π_rollout: truncated by token or response; or masks by token or response"),
    ] = "token"
    importance_cap: Annotated[float, Meta(gt=0.0, le=10**6, description="C of w = min(π_old/π_rollout, C)")] = 2.0
    importance_floor: Annotated[
        float, Meta(ge=0.0, le=1.0, description="lower bound of what icepop and geometric keep")
    ] = 0.5
    kl_coefficient: Annotated[
        float, Meta(ge=0.0, le=10**3, description="β of the divergence from the first weights; 0: no reference is held")
    ] = 0.0
    kl_estimator: Annotated[Literal["k1", "k2", "k3"], Meta(description="estimator of that divergence")] = "k3"
    kl_in: Annotated[Literal["loss", "reward"], Meta(description="where the divergence counts")] = "loss"
    entropy_coefficient: Annotated[
        float, Meta(ge=-10.0, le=10.0, description="γ of the entropy bonus; below 0: a penalty")
    ] = 0.0
    overlong_buffer: Annotated[
        int, Meta(ge=0, le=10**7, description="tokens before max_new_tokens over which a penalty rises; 0: none")
    ] = 0
    overlong_penalty: Annotated[
        float, Meta(ge=0.0, le=100.0, description="what a cut completion loses of its reward")
    ] = 1.0
    mask_truncated: Annotated[
        bool, Meta(description="completions that were cut at max_new_tokens have no loss; they count in their group")
    ] = False
    drop_uniform_groups: Annotated[
        bool, Meta(description="dynamic sampling: a group whose answers are all equally right is filtered and replaced")
    ] = False
    uniform_by: Annotated[
        Literal["accuracy", "reward"], Meta(description="what dynamic sampling judges a group by")
    ] = "accuracy"


class Distillation(Section, frozen=True, kw_only=True):
    """On-policy distillation: the policy is drawn to a larger model's distribution on what it samples itself.

    The operator says where that model is served (TRIUNE_TEACHER_URL, TRIUNE_TEACHER_KEY of the reward service).
    """

    model: Annotated[
        str, Meta(description="the teacher's name at its server; it has the policy's tokenizer; empty: none")
    ] = ""
    coefficient: Annotated[
        float, Meta(gt=0.0, le=10**3, description="λ of λ·(log π − log π_teacher)²/2 in the loss of a token")
    ] = 1.0
    deadline_s: Annotated[
        float, Meta(gt=0.0, le=10**5, description="time for one answer; past it the teacher counts as away")
    ] = 120.0


class Sampling(Section, frozen=True, kw_only=True):
    """How completions are sampled in training; evaluation is greedy."""

    temperature: Annotated[float, Meta(gt=0.0, le=100.0, description="softmax temperature")] = 1.0
    top_p: Annotated[
        float, Meta(gt=0.0, le=1.0, description="nucleus; below 1 the log-probs are of the whole softmax")
    ] = 1.0
    max_new_tokens: Annotated[int, Meta(ge=1, le=10**7, description="tokens of one completion at most")] = 2048
    banned_tokens: Annotated[
        list[str], Meta(description="texts of tokens that are never sampled, beside placeholders, turn marks, padding")
    ] = []


class Optimizer(Section, frozen=True, kw_only=True):
    """AdamW, with a rate for each component if wanted."""

    learning_rate: Annotated[float, Meta(gt=0.0, le=10.0, description="peak rate")] = 1e-6
    learning_rate_vit: Annotated[Rate | None, Meta(description="rate of the vision tower; absent: learning_rate")] = (
        None
    )
    learning_rate_connector: Annotated[
        Rate | None, Meta(description="rate of the connector; absent: learning_rate")
    ] = None
    beta1: Annotated[float, Meta(ge=0.0, lt=1.0, description="AdamW β₁")] = 0.9
    beta2: Annotated[float, Meta(ge=0.0, lt=1.0, description="AdamW β₂")] = 0.999
    weight_decay: Annotated[float, Meta(ge=0.0, le=10.0, description="decoupled weight decay")] = 0.01
    warmup_steps: Annotated[
        int, Meta(ge=0, le=10**9, description="steps of linear warm-up; the first step already has a rate above 0")
    ] = 0
    schedule: Annotated[Literal["constant", "cosine"], Meta(description="rate after the warm-up")] = "constant"
    max_grad_norm: Annotated[
        float, Meta(gt=0.0, le=10**9, description="global norm at which gradients are clipped")
    ] = 1.0
    freeze: Annotated[list[Literal["vit", "connector", "llm"]], Meta(description="components that are not trained")] = (
        msgspec.field(default_factory=lambda: ["vit", "connector"])
    )


class Learner(Section, frozen=True, kw_only=True):
    """The training engine."""

    engine: Annotated[
        Literal["torch", "deepspeed"],
        Meta(description="torch: one device; deepspeed: ZeRO over all ranks of a learner that torchrun has started"),
    ] = "torch"
    zero_stage: Annotated[
        Literal[1, 2, 3],
        Meta(description="deepspeed shares out optimizer states (1), gradients (2), parameters (3)"),
    ] = 2
    offload_parameters: Annotated[
        bool, Meta(description="deepspeed at stage 3 keeps its share of the parameters in the host's memory")
    ] = False
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16"],
        Meta(
            description="type of parameters and published weights, the optimizer's copies are float32; "
            "auto: bfloat16 on CUDA, float32 on a CPU"
        ),
    ] = "auto"
    gradient_checkpointing: Annotated[
        Literal["auto", "on", "off"],
        Meta(description="keep one activation a layer and compute the others again; auto: on CUDA"),
    ] = "auto"
    optimizer_state: Annotated[
        Literal["float32", "8bit", "cpu"],
        Meta(
            description="Adam's moments: on the device, in 8 bits there (bitsandbytes), or in the host's memory "
            "with the float32 copies of the parameters"
        ),
    ] = "float32"
    lora_rank: Annotated[
        int, Meta(ge=0, le=4096, description="rank of low-rank adapters in place of the weights themselves; 0: none")
    ] = 0
    lora_alpha: Annotated[float, Meta(gt=0.0, le=1e6, description="adapters are scaled by lora_alpha / lora_rank")] = (
        32.0
    )
    lora_targets: Annotated[
        list[Literal["attention", "mlp"]],
        Meta(min_length=1, description="layers with an adapter, in the components that are not frozen"),
    ] = msgspec.field(default_factory=lambda: ["attention", "mlp"])
    tokens_per_batch: Annotated[
        int, Meta(ge=1, le=10**9, description="token budget of one micro-batch; never changes the loss")
    ] = 16384
    overlap: Annotated[
        Literal["auto", "on", "off"],
        Meta(
            description="compute a step's first groups while its last ones are generated; two runs then differ by "
            "rounding; auto: on a GPU, where the other keys allow it"
        ),
    ] = "auto"
    device_memory_gib: Annotated[
        float,
        Meta(ge=0.0, le=1e6, description="memory of one of the learner's devices, checked at submit; 0: not known"),
    ] = 0.0
    feature_memory_gib: Annotated[
        float,
        Meta(
            ge=0.0,
            le=10**6,
            description="what a frozen tower makes of images, kept within a step, at most",
        ),
    ] = 2.0
    pixel_memory_gib: Annotated[
        float, Meta(ge=0.0, le=1e6, description="images ready for the tower kept in the host's memory, at most")
    ] = 1.0
    measure_uniform: Annotated[
        bool,
        Meta(description="compute groups whose rewards are all equal, too: without a gradient, for their metrics"),
    ] = False
    checkpoint_every: Annotated[
        int, Meta(ge=0, le=10**9, description="steps between checkpoints; 0: only at the end")
    ] = 20
    keep_checkpoints: Annotated[int, Meta(ge=1, le=10**6, description="checkpoints kept; the newest ones")] = 2
    anchor_every: Annotated[
        int,
        Meta(ge=1, le=10**6, description="versions between whole copies of the trained weights; others are deltas"),
    ] = 8


class Rollout(Section, frozen=True, kw_only=True):
    """The generation engine."""

    engine: Annotated[
        Literal["auto", "hf", "vllm"],
        Meta(description="hf: transformers; vllm: AsyncLLM; auto: vllm where the replica has a GPU, else hf"),
    ] = "auto"
    dtype: Annotated[Literal["float32", "bfloat16"], Meta(description="parameters' type")] = "float32"
    groups_in_flight: Annotated[int, Meta(ge=1, le=10**6, description="groups that one replica generates at once")] = 32
    group_deadline_s: Annotated[
        float, Meta(gt=0.0, le=10**6, description="a group that takes longer is given up by its replica")
    ] = 600.0
    shares_device: Annotated[
        bool,
        Meta(
            description="the one replica and the learner take turns on one device, on-policy: who waits holds nothing"
        ),
    ] = False
    memory_share: Annotated[
        float, Meta(gt=0.0, le=1.0, description="vllm: share of the card's memory for weights, keys and values")
    ] = 0.85
    feature_memory_gib: Annotated[
        float, Meta(ge=0.0, le=10**6, description="hf: image features kept for other groups, at most")
    ] = 1.0
    tensor_parallel: Annotated[int, Meta(ge=1, le=64, description="vllm: cards that hold one model together")] = 1


class RewardSettings(Section, frozen=True, kw_only=True):
    """How verifiers judge; what a sample itself says (ratios, parameters) stays the sample's."""

    deadline_s: Annotated[
        float, Meta(gt=0.0, le=10**5, description="time for one sample; past it a verifier-error")
    ] = 10.0
    iou_threshold: Annotated[
        Literal["dynamic", "average"] | Annotated[float, Meta(ge=0.0, le=1.0)],
        Meta(
            description="IoU from which a box counts: dynamic (by training progress), average (over eleven), or fixed"
        ),
    ] = "dynamic"
    iou_schedule: Annotated[
        list[tuple[float, float]],
        Meta(description="dynamic: (progress up to and including, threshold), the paper's section 3.2 by default"),
    ] = msgspec.field(default_factory=lambda: [(0.10, 0.85), (0.25, 0.95), (1.0, 0.99)])
    dialect: Annotated[
        Literal["tolerant", "v-triune"],
        Meta(description="how mathverify and detection read an answer; a sample's parameter `dialect` goes before it"),
    ] = "tolerant"
    plugins: Annotated[
        list[str],
        Meta(description="files with own verifiers, under the folders of TRIUNE_REWARD_PLUGINS"),
    ] = []
    judge_model: Annotated[str, Meta(description="model that the verifier judge asks, by its name at the endpoint")] = (
        ""
    )
    judge_max_tokens: Annotated[int, Meta(ge=1, le=10**6, description="most tokens of a reply of the judge")] = 256
    judge_prices: Annotated[
        tuple[Annotated[float, Meta(ge=0.0, le=1e6)], Annotated[float, Meta(ge=0.0, le=1e6)]],
        Meta(description="what a million tokens of the judge cost, in and out"),
    ] = (0.0, 0.0)
    audit: Annotated[
        str, Meta(description='an independent verifier (such as "judge") that re-judges some groups; empty: none')
    ] = ""
    audit_share: Annotated[float, Meta(gt=0.0, le=1.0, description="share of training groups that are audited")] = 0.02
    coordinates: Annotated[
        Literal["auto", "relative", "relative_yx", "resized", "original"],
        Meta(
            description="what the model's boxes are: 0-1000 (x or y first), resized or stored image's pixels; auto: as "
            "its family writes them, else as the sample says"
        ),
    ] = "auto"


class Evaluation(Section, frozen=True, kw_only=True):
    """Generation over the held-out set, greedy unless told: before the first, after the last step, and in between."""

    every: Annotated[int, Meta(ge=0, le=10**9, description="steps between evaluations; 0: only before and after")] = 0
    samples_per_prompt: Annotated[
        int, Meta(ge=1, le=10**4, description="completions of a held-out prompt; rewards are their mean")
    ] = 1
    temperature: Annotated[float, Meta(ge=0.0, le=100.0, description="softmax temperature; 0: greedy")] = 0.0


class MonitorSettings(Section, frozen=True, kw_only=True):
    """Where else the run's series go; the run folder has them always."""

    sinks: Annotated[
        list[Literal["tensorboard", "wandb", "mlflow", "trackio"]],
        Meta(description="also write to these, under V-Triune's names; each is an extra of its name"),
    ] = []
    gpus: Annotated[
        float,
        Meta(ge=0, le=1e6, description="GPUs that the run holds, all services together: GPU-hours a step; 0: not told"),
    ] = 0.0
    gpu_hour_price: Annotated[
        float, Meta(ge=0, le=1e6, description="price of one GPU-hour, in any currency: money a step; 0: not told")
    ] = 0.0


class JobSpec(Section, frozen=True, kw_only=True):
    """A training run."""

    name: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,30}$", description="first part of the job's id")] = "job"
    model: Annotated[str, Meta(min_length=1, description="folder or hub id of a Hugging Face vision-language model")]
    total_steps: Annotated[
        int, Meta(ge=1, le=10**9, description="training steps; each publishes a version of the weights")
    ]
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1, description="seeds the order, the prompt pool and the sampling")] = 0
    data: Data
    sources: Annotated[dict[str, Source], Meta(description="settings by source name")] = {}
    algorithm: Algorithm = Algorithm()
    distillation: Distillation = Distillation()
    sampling: Sampling = Sampling()
    optimizer: Optimizer = Optimizer()
    learner: Learner = Learner()
    rollout: Rollout = Rollout()
    reward: RewardSettings = RewardSettings()
    evaluation: Evaluation = Evaluation()
    monitor: MonitorSettings = MonitorSettings()


def derived(spec: JobSpec, *, train_rows: int | None = None) -> dict[str, float]:
    """Numbers that follow from the job, for `:validate` and the first log line."""
    algorithm = spec.algorithm
    groups = spec.total_steps * algorithm.prompts_per_step
    numbers: dict[str, float] = {
        "completions_per_step": algorithm.prompts_per_step * algorithm.samples_per_prompt,
        "groups_per_update": algorithm.prompts_per_step / algorithm.updates_per_step,
        "total_groups": groups,
        "total_updates": spec.total_steps * algorithm.updates_per_step,
        "max_groups_in_flight": (algorithm.max_staleness + 1) * algorithm.prompts_per_step,
    }
    if train_rows:
        numbers["train_rows"] = train_rows
        numbers["epochs"] = groups / train_rows
    return numbers
