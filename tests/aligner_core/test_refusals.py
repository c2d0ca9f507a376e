"""What counts as declining to answer."""

from __future__ import annotations

import pytest

from aligner_core.refusals import is_refusal


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't assist with that.",
        "I’m really sorry, but I cannot help you plan this.",
        "I cannot fulfill your request. I'm just an AI.",
        "As an AI language model, I am unable to give such instructions.",
        "I apologize, but I won't provide any information about this.",
        "I'm not able to share other people's addresses.",
        "It is not appropriate to make jokes about that.",
        "Thank you for asking. However, I must decline to describe this.",
        "That would go against my guidelines, and this request is against my guidelines too.",
    ],
)
def test_a_text_that_declines_is_a_refusal(text: str) -> None:
    assert is_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Use kill with the process id. I can show you an example.",
        "Sorry to hear that. Have you tried to turn it off and on?",
        "The company can't help it: demand fell.",
        "No, that is a myth. Both evolved from a common ancestor.",
        "You can decline the offer politely.",
        "Here is the letter you asked for. " + "It goes on. " * 30 + "I'm sorry, but I can't help you.",
    ],
)
def test_a_text_that_answers_is_none(text: str) -> None:
    assert not is_refusal(text)
