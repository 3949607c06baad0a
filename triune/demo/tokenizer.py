"""A byte-level BPE tokenizer of some 500 tokens, with the turn marks and placeholders of Qwen2.5-VL.

It encodes any UTF-8 text (bytes are its alphabet), digits one by one; what it was trained on becomes short.
"""

from collections.abc import Iterable

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

PADDING, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER = "<|image_pad|>", "<|video_pad|>"
SPECIAL_TOKENS = (
    PADDING, TURN_START, TURN_END, VISION_START, VISION_END, "<|vision_pad|>", IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER,
)  # fmt: skip

ANSWER_PIECES = (
    "<think>\n",
    "\n</think>\n<answer>\n",
    "\n</answer>",
    "\\boxed{",
    '[{"bbox_2d": [',
    '], "label": "',
    '"}, {"bbox_2d": [',
    '"}]',
    ", ",
)
"""Fixed pieces of an answer, one token each, so that answers stay short; not special, so that decoding keeps them."""

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part.type == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The turns of Qwen2.5-VL, without its default system message: every prompt token costs time on a CPU."""

_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|[\r\n]+|\s+"


def train_tokenizer(texts: Iterable[str], *, vocab_size: int) -> PreTrainedTokenizerFast:
    """A tokenizer of at most `vocab_size` tokens whose merges come from `texts`; the same texts give the same one."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(ANSWER_PIECES),
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=2,
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    core.add_tokens([AddedToken(piece, normalized=False, special=False) for piece in ANSWER_PIECES])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=TURN_END,
        pad_token=PADDING,
        additional_special_tokens=[token for token in SPECIAL_TOKENS if token not in (TURN_END, PADDING)],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )
