"""The forms in which a right answer may be written, drawn for property tests."""

import json

from hypothesis import strategies as st

WRAPPERS = (
    "<think>\nI look.\n</think>\n<answer>\n§\n</answer>",
    "<think>\nmaybe \\boxed{17771}\n</think>\n<answer>\n§\n</answer>",
    "<answer>§</answer>",
    "first <answer>17771</answer>, no: <answer>\n§\n</answer>",
    "<think>\nI look.\n</think>\n<answer>\n§",
)
"""Texts around an answer, which stands at §. 17771 is never right."""
BOXED = (*WRAPPERS, "so it is \\boxed{§}", "\\boxed{17771}\nNo. Recheck: \\boxed {§}", "\\fbox{§}")
"""The same for an answer that may stand in a box alone."""
SPOKEN = (
    "I look.\n\n**Answer:** §", "**Final Answer**: §", "### Final Answer\n\n§", "The answer is:\n\n**§**", "#### §",
    "§", "<think>\nmaybe 17771\n</think>\n\n§", "<think>\nthe answer is 17771\n</think>\n**§**", "<answer>§<answer>",
    "<answer>§</answer>\n</answer>", "<answer>17771</answer> no: <answer>§", "因此，正确答案是：§",
    "<answer>\nAnswer: §\n</answer>",
)  # fmt: skip
"""The same for an answer of one line."""
DRESS = (
    "§", "**§**", "$ § $", "\\(§\\)", "\\text{§}", "\\mathrm{§}", "\\textbf{§}", "`§`", "\\boxed{§}",
    "\\boxed{\\text{§}}", "$\\boxed{§}$", "```\n§\n```", "§.", "  §  ", "\\boxed{ § }", "\u201c§\u201d", '"§"',
)  # fmt: skip


def enclosed() -> st.SearchStrategy[str]:
    """A whole completion with § in place of a short answer, in a block or a box."""
    dressed = st.tuples(st.sampled_from(WRAPPERS), st.sampled_from(DRESS)).map(lambda two: two[0].replace("§", two[1]))
    return dressed | st.sampled_from(BOXED)


def frames() -> st.SearchStrategy[str]:
    """The same, or without either, of an answer of one line."""
    return enclosed() | st.sampled_from(SPOKEN)


def fullwidth(text: str) -> str:
    return "".join(chr(ord(sign) + 0xFEE0) if "!" <= sign <= "~" else sign for sign in text)


@st.composite
def number_forms(draw: st.DrawFn, value: int) -> str:
    """`value` in one of the forms of `shared.answers.numbers`."""
    size = abs(value)
    sign = "-" if value < 0 else ""
    grouped = f"{size:,}"
    after = (
        *(
            "",
            ".0",
            ".",
            " cm",
            "~\\mathrm{cm}",
            " square meters",
            " cm^2",
            "\\%",
            " percent",
            "^\\circ",
            "^{\\circ}",
            "°",
        ),
        *(" people", "个", " \\times 10^{0}", "e0"),
    )
    before = ("", "$", "x = ", "about ", "the answer is ")
    forms = [f"{sign}{size}{unit}" for unit in after]
    forms += [f"{word}{sign}{size}" for word in before]
    forms += [sign + grouped.replace(",", mark) for mark in (",", "{,}", "\\,", "\u202f")]
    forms += [
        f"{sign}{grouped}.00",
        fullwidth(f"{sign}{size}"),
        f"{sign}{2 * size}/2",
        f"{sign}\\frac{{{3 * size}}}{{3}}",
    ]
    forms += [f"\u2212{size}"] if value < 0 else []
    if size % 1000 == 0 and size:
        forms += [f"{sign}{size // 1000} thousand", f"{sign}{size // 1000}k", f"{sign}{size / 10**6:.6f} million"]
    return draw(st.sampled_from(forms))


@st.composite
def letter_forms(draw: st.DrawFn, letter: str) -> str:
    """`letter` in one of the forms of `shared.answers.letters`."""
    text = draw(st.sampled_from(["the red one", "12", "not a cat", "12 cm", "一只猫"]))
    forms = (
        *("{0}", "({0})", "{0}.", "{0})", "[{0}]", "{0}: {1}", "{0} - {1}", "{0}. {1}", "({0}) {1}", "{0}, {1}"),
        *("Answer: {0}", "Answer: ({0})", "Option {0}", "the correct option is ({0})", "The answer is {0}."),
        *("I choose {0}", "{0} is correct", "Option {0} is correct", "\\textbf{{({0})}}\\ {1}", "\\text{{{0} - {1}}}"),
        *("{0}。", "选{0}", "答案是{0}", "（{0}）", "【{0}】", "{0}、{1}"),
    )
    said = draw(st.sampled_from(forms)).format(letter, text)
    return fullwidth(said) if draw(st.booleans()) and "\\" not in said else said


def _python(items: list[dict[str, object]]) -> str:
    """As models write Python: single quotes, also around labels with an apostrophe."""
    return (
        "[" + ", ".join("{" + f"'bbox_2d': {item['bbox_2d']}, 'label': '{item['label']}'" + "}" for item in items) + "]"
    )


_LISTS = (
    json.dumps,
    _python,
    lambda items: json.dumps(items, indent=2),
    lambda items: f"```json\n{json.dumps(items)}\n```",
    lambda items: f"```json\n{json.dumps(items)}",
    lambda items: f"Here they are: {json.dumps(items)}\nI am sure.",
    lambda items: json.dumps(items)[:-1] + ",]",
    lambda items: json.dumps({"objects": items}),
    lambda items: "\n".join(map(json.dumps, items)),
    lambda items: json.dumps(items)[:-1],
    lambda items: json.dumps(items).replace('"', "\u201d"),
    lambda items: json.dumps(items).replace("bbox_2d", "bbox"),
    lambda items: json.dumps(items).replace('"bbox_2d"', "bbox_2d").replace('"label"', "label"),
    lambda items: json.dumps([{**item, "bbox_2d": [str(side) for side in item["bbox_2d"]]} for item in items]),
    lambda items: json.dumps([{**item, "bbox_2d": [float(side) for side in item["bbox_2d"]]} for item in items]),
    lambda items: json.dumps([{**item, "label": f" {str(item['label']).title()} "} for item in items]),
    lambda items: f"\\boxed{{{json.dumps(items)}}}",
)

_LABELS = st.sampled_from(["cat", "traffic light", "the man's cat", "dog's toy", "苹果"])


@st.composite
def boxes(draw: st.DrawFn, most: int = 4) -> list[dict[str, object]]:
    """Labelled boxes at different places."""
    count = draw(st.integers(1, most))
    made: list[dict[str, object]] = []
    for place in range(count):
        x, y = draw(st.integers(0, 90)) + 100 * place, draw(st.integers(0, 800))
        width, height = draw(st.integers(5, 99)), draw(st.integers(5, 150))
        made.append({"bbox_2d": [x, y, x + width, y + height], "label": draw(_LABELS)})
    return made


@st.composite
def box_forms(draw: st.DrawFn, items: list[dict[str, object]]) -> str:
    """The list in one of the forms of `shared.answers.boxes`, in a completion."""
    body = draw(st.sampled_from(_LISTS))(items)
    return draw(st.sampled_from(WRAPPERS)).replace("§", body)


@st.composite
def word_forms(draw: st.DrawFn, text: str) -> str:
    """A text in another case, with other white space, or full-width."""
    said = draw(st.sampled_from([str.upper, str.lower, str.title, fullwidth, lambda same: same]))(text)
    return said.replace(" ", draw(st.sampled_from([" ", "  ", "\u00a0", "\n"])))
