"""A realistic mix of samples, all distinct: three quarters mathverify, one quarter detection; a step at a time."""

import json
import random
from typing import Any

_THOUGHT = (
    "I look at the picture first",
    "then I read the labels on both axes",
    "the question asks for one value only",
    "so I compare the two bars",
    "that leaves the part on the right",
    "and I check the result once more",
)
STEP = 1024
"""Completions of a training step: 128 prompts, eight of each."""
_LABELS = ("dog", "cat", "person", "traffic light", "bicycle")
_RATIOS = {"iou_max_label_first": 1.0, "iou_max_iou_first": 0.0, "iou_completeness": 0.3}
_RATIOS |= {"map": 0.0, "map50": 0.0, "map75": 0.0}


def samples(count: int, *, detection: float = 0.25, seed: int = 0, mixed: bool = True) -> list[dict[str, Any]]:
    """`count` distinct samples in the form of `/v1/score`, eight of each ground truth as in a group of a rollout.

    A share `detection` of the groups is detection. The order is mixed within each training step, or groups stay
    whole, as the bus hands them to replicas.
    """
    draw = random.Random(seed)
    made: list[dict[str, Any]] = []
    while len(made) < count:
        made += _detection(draw, len(made)) if draw.random() < detection else _math(draw, len(made))
    steps = [made[start : start + STEP] for start in range(0, count, STEP)]
    for step in steps if mixed else ():
        draw.shuffle(step)
    return [sample for step in steps for sample in step][:count]


def judge_body(sample: dict[str, Any]) -> dict[str, Any]:
    """The same sample as a body of `/judge`."""
    parm = {"is_training": True, "step": sample["step"], "total_steps": sample["total_steps"], **sample["params"]}
    return {
        "response": sample["completion"],
        "prompt": "",
        "answer": "",
        "solution": sample["ground_truth"],
        "data_source": "bench",
        "reward_verifier": sample["verifier"],
        "reward_verifier_parm": json.dumps(parm),
        "accuracy_ratio": sample["accuracy_ratio"],
        "format_ratio": sample["format_ratio"],
    }


def _sample(verifier: str, completion: str, truth: str, params: dict[str, Any], weight: float) -> dict[str, Any]:
    return {
        "verifier": verifier,
        "completion": completion,
        "ground_truth": truth,
        "params": params,
        "accuracy_ratio": 1.0,
        "format_ratio": weight,
        "step": 30,
        "total_steps": 100,
    }


def _thought(draw: random.Random, number: int) -> str:
    return f"{number}: " + ", ".join(draw.choices(_THOUGHT, k=draw.randint(4, 40)))


def _math(draw: random.Random, number: int) -> list[dict[str, Any]]:
    """Mostly whole numbers, as counting, chart and puzzle rows have; decimals, fractions, words and algebra as well."""
    answer = draw.choices(
        [
            lambda: str(draw.randint(0, 2000)),
            lambda: f"{draw.randint(0, 20000) / 100}",
            lambda: f"\\frac{{{draw.randint(1, 40)}}}{{{draw.randint(2, 60)}}}",
            lambda: f"{draw.randint(2, 60)}x+{draw.randint(2, 60)}",
            lambda: f"{draw.randint(2, 60)}\\sqrt{{{draw.randint(2, 60)}}}",
            lambda: f"{draw.randint(1, 500)}\\text{{ cm}}",
            lambda: "".join(draw.choices("abcdefghiklmnoprstuw", k=draw.randint(3, 8))),
        ],
        weights=[50, 10, 10, 5, 5, 10, 10],
    )[0]
    truth = answer()
    made = []
    for place in range(8):
        given = truth if draw.random() < 0.4 else answer()
        text = f"<think>\n{_thought(draw, number + place)}\n</think>\n<answer>\n\\boxed{{{given}}}\n</answer>"
        made.append(_sample("mathverify", text, f"\\boxed{{{truth}}}", {}, 0.0))
    return made


def _detection(draw: random.Random, number: int) -> list[dict[str, Any]]:
    truths = [_box(draw) for _ in range(draw.randint(1, 6))]
    truth = f"<answer>\n{_list(truths)}\n</answer>"
    params = {"det_verifier_normalized": True, "det_reward_ratio": _RATIOS, "image_grid_thw": [[1, 1000, 1000]]}
    made = []
    for place in range(8):
        found = [_moved(draw, box) for box in truths if draw.random() < 0.9]
        found += [_box(draw) for _ in range(draw.randint(0, 1))]
        text = f"<think>\n{_thought(draw, number + place)}\n</think>\n<answer>\n{_list(found)}\n</answer>"
        made.append(_sample("detection", text, truth, params, 0.1))
    return made


def _list(boxes: list[tuple[list[int], str]]) -> str:
    return str([{"bbox_2d": box, "label": label} for box, label in boxes])


def _box(draw: random.Random) -> tuple[list[int], str]:
    x, y = draw.randint(0, 700), draw.randint(0, 700)
    return [x, y, x + draw.randint(20, 300), y + draw.randint(20, 300)], draw.choice(_LABELS)


def _moved(draw: random.Random, item: tuple[list[int], str]) -> tuple[list[int], str]:
    box, label = item
    shift = draw.choice((0, 1, 3, 10, 40))
    return [box[0] + shift, box[1], box[2] + shift, box[3]], label
