"""What a job file must say between its keys.

A rule names the keys that it reads: where one of them has a mistake of its own, the rule has nothing to say, and every
other one still has. So a job file with mistakes of all kinds is told all of them at once.
"""

import re
from collections.abc import Callable, Iterable, Iterator

from shared.jobs.spec import JobSpec, Learner
from shared.messages import SOURCE_PATTERN, source_name

Rule = Callable[[JobSpec], Iterator[str]]
_RULES: list[tuple[tuple[str, ...], Rule]] = []


def contradictions(spec: JobSpec, wrong: Iterable[str] = ()) -> list[str]:
    """One sentence a mistake between keys; rules that read one of the `wrong` keys are left out."""
    wrong = list(wrong)
    return [
        sentence for keys, rule in _RULES if not any(touches(key, wrong) for key in keys) for sentence in rule(spec)
    ]


def touch(key: str, other: str) -> bool:
    """Whether the keys are one, or one is a table that holds the other."""
    return key == other or key.startswith(f"{other}.") or other.startswith(f"{key}.")


def touches(key: str, others: Iterable[str]) -> bool:
    """Whether `key` touches any of `others`."""
    return any(touch(key, other) for other in others)


def learner_contradictions(learner: Learner) -> list[str]:
    """Mistakes that only show between the learner's keys."""
    found = []
    if learner.engine == "deepspeed" and learner.optimizer_state == "8bit":
        found.append("learner.optimizer_state is '8bit', which ZeRO cannot share out; expected 'float32' or 'cpu'")
    if learner.offload_parameters and (learner.engine != "deepspeed" or learner.zero_stage != 3):
        found.append(
            f"learner.offload_parameters is true with engine {learner.engine!r} and zero_stage {learner.zero_stage}; "
            "expected 'deepspeed' and 3, where parameters are shared out"
        )
    return found


def _reads(*keys: str) -> Callable[[Rule], Rule]:
    """Register a rule with the keys that it reads."""

    def register(rule: Rule) -> Rule:
        _RULES.append((keys, rule))
        return rule

    return register


@_reads("sources")
def _sources(spec: JobSpec) -> Iterator[str]:
    for name, source in spec.sources.items():
        if not re.match(SOURCE_PATTERN, name):
            yield (
                f"sources.{name}: a source name has only small letters, digits, - and _; "
                f"it is called {source_name(name)} here"
            )
        steps = [step for step, _ in source.schedule]
        if steps != sorted(set(steps)):
            yield f"sources.{name}.schedule has steps {steps}; expected rising ones"


@_reads("evaluation.samples_per_prompt", "evaluation.temperature")
def _evaluation(spec: JobSpec) -> Iterator[str]:
    if spec.evaluation.samples_per_prompt > 1 and spec.evaluation.temperature == 0:
        yield (
            f"evaluation.samples_per_prompt is {spec.evaluation.samples_per_prompt} at temperature 0, where all are "
            "equal; expected a temperature above 0"
        )


@_reads("algorithm.kl_coefficient", "algorithm.kl_estimator", "algorithm.kl_in")
def _divergence(spec: JobSpec) -> Iterator[str]:
    algorithm = spec.algorithm
    if algorithm.kl_coefficient and (algorithm.kl_estimator, algorithm.kl_in) == ("k1", "loss"):
        yield 'algorithm.kl_estimator is "k1", whose gradient in the loss has mean 0; expected kl_in = "reward"'


@_reads("algorithm.pass_k", "algorithm.samples_per_prompt", "algorithm.advantage")
def _pass_k(spec: JobSpec) -> Iterator[str]:
    algorithm = spec.algorithm
    if algorithm.pass_k > algorithm.samples_per_prompt and algorithm.advantage == "pass_at_k":
        yield (
            f"algorithm.pass_k is {algorithm.pass_k}, more than the {algorithm.samples_per_prompt} completions of a "
            "prompt (samples_per_prompt)"
        )


@_reads("algorithm.importance_floor", "algorithm.importance_cap")
def _importance(spec: JobSpec) -> Iterator[str]:
    algorithm = spec.algorithm
    if algorithm.importance_floor > algorithm.importance_cap:
        yield (
            f"algorithm.importance_floor is {algorithm.importance_floor:g}, above importance_cap "
            f"{algorithm.importance_cap:g}"
        )


@_reads("algorithm.samples_per_prompt")
def _groups(spec: JobSpec) -> Iterator[str]:
    if spec.algorithm.samples_per_prompt < 2:
        yield (
            f"algorithm.samples_per_prompt is {spec.algorithm.samples_per_prompt}; a group needs at least 2 "
            "completions to have an advantage"
        )


@_reads("algorithm.updates_per_step", "algorithm.prompts_per_step")
def _updates(spec: JobSpec) -> Iterator[str]:
    algorithm = spec.algorithm
    if algorithm.updates_per_step > algorithm.prompts_per_step:
        yield (
            f"algorithm.updates_per_step is {algorithm.updates_per_step}, more than the "
            f"{algorithm.prompts_per_step} groups of a step (prompts_per_step)"
        )


@_reads("reward.iou_schedule")
def _iou_schedule(spec: JobSpec) -> Iterator[str]:
    bounds = [bound for bound, _ in spec.reward.iou_schedule]
    if bounds != sorted(bounds) or not bounds or bounds[-1] < 1.0:
        yield f"reward.iou_schedule has bounds {bounds}; expected rising ones that end at 1.0"


@_reads("learner.engine", "learner.optimizer_state", "learner.offload_parameters", "learner.zero_stage")
def _learner(spec: JobSpec) -> Iterator[str]:
    yield from learner_contradictions(spec.learner)


@_reads("rollout.shares_device", "algorithm.max_staleness", "learner.engine", "rollout.tensor_parallel")
def _shared_device(spec: JobSpec) -> Iterator[str]:
    if not spec.rollout.shares_device:
        return
    if spec.algorithm.max_staleness > 0:
        yield (
            f"rollout.shares_device is true with algorithm.max_staleness {spec.algorithm.max_staleness}: one device "
            "cannot generate while it trains; expected 0"
        )
    if spec.learner.engine != "torch":
        yield f"rollout.shares_device is true with learner.engine {spec.learner.engine!r}; expected 'torch'"
    if spec.rollout.tensor_parallel > 1:
        yield f"rollout.shares_device is true with rollout.tensor_parallel {spec.rollout.tensor_parallel}; expected 1"


def not_overlapping(spec: JobSpec) -> list[str]:
    """The keys whose values need a step's groups together, with what they are and what was expected."""
    algorithm = spec.algorithm
    found = []
    if spec.rollout.shares_device:
        found.append("rollout.shares_device true: one device cannot generate while it trains; expected false")
    if algorithm.updates_per_step > 1:
        found.append(f"algorithm.updates_per_step {algorithm.updates_per_step}; expected 1")
    if algorithm.advantage == "reinforce_baseline":
        found.append("algorithm.advantage 'reinforce_baseline', which is scaled over the step; expected another one")
    if algorithm.order == "arrival":
        found.append("algorithm.order 'arrival', which settles last what makes a step; expected 'seeded'")
    return found


@_reads(
    "learner.overlap",
    "rollout.shares_device",
    "algorithm.updates_per_step",
    "algorithm.advantage",
    "algorithm.order",
)
def _overlap(spec: JobSpec) -> Iterator[str]:
    if spec.learner.overlap == "on":
        yield from (f"learner.overlap is 'on' with {why}" for why in not_overlapping(spec))


@_reads("sampling.top_p", "algorithm.importance")
def _nucleus(spec: JobSpec) -> Iterator[str]:
    importance = spec.algorithm.importance
    if spec.sampling.top_p < 1 and importance != "off":
        yield (
            f"sampling.top_p is {spec.sampling.top_p} and algorithm.importance {importance!r}: a nucleus "
            "changes the distribution that importance weights divide by; expected top_p = 1 or importance = 'off'"
        )


@_reads("sampling.temperature", "distillation.model")
def _teacher(spec: JobSpec) -> Iterator[str]:
    if spec.distillation.model and spec.sampling.temperature != 1:
        yield (
            f"sampling.temperature is {spec.sampling.temperature:g} with distillation.model: a teacher's log-probs are "
            "at temperature 1; expected 1"
        )


@_reads("optimizer.warmup_steps", "total_steps")
def _warmup(spec: JobSpec) -> Iterator[str]:
    if spec.optimizer.warmup_steps > spec.total_steps:
        yield f"optimizer.warmup_steps is {spec.optimizer.warmup_steps}, more than total_steps, {spec.total_steps}"


@_reads("data.min_image_pixels", "data.max_image_pixels")
def _image_sizes(spec: JobSpec) -> Iterator[str]:
    if spec.data.min_image_pixels > spec.data.max_image_pixels:
        yield (
            f"data.min_image_pixels is {spec.data.min_image_pixels}, more than data.max_image_pixels, "
            f"{spec.data.max_image_pixels}"
        )


@_reads("optimizer.freeze")
def _freeze(spec: JobSpec) -> Iterator[str]:
    if set(spec.optimizer.freeze) == {"vit", "connector", "llm"}:
        yield "optimizer.freeze names every component; at least one must be trained"
