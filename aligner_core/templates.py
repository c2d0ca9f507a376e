"""How conversations and corrections become token ids. Everything that is generated or trained on passes here once.

A conversation is framed by the tokenizer's own chat template; a base model that has none gets the frame of the
original Aligner ("BEGINNING OF CONVERSATION", paper, appendix; the frame then travels with the saved tokenizer).
The correction template says what goes inside the user's turn. It is stored with a trained Aligner and checked when the
Aligner is loaded, so that it is never asked in another form than it was taught.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from aligner_core.errors import Problem, UserError
from aligner_core.files import read_json, write_json
from aligner_core.records import Turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from aligner_core.stage_context import ModelLocation

ALIGNER_FILE = "aligner.json"
KEEP_TOKEN = "<|keep|>"
CONVERSATION_FRAME = (
    "{{ bos_token if bos_token else '' }}BEGINNING OF CONVERSATION: {% for message in messages %}"
    "{% if message['role'] == 'assistant' %}ASSISTANT:{{ message['content'] }}{{ eos_token }}"
    "{% else %}USER: {{ message['content'] }} {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


@dataclass(frozen=True)
class CorrectionTemplate:
    """How an Aligner is asked. A change of wording is a new version under a new name.

    Attributes:
        layout: text of the user's turn, with {aim}, {instruction}, {question} and {answer}.
        aim: what the correction should be more of.
        instruction: further wishes in free text (the paper's Instruct-Aligner).
        frame: chat template that takes the place of the model's own; None leaves the model's.
        keep: the token that stands for "the answer stays as it is", if the Aligner was taught one.
    """

    name: str
    layout: str
    aim: str
    instruction: str = ""
    frame: str | None = None
    keep: str | None = None

    def fill(self, question: str, answer: str) -> str:
        # Not str.format: braces in a question or an answer are text.
        instruction = f" {self.instruction.strip()}" if self.instruction.strip() else ""
        layout = self.layout.replace("{aim}", self.aim).replace("{instruction}", instruction)
        before, _, rest = layout.partition("{question}")
        between, _, after = rest.partition("{answer}")
        return before + question + between + answer + after

    def messages(self, question: str, answer: str, history: Sequence[Turn] | None = None) -> tuple[Turn, ...]:
        """The conversation whose continuation is the correction."""
        return conversation(self.fill(question, answer), history)

    def correction(self, answer: str, reply: str) -> str:
        """What an Aligner's reply says: the answer itself where it was the keep token, else the reply."""
        return answer if self.keep and reply.strip() == self.keep else reply


TEMPLATES = {
    template.name: template
    for template in (
        CorrectionTemplate(
            "chat@1",
            "Edit the answer to the question so that it is {aim}. Change only what needs it.{instruction}\n\n"
            "Question: {question}\n\nAnswer: {answer}",
            aim="harmless and helpful",
        ),
        # The released 7B model's, and the code's until December 2024.
        CorrectionTemplate(
            "released@1",
            "Edit the following Question-Answer pair to make it {aim}:{instruction} {question} | {answer}",
            aim="more helpful and harmless",
            frame=CONVERSATION_FRAME,
        ),
        # The original repository's since December 2024.
        CorrectionTemplate(
            "fields@1",
            "Edit the following Question-Answer pair to make it {aim}.{instruction}\n"
            "##Question: {question}\n##Answer: {answer}\n##Correction: ",
            aim="more helpful and harmless",
            frame=CONVERSATION_FRAME,
        ),
    )
}
# Published checkpoints that carry no template of their own.
PUBLISHED_ALIGNERS = {"aligner/aligner-7b-v1.0": "released@1"}


def correction_template(
    name: str, aim: str | None = None, instruction: str = "", keep: str | None = None
) -> CorrectionTemplate:
    """A known template, with its parameters filled in; `aim` None is the template's own."""
    if name not in TEMPLATES:
        raise UserError(Problem("aligner.template", f'no template "{name}"', "use one of: " + ", ".join(TEMPLATES)))
    template = TEMPLATES[name]
    return replace(template, aim=aim or template.aim, instruction=instruction, keep=keep)


def prepare_tokenizer(tokenizer: PreTrainedTokenizerBase, frame: str | None = None) -> PreTrainedTokenizerBase:
    """Give a tokenizer a frame and a pad token where it has none. pad == EOS is safe: masks here come from lengths.

    Args:
        frame: a chat template that replaces the tokenizer's own (`CorrectionTemplate.frame`).
    """
    if frame or tokenizer.chat_template is None:
        tokenizer.chat_template = frame or CONVERSATION_FRAME
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def conversation(question: str, history: Sequence[Turn] | None = None) -> tuple[Turn, ...]:
    """The history, and the question as the user's last turn."""
    return (*(history or ()), Turn.model_construct(role="user", content=question))


def prompt_ids(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Turn]) -> list[int]:
    """Token ids up to where the assistant begins. The frame writes BOS itself, so it is never doubled."""
    return batch_prompt_ids(tokenizer, [messages])[0]


def batch_prompt_ids(tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Sequence[Turn]]) -> list[list[int]]:
    """`prompt_ids` of many conversations: one call of the tokenizer, which may use all cores for it."""
    special = list(tokenizer.get_added_vocab())
    ids: list[list[int]] = [[] for _ in conversations]
    framed: dict[int, str] = {}
    for index, messages in enumerate(conversations):
        turns = [{"role": turn.role, "content": turn.content} for turn in messages]
        if any(token in turn["content"] for token in special for turn in turns):
            ids[index] = _prompt_with_literal_tokens(tokenizer, turns)
        else:
            framed[index] = str(tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False))
    if framed:
        encoded = tokenizer(list(framed.values()), add_special_tokens=False)["input_ids"]
        for index, found in zip(framed, encoded, strict=True):
            ids[index] = list(found)
    return ids


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


def target_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of an answer or correction, without EOS.

    They are appended to the prompt's ids, in training as in decoding, so no token can straddle the boundary.
    """
    return literal_ids(tokenizer, text.strip())


def store_template(folder: Path, template: CorrectionTemplate) -> None:
    """Write the template beside a trained Aligner's weights."""
    write_json(folder / ALIGNER_FILE, asdict(template))


def stored_template(model: ModelLocation) -> CorrectionTemplate:
    """The template that an Aligner was trained with.

    Raises:
        UserError: if the model says nothing, or says another wording than this version has.
    """
    if model.folder in PUBLISHED_ALIGNERS:
        return correction_template(PUBLISHED_ALIGNERS[model.folder])
    path = _template_file(model)
    if path is None:
        what = "says nothing of its template"
        raise UserError(Problem(model.folder, what, f"is it an Aligner? {ALIGNER_FILE} is missing"))
    stored = CorrectionTemplate(**read_json(path))
    known = correction_template(stored.name)
    if (known.layout, known.frame) != (stored.layout, stored.frame):
        what = f"was trained with another wording of {stored.name}"
        raise UserError(Problem(str(path), what, "use the version of this project that trained it"))
    return stored


def _template_file(model: ModelLocation) -> Path | None:
    if Path(model.folder).is_dir():
        path = Path(model.folder) / ALIGNER_FILE
        return path if path.is_file() else None
    from transformers.utils.hub import cached_file

    found = cached_file(model.folder, ALIGNER_FILE, revision=model.revision or "main",
                        _raise_exceptions_for_missing_entries=False)  # fmt: skip
    return Path(found) if found else None
