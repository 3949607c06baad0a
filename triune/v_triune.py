"""V-Triune's exported variables (`scripts/train.sh` at commit 39bcf0d, 61 of them) as keys of a job file.

`VARIABLES` says of each what becomes of it; `docs/from-v-triune.md` shows the same table.
"""

import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from shared.errors import BadData, BadJob, UserError
from shared.jobs.document import parse_job
from shared.samples.files import count_rows, inspect_files

BATCH = 1024
"""V-Triune's own DATA_TRAIN_BATCH_SIZE."""
_TRUE = ("1", "true", "yes", "on")


@dataclass(frozen=True)
class Variable:
    """One exported variable: the keys that it sets (none: it has no counterpart), and what is to be known of it."""

    name: str
    keys: tuple[str, ...] = ()
    note: str = ""
    read: Callable[[str], Any] | None = None  # its value as the first key's; None: `translate` knows better


def _files(text: str) -> list[str]:
    """`[a.parquet,b.parquet]`, as Hydra takes a list."""
    return [part.strip().strip("'\"") for part in text.strip().strip("[]").split(",") if part.strip()]


def _switch(text: str) -> bool:
    return text.strip().lower() in _TRUE


def _name(text: str) -> str:
    """A job's name has small letters, digits and hyphens, at most 31."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:31] or "job"


def _advantage(text: str) -> str:
    if text != "grpo":
        raise ValueError("V-Triune's other estimators need a critic; expected grpo")
    return text


_ESTIMATORS = {"kl": "k1", "mse": "k2", "low_var_kl": "k3"}
_AGGREGATIONS = {"token-mean": "token_mean", "seq-mean-token-mean": "sequence_mean"}


def _estimator(text: str) -> str:
    return _one_of(text, _ESTIMATORS)


def _aggregation(text: str) -> str:
    return _one_of(text, _AGGREGATIONS)


def _one_of(text: str, known: Mapping[str, str]) -> str:
    if text not in known:
        raise ValueError(f"expected one of {', '.join(known)}")
    return known[text]


def _frequency(text: str) -> int:
    return max(int(text), 0)


VARIABLES = (
    Variable("EXP_NAME", ("name",), "small letters, digits and hyphens", _name),
    Variable("TRAIN_PROJECT_NAME", note="none: a sink's project is triune, its run has the job's id"),
    Variable("ACTOR_LOAD_PATH", ("model",), read=str),
    Variable("DATA_TRAIN_FILE", ("data.train",), read=_files),
    Variable("DATA_TEST_FILE", ("data.held_out",), read=_files),
    Variable("DATA_TRAIN_BATCH_SIZE", ("algorithm.prompts_per_step",), read=int),
    Variable(
        "ACTOR_PPO_GLOBAL_BSZ",
        ("algorithm.updates_per_step",),
        "DATA_TRAIN_BATCH_SIZE / ACTOR_PPO_GLOBAL_BSZ: 1024/1024 → 1, 1024/128 → 8",
    ),
    Variable("ROLLOUT_N", ("algorithm.samples_per_prompt",), read=int),
    Variable("ACTOR_CLIP_RATIO", note="none: V-Triune uses the low and the high one"),
    Variable("ACTOR_CLIP_RATIO_LOW", ("algorithm.clip_low",), read=float),
    Variable("ACTOR_CLIP_RATIO_HIGH", ("algorithm.clip_high",), read=float),
    Variable("ENABLE_DUAL_CLIP", ("algorithm.dual_clip",), "3.0, or 0 for off", lambda text: 3.0 * _switch(text)),
    Variable("ALGO_ADV_ESTIMATOR", ("algorithm.advantage",), read=_advantage),
    Variable("ROLLOUT_TEMP", ("sampling.temperature",), read=float),
    Variable("DATA_MAX_RES_LENGTH", ("sampling.max_new_tokens",), read=int),
    Variable("DATA_MAX_PROMPT_LENGTH", ("data.max_prompt_tokens",), "a longer prompt is void, not an exception", int),
    Variable("DATA_FILTER_OVERLONG_PROMPTS", note="none: an overlong prompt is void, and counted"),
    Variable("DATA_SHUFFLE", note="none: the order is always seeded (`seed`)"),
    Variable("DATA_IMAGE_KEYWORD", note="none: the column is `images`; `triune data convert` renames others"),
    Variable("DATA_NUM_EXAMINE_TRAIN", note="none: the page and `samples/` hold every group"),
    Variable("DATA_NUM_EXAMINE_TEST", note="none: the page and `samples/` hold every group"),
    Variable("DATA_TEST_BATCH_SIZE", note="none: held-out prompts flow through the same queue, bounded by it"),
    Variable("ACTOR_LR", ("optimizer.learning_rate",), read=float),
    Variable(
        "ACTOR_LR_LLM", ("optimizer.learning_rate",), "the language model's rate is the one without a suffix", float
    ),
    Variable("ACTOR_LR_VIT", ("optimizer.learning_rate_vit",), read=float),
    Variable("ACTOR_LR_CONNECTOR", ("optimizer.learning_rate_connector",), read=float),
    Variable("ACTOR_LR_FREEZE", ("optimizer.freeze",), read=_files),
    Variable("WARMUP_STYLE", ("optimizer.schedule",), "constant or cosine", str),
    Variable("LR_WARMUP_STEPS_RATIO", ("optimizer.warmup_steps",), "steps, not a share: ratio × total_steps"),
    Variable("TRAIN_SAVE_FREQ", ("learner.checkpoint_every",), "never → only at the end (0)", _frequency),
    Variable("TRAIN_TEST_FREQ", ("evaluation.every",), "never → only before and after (0)", _frequency),
    Variable("TRAIN_TOTAL_EPOCHS", ("total_steps", "data.epochs"), "total_steps = epochs × rows / prompts_per_step"),
    Variable("TRAIN_SAVE_PATH", note="none: `$TRIUNE_RUNS/<job-id>/checkpoints`"),
    Variable("EVAL_BEFORE_TRAIN", note="none: a held-out set is always evaluated before the first step"),
    Variable("EVAL_DO_SAMPLE", ("evaluation.temperature",), "False: 0, greedy, whatever EVAL_TEMP is"),
    Variable("EVAL_TEMP", ("evaluation.temperature",), "where EVAL_DO_SAMPLE is on"),
    Variable("EVAL_TOPP", note="none: held-out answers are greedy, or of the whole softmax"),
    Variable("ACTOR_PPO_MAX_TOKEN_LEN_PER_GPU", ("learner.tokens_per_batch",), "never changes the loss", int),
    Variable("ACTOR_PPO_MICRO_BSZ", note="none: micro-batches are packed by `learner.tokens_per_batch`"),
    Variable("LOG_P_MICRO_BSZ", note="none: old log-probs are packed by `learner.tokens_per_batch`, too"),
    Variable(
        "ACTOR_USE_KL_LOSS", ("algorithm.kl_coefficient",), "False: 0 (so the paper; the script's own default is True)"
    ),
    Variable("ACTOR_KL_LOSS_COEFF", ("algorithm.kl_coefficient",), "where ACTOR_USE_KL_LOSS is on"),
    Variable(
        "ACTOR_KL_LOSS_TYPE",
        ("algorithm.kl_estimator",),
        "kl → k1, mse → k2, low_var_kl → k3; abs is refused",
        _estimator,
    ),
    Variable(
        "ALGO_KL_COEF", note="none: the script never counts a divergence in the reward; here `algorithm.kl_in` can"
    ),
    Variable("ACTOR_ENTROPY_COEFF", ("algorithm.entropy_coefficient",), read=float),
    Variable(
        "ACTOR_LOSS_AGG_MODE",
        ("algorithm.aggregation",),
        "token-mean → token_mean, seq-mean-token-mean → sequence_mean; there it never reaches the policy loss",
        _aggregation,
    ),
    Variable("ACTOR_USE_LIGER", note="none: the head is always computed in chunks"),
    Variable(
        "ACTOR_FSDP_PARAM_OFFLOAD",
        note="none by itself: `learner.offload_parameters`, with `learner.engine` deepspeed at `learner.zero_stage` 3",
    ),
    Variable(
        "ACTOR_FSDP_OMT_OFFLOAD",
        ("learner.optimizer_state",),
        'True: "cpu"',
        lambda text: "cpu" if _switch(text) else "float32",
    ),
    Variable("NUM_NODES", note="none: replicas are started, not configured"),
    Variable("GPUS_PER_NODE", note="none: replicas are started, not configured"),
    Variable("ROLLOUT_TP_SIZE", ("rollout.tensor_parallel",), read=int),
    Variable(
        "ROLLOUT_MAX_GPU_MEM",
        ("rollout.memory_share",),
        "there the trainer lives on the same card; here 0.85 by default",
        float,
    ),
    Variable("ROLLOUT_MAX_NUM_BATCHED_TOKENS", note="none: the engine admits by its own room"),
    Variable("ROLLOUT_CHUNKED_PREFILL", note="none: the engine's own choice"),
    Variable("ROLLOUT_FREE_CACHE_ENFORCE_EAGER", note="none: the engine's own choice"),
    Variable("ROLLOUT_SWAP_SPACE", note="none: the engine's own choice"),
    Variable("ROLLOUT_IMAGE_LIMIT", note="none: a prompt has as many images as its row"),
    Variable("ROLLOUT_VIDEO_LIMIT", note="none: images alone"),
    Variable(
        "REMOTE_REWARD_JOB_ID",
        note="none: replicas take work from the bus; the HTTP server announces itself under `JOB_ID`",
    ),
    Variable("WANDB_API_KEY", note='none: it stays in the environment; `monitor.sinks = ["wandb"]` uses it'),
)

BY_NAME = {variable.name: variable for variable in VARIABLES}


@dataclass(frozen=True)
class Imported:
    """A job file's document, and one sentence for each variable that did not go into it as it is."""

    document: dict[str, Any]
    notes: list[str]


def read_script(path: Path) -> dict[str, str]:
    """The variables that a shell script or an .env file sets, without running it; raises UserError.

    `${NAME:-default}` counts as its default; a reference to another variable of the file as that one's value.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    found: dict[str, str] = {}
    for line in lines:
        match = re.match(r"^\s*(?:export\s+)?([A-Z][A-Z0-9_]*)=(.*)$", line)
        if match:
            found[match[1]] = _expanded(match[2], found)
    return found


def _expanded(text: str, known: Mapping[str, str]) -> str:
    try:
        words = shlex.split(text, comments=True)
    except ValueError:
        words = [text]
    value = words[0] if words else ""
    value = re.sub(r"\$\{(\w+):?-([^}]*)\}", lambda match: match[2], value)
    return re.sub(r"\$\{?(\w+)\}?", lambda match: known.get(match[1], ""), value)


def translate(values: Mapping[str, str]) -> Imported:
    """The job that V-Triune's variables describe; raises BadJob with every value that cannot be read."""
    document: dict[str, Any] = {}
    notes: list[str] = []
    mistakes: list[str] = []
    for variable in VARIABLES:
        text = values.get(variable.name)
        if text is None or text == "":
            continue
        if not variable.keys:
            notes.append(f"{variable.name}={text}: {variable.note}")
        elif variable.read is not None:
            try:
                _put(document, variable.keys[0], variable.read(text))
            except ValueError as error:
                mistakes.append(f"{variable.name} is {text!r}: {error}")
    if not mistakes:
        _derive(values, document, notes, mistakes)
    if mistakes:
        raise BadJob(mistakes)
    notes += [f"{name}: not a variable of V-Triune" for name in values if name not in BY_NAME and name == name.upper()]
    return Imported(document, notes)


def _put(document: dict[str, Any], key: str, value: Any) -> None:
    *tables, name = key.split(".")
    for table in tables:
        document = document.setdefault(table, {})
    document[name] = value


def _derive(values: Mapping[str, str], document: dict[str, Any], notes: list[str], mistakes: list[str]) -> None:
    """The keys that follow from several variables."""
    batch = document.get("algorithm", {}).get("prompts_per_step", BATCH)
    update = _number(values, "ACTOR_PPO_GLOBAL_BSZ", int, batch, mistakes)
    epochs = _number(values, "TRAIN_TOTAL_EPOCHS", int, 1, mistakes)
    ratio = _number(values, "LR_WARMUP_STEPS_RATIO", float, 0.0, mistakes)
    _put_if(values, "ACTOR_USE_KL_LOSS", "ACTOR_KL_LOSS_COEFF", "algorithm.kl_coefficient", document, mistakes)
    _put_if(values, "EVAL_DO_SAMPLE", "EVAL_TEMP", "evaluation.temperature", document, mistakes)
    if mistakes:
        return
    if update <= 0 or batch % update:
        mistakes.append(f"ACTOR_PPO_GLOBAL_BSZ is {update}; expected a divisor of DATA_TRAIN_BATCH_SIZE, {batch}")
        return
    _put(document, "algorithm.updates_per_step", batch // update)
    _put(document, "data.epochs", max(epochs, 1))
    steps = _total_steps(document, max(epochs, 1), batch, notes)
    if steps is not None:
        document["total_steps"] = steps
        _put(document, "optimizer.warmup_steps", round(ratio * steps))


def _put_if(
    values: Mapping[str, str], switch: str, name: str, key: str, document: dict[str, Any], mistakes: list[str]
) -> None:
    """The number `name` as `key` where `switch` is on, else 0; nothing where neither is set."""
    if values.get(switch) or values.get(name):
        number = _number(values, name, float, 0.0, mistakes)
        _put(document, key, number if _switch(values.get(switch, "False")) else 0.0)


def _number(values: Mapping[str, str], name: str, kind: Callable[[str], Any], default: Any, mistakes: list[str]) -> Any:
    try:
        return kind(values[name]) if values.get(name) else default
    except ValueError:
        mistakes.append(f"{name} is {values[name]!r}; expected a number")
        return default


def _total_steps(document: dict[str, Any], epochs: int, batch: int, notes: list[str]) -> int | None:
    """epochs × rows / prompts of a step, where the files can be read here; else a note, and no key."""
    files, problems = inspect_files(document.get("data", {}).get("train", []))
    reason = "the training files cannot be read here"
    if files and not problems:
        try:
            return max(epochs * sum(count_rows(files).values()) // batch, 1)
        except BadData as error:
            reason = str(error)
    notes.append(f"total_steps is missing: set it to epochs × rows / prompts_per_step; {reason}")
    return None


def write_job(imported: Imported) -> str:
    """The job file as TOML, its notes above it as comments; keys are checked where the job is complete."""
    if "total_steps" in imported.document:
        parse_job(imported.document)
    comments = "".join(f"# {note}\n" for note in imported.notes)
    return comments + msgspec.toml.encode(imported.document).decode()
