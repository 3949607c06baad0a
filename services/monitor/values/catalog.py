"""Every series by name: unit, meaning, the section of the page it belongs to, and V-Triune's own name for it.

A name that ends in `/*` stands for a family: `part/*` are a verifier's metrics, `void/*` the reasons, and so on. The
page, the gauges, the dashboard and the sinks are made from this table; `docs/metrics.md` shows it.

V-Triune's names are of MiniMax-AI/One-RL-to-See-Them-All at 39bcf0d (its trainer's metrics); `{of}` is where
the source goes, `{rest}` the member of a family.
"""

from dataclasses import dataclass
from typing import Final

from services.monitor.values.where import Where


@dataclass(frozen=True)
class SeriesInfo:
    """What a series is. `v_triune` is a template; empty where V-Triune has nothing of the kind."""

    name: str
    unit: str
    description: str
    section: str
    v_triune: str = ""


CATALOG: Final = (
    SeriesInfo("reward", "1", "mean final reward of judged completions", "reward", "rews{of}_final_reward"),
    SeriesInfo("accuracy", "1", "mean accuracy reward", "reward", "rews{of}_accuracy_reward"),
    SeriesInfo("format", "1", "mean format reward", "reward", "rews{of}_format_reward"),
    SeriesInfo("correct", "1", "share of correct completions (docs/metrics.md says what correct means)", "reward"),
    SeriesInfo("part/*", "1", "mean of one of the verifier's own metrics", "parts", "rews{of}_{rest}_reward"),
    SeriesInfo("reward_std", "1", "mean deviation of the rewards within a group", "spread"),
    SeriesInfo("zero_variance", "1", "share of groups whose rewards are all equal: no gradient", "spread"),
    SeriesInfo("format_only", "1", "share of groups whose rewards differ although accuracy does not", "spread"),
    SeriesInfo("component/*", "1", "share of the variance of rewards within groups that is one part's", "spread"),
    SeriesInfo("answers_alike", "1", "share of pairs of completions of different prompts with equal answers", "spread"),
    SeriesInfo("truths_alike", "1", "share of pairs of prompts with equal ground truths", "spread"),
    SeriesInfo("audit/accuracy", "1", "mean accuracy by the independent verifier, of audited completions", "reward"),
    SeriesInfo("audit/gap", "1", "mean of accuracy − independent accuracy, of audited completions", "reward"),
    SeriesInfo("response_length", "{token}", "mean length of completions", "length", "response_length{of}/mean_length"),
    SeriesInfo(
        "response_length_correct",
        "{token}",
        "mean length of correct completions",
        "length",
        "response_length{of}/mean_correct_length",
    ),
    SeriesInfo(
        "response_length_wrong",
        "{token}",
        "mean length of wrong completions",
        "length",
        "response_length{of}/mean_wrong_length",
    ),
    SeriesInfo(
        "truncation", "1", "share of completions cut at the limit", "length", "response_length{of}/length_clip_ratio"
    ),
    SeriesInfo(
        "truncation_correct",
        "1",
        "share of correct completions cut at the limit",
        "length",
        "response_length{of}/length_correct_clip_ratio",
    ),
    SeriesInfo(
        "truncation_wrong",
        "1",
        "share of wrong completions cut at the limit",
        "length",
        "response_length{of}/length_wrong_clip_ratio",
    ),
    SeriesInfo(
        "prompt_length", "{token}", "mean prompt length, image tokens included", "length", "prompt_length{of}/mean"
    ),
    SeriesInfo(
        "reflection",
        "1",
        "share of completions with a reflection word",
        "reflection",
        "reflection_ratios{of}/reflection_ratio",
    ),
    SeriesInfo(
        "reflection_correct",
        "1",
        "share of correct completions with a reflection word",
        "reflection",
        "reflection_ratios{of}/reflection_ratio_in_correct_answers",
    ),
    SeriesInfo(
        "reflection_wrong",
        "1",
        "share of wrong completions with a reflection word",
        "reflection",
        "reflection_ratios{of}/reflection_ratio_in_incorrect_answers",
    ),
    SeriesInfo(
        "correct_with_reflection",
        "1",
        "share of correct ones among completions with a reflection word",
        "reflection",
        "reflection_ratios{of}/correct_ratio_in_reflection_texts",
    ),
    SeriesInfo(
        "correct_without_reflection",
        "1",
        "share of correct ones among completions without a reflection word",
        "reflection",
        "reflection_ratios{of}/correct_ratio_in_no_reflection_texts",
    ),
    SeriesInfo(
        "reflection_words/*", "{word}", "occurrences of one word in a step", "reflection", "reflection_words{of}/{rest}"
    ),
    SeriesInfo("staleness", "{version}", "mean staleness of trained groups", "staleness"),
    SeriesInfo("staleness_max", "{version}", "largest staleness of a trained group", "staleness"),
    SeriesInfo("staleness_in_queue", "{version}", "mean age of scored groups that wait for their step", "queues"),
    SeriesInfo("staleness_in_flight", "{version}", "mean lag of the versions that generate now", "queues"),
    SeriesInfo("groups", "{group}", "groups that the step trained on", "groups"),
    SeriesInfo("void", "{group}", "void groups that the step passed over", "groups"),
    SeriesInfo("void/*", "{group}", "void groups of one reason", "groups"),
    SeriesInfo("error_rate", "1", "share of completions whose verifier failed", "groups"),
    SeriesInfo(
        "wait/queue", "s", "from published to being generated; on-policy with the update that it waits for", "waits"
    ),
    SeriesInfo("wait/generate", "s", "generation of a group", "waits"),
    SeriesInfo("wait/transit", "s", "from generated to taken by a reward replica", "waits"),
    SeriesInfo("wait/score", "s", "scoring of a group", "waits"),
    SeriesInfo("learner/loss", "1", "policy loss", "learner", "actor/pg_loss"),
    SeriesInfo("learner/entropy", "nat", "mean entropy of the policy", "learner", "actor/entropy"),
    SeriesInfo("learner/ppo_kl", "nat", "mean log-ratio of old and new policy", "learner", "actor/ppo_kl"),
    SeriesInfo("learner/clip_high", "1", "share of tokens at the upper clip", "learner", "actor/pg_clipfrac"),
    SeriesInfo("learner/clip_low", "1", "share of tokens at the lower clip", "learner"),
    SeriesInfo("learner/clip_dual", "1", "share of tokens at the dual clip", "learner", "actor/pg_clipfrac_lower"),
    SeriesInfo("learner/importance_weight", "1", "mean correction weight of a token", "learner"),
    SeriesInfo("learner/corrected_out", "1", "share of tokens whose correction weight is 0", "learner"),
    SeriesInfo("learner/reference_kl", "nat", "mean divergence from the first weights", "learner", "actor/kl_loss"),
    SeriesInfo("learner/teacher_kl", "nat", "mean log-ratio to the teacher, of tokens that it knows", "learner"),
    SeriesInfo("learner/teacher_known", "1", "share of tokens that the teacher has a log-prob of", "learner"),
    SeriesInfo("learner/mismatch_abs", "nat", "mean |log π learner − log π rollout|", "learner"),
    SeriesInfo("learner/mismatch_k3", "nat", "k3 estimate of KL(rollout ‖ learner)", "learner"),
    SeriesInfo(
        "learner/self_check", "nat", "largest |log π learner − log π plain forward| of the check at load", "learner"
    ),
    SeriesInfo("learner/mismatch_max", "nat", "largest |log π learner − log π rollout|", "learner"),
    SeriesInfo(
        "learner/early_groups", "{group}", "groups trained on while an older one was open (order by arrival)", "learner"
    ),
    SeriesInfo("learner/early_groups/*", "{group}", "those of a source", "learner"),
    SeriesInfo("learner/early_tokens", "{token}", "mean length of the completions of such groups", "learner"),
    SeriesInfo("learner/in_order_tokens", "{token}", "mean length of the completions of the other groups", "learner"),
    SeriesInfo("learner/lr", "1", "learning rate", "learner", "actor/lr"),
    SeriesInfo("learner/lr/*", "1", "learning rate of a component", "learner", "actor/lr_{rest}"),
    SeriesInfo("learner/grad_norm", "1", "global gradient norm before clipping", "gradients", "actor/grad_norm"),
    SeriesInfo("learner/grad_norm/*", "1", "gradient norm of a component", "gradients", "actor/grad_norm_{rest}"),
    SeriesInfo("learner/layer_grad_norm/*", "1", "gradient norm of a layer", "gradients", "layer_grad_norm/{rest}"),
    SeriesInfo("learner/skipped", "{update}", "updates skipped for a norm that is not finite", "learner"),
    SeriesInfo("learner/updates", "{update}", "optimizer updates of the step", "learner"),
    SeriesInfo("learner/tokens", "{token}", "completion tokens trained on", "learner", "perf/total_num_tokens"),
    SeriesInfo("learner/*", "1", "another measure of the learner", "learner", "actor/{rest}"),
    SeriesInfo("timing/*", "s", "a part of the step's time", "waits", "timing_s/{rest}"),
    SeriesInfo("throughput/groups", "{group}/s", "groups trained a second of wall time", "throughput"),
    SeriesInfo("throughput/tokens", "{token}/s", "completion tokens trained a second", "throughput", "perf/throughput"),
    SeriesInfo("weights/bytes", "By", "bytes that were written to publish the version", "weights"),
    SeriesInfo("weights/full_bytes", "By", "bytes of the version's trained tensors", "weights"),
    SeriesInfo("weights/stall", "s", "time that the learner exported the version and computed nothing", "weights"),
    SeriesInfo("weights/publish", "s", "time from the export to the version's last blob", "weights"),
    SeriesInfo("weights/fetched", "By", "bytes that a rollout replica fetched to load the version", "weights"),
    SeriesInfo("weights/load", "s", "time that a rollout replica took to load the version", "weights"),
    SeriesInfo("weights/load_stall", "s", "time of a load for which the replica sampled no token", "weights"),
    SeriesInfo("queue/*", "{message}", "messages of a stream that nobody has acked", "queues"),
    SeriesInfo("in_flight", "{group}", "groups being generated", "queues"),
    SeriesInfo("eval/reward", "1", "held-out greedy reward", "evaluation", "test{of}_final_reward"),
    SeriesInfo("eval/accuracy", "1", "held-out greedy accuracy", "evaluation", "test{of}_accuracy_reward"),
    SeriesInfo("eval/format", "1", "held-out greedy format reward", "evaluation", "test{of}_format_reward"),
    SeriesInfo("eval/part/*", "1", "held-out mean of a verifier's metric", "evaluation", "test{of}_{rest}_reward"),
    SeriesInfo("eval/*", "1", "held-out value of the series of that name", "evaluation"),
)
_BY_NAME = {info.name: info for info in CATALOG if not info.name.endswith("/*")}
_FAMILIES = sorted((info for info in CATALOG if info.name.endswith("/*")), key=lambda info: -len(info.name))


def is_known(name: str) -> bool:
    """Whether a series can have that name; a family (`part/*`) can be named as a whole."""
    return name in _BY_NAME or any(name.startswith(info.name[:-1]) for info in _FAMILIES)


def describe(name: str) -> SeriesInfo:
    """The entry of a series: its own, or its family's."""
    if name in _BY_NAME:
        return _BY_NAME[name]
    for info in _FAMILIES:
        if name.startswith(info.name[:-1]):
            return info
    return SeriesInfo(name, "1", "", "other")


def v_triune_name(name: str, where: Where) -> str:
    """V-Triune's name of a series of one set; our own, with the set's name behind it, where it has none.

    V-Triune writes `rews_final_reward/<source>` but `response_length_<source>/mean_length`: a template that starts with
    `rews` or `test` has the source behind the slash, any other one behind its first word.
    """
    info, of = describe(name), where.source or where.task
    if not info.v_triune:
        return f"{name}/{of}" if of else name
    rest = name.removeprefix(info.name[:-1]) if info.name.endswith("/*") else ""
    if info.v_triune.startswith(("rews", "test")):
        plain = info.v_triune.format(of="", rest=rest)
        return f"{plain}/{of}" if of else plain.replace("_", "/", 1)
    return info.v_triune.format(of=f"_{of}" if of else "", rest=rest)
