"""The sentences appended to mathverify rows."""

from services.data.mixing.prompts import (
    FREE_ANSWER,
    FREE_REASONING,
    TAGGED_ANSWER,
    TAGGED_REASONING,
    add_instructions,
)
from shared.messages import ChatTurn

TURNS = [ChatTurn(role="system", content="Be brief."), ChatTurn(role="user", content="<image>How many?")]


def test_each_pool_has_ten_different_sentences() -> None:
    for pool in (FREE_REASONING, FREE_ANSWER, TAGGED_REASONING, TAGGED_ANSWER):
        assert len(set(pool)) == 10


def test_only_the_last_turn_grows_by_one_sentence_of_each_pool() -> None:
    first, last = add_instructions(TURNS, tagged=False, key="0/7")
    assert first == TURNS[0] and last.role == "user"
    head, _, tail = last.content.partition("\n\n")
    assert head == "<image>How many?"
    assert any(tail == f"{a} {b}" for a in FREE_REASONING for b in FREE_ANSWER)


def test_the_same_key_chooses_the_same_sentences_and_keys_spread_over_all_pairs() -> None:
    chosen = {str(key): add_instructions(TURNS, tagged=True, key=str(key))[-1].content for key in range(2000)}
    assert chosen["5"] == add_instructions(TURNS, tagged=True, key="5")[-1].content
    assert len(set(chosen.values())) == 100


def test_tagged_sentences_show_the_form_that_earns_the_format_reward() -> None:
    for sentence in TAGGED_ANSWER:
        assert sentence.count("<think>\n") == sentence.count("\n</think>\n") == 1
        assert sentence.count("\n<answer>\n\\boxed{") == sentence.count("\n</answer>") == 1
    assert all("\\boxed" in sentence for sentence in FREE_ANSWER)
    assert all("<think>" in sentence for sentence in TAGGED_REASONING)


def test_no_sentence_holds_an_image_placeholder() -> None:
    pools = FREE_REASONING + FREE_ANSWER + TAGGED_REASONING + TAGGED_ANSWER
    assert not any("<image>" in sentence for sentence in pools)
