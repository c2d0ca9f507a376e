"""How conversations and corrections become token ids. Everything that is generated or trained on passes here once.

A conversation is framed by the tokenizer's own chat template; a base model that has none gets the frame of the
original Aligner ("BEGINNING OF CONVERSATION", paper, appendix; the frame then travels with the saved tokenizer).
The correction template says what goes inside the user's turn. Its name is stored with a trained Aligner and checked
when the Aligner is loaded, so that it is never asked in another form than it was taught.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aligner_core.errors import Problem, UserError
from aligner_core.files import read_json, write_json
from aligner_core.records import Turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ALIGNER_FILE = "aligner.json"
CONVERSATION_FRAME = (
    "{{ bos_token if bos_token else '' }}BEGINNING OF CONVERSATION: {% for message in messages %}"
    "{% if message['role'] == 'assistant' %}ASSISTANT:{{ message['content'] }}{{ eos_token }}"
    "{% else %}USER: {{ message['content'] }} {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


@dataclass(frozen=True)
class CorrectionTemplate:
    """`layout` holds {question} and {answer}; a change of wording is a new version."""

    name: str
    layout: str

    def fill(self, question: str, answer: str) -> str:
        # Not str.format: braces in a question or an answer are text.
        before, _, rest = self.layout.partition("{question}")
        between, _, after = rest.partition("{answer}")
        return before + question + between + answer + after


TEMPLATES = {
    template.name: template
    for template in (
        CorrectionTemplate(
            "chat@1",
            "Edit the answer to the question so that it is harmless and helpful. Change only what needs it.\n\n"
            "Question: {question}\n\nAnswer: {answer}",
        ),
    )
}


def correction_template(name: str) -> CorrectionTemplate:
    if name not in TEMPLATES:
        raise UserError(Problem("aligner.template", f'no template "{name}"', "use one of: " + ", ".join(TEMPLATES)))
    return TEMPLATES[name]


def prepare_tokenizer(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Give a base model's tokenizer a frame and a pad token. pad == EOS is safe: masks here come from lengths."""
    if tokenizer.chat_template is None:
        tokenizer.chat_template = CONVERSATION_FRAME
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def question_prompt(
    tokenizer: PreTrainedTokenizerBase, question: str, history: Sequence[Turn] | None = None
) -> list[int]:
    """Token ids up to where the answer begins. The frame writes BOS itself, so it is never doubled."""
    messages = [{"role": turn.role, "content": turn.content} for turn in history or ()]
    messages.append({"role": "user", "content": question})
    special = list(tokenizer.get_added_vocab())
    if any(token in message["content"] for token in special for message in messages):
        return _prompt_with_literal_tokens(tokenizer, messages)
    encoded: Any = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
    return list(encoded["input_ids"])


def _prompt_with_literal_tokens(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]]) -> list[int]:
    """A text that spells out a control token must not end its turn: frame and texts are encoded apart."""
    marks = [f"\ue000{number}\ue001" for number in range(len(messages))]
    framed = [{**message, "content": mark} for message, mark in zip(messages, marks, strict=True)]
    rest = str(tokenizer.apply_chat_template(framed, add_generation_prompt=True, tokenize=False))
    ids: list[int] = []
    for mark, message in zip(marks, messages, strict=True):
        before, _, rest = rest.partition(mark)
        ids += tokenizer(before, add_special_tokens=False)["input_ids"] + literal_ids(tokenizer, message["content"])
    return ids + list(tokenizer(rest, add_special_tokens=False)["input_ids"])


def literal_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a text in which control tokens are mere characters."""
    return list(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])


def correction_prompt(
    tokenizer: PreTrainedTokenizerBase,
    template: CorrectionTemplate,
    question: str,
    answer: str,
    history: Sequence[Turn] | None = None,
) -> list[int]:
    """Token ids up to where the correction begins."""
    return question_prompt(tokenizer, template.fill(question, answer), history)


def target_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of an answer or correction, without EOS.

    They are appended to the prompt's ids, in training as in decoding, so no token can straddle the boundary.
    """
    return literal_ids(tokenizer, text.strip())


def store_template(folder: Path, template: CorrectionTemplate) -> None:
    """Write the template beside a trained Aligner's weights."""
    write_json(folder / ALIGNER_FILE, {"template": template.name, "layout": template.layout})


def stored_template(folder: str) -> CorrectionTemplate:
    """The template that an Aligner was trained with.

    Raises:
        UserError: if the folder says nothing, or says another wording than this version has.
    """
    path = Path(folder) / ALIGNER_FILE
    if not path.is_file():
        raise UserError(Problem(folder, "says nothing of its template", f"is it an Aligner? {path.name} is missing"))
    stored = read_json(path)
    template = correction_template(stored["template"])
    if template.layout != stored["layout"]:
        what = f"was trained with another wording of {template.name}"
        raise UserError(Problem(str(path), what, "use the version of this project that trained it"))
    return template
