"""Rollouts: sampled answers to questions, as the token ids that were sampled, and right-padded batches of them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from aligner_core.engines import packed_attention
from aligner_core.engines.cpu_linear import packed_linear_layers
from aligner_core.engines.probe import DraftPolicy
from aligner_core.engines.protocol import Completion, Engine, Prompt, Sampling
from aligner_core.engines.transformers_engine import Decoder
from aligner_core.records import Question, Turn
from aligner_core.scorer import pad_right
from aligner_core.templates import conversation
from aligner_core.training.processes import from_main, gathered, rank

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from transformers import PreTrainedTokenizerBase

    from aligner_core.ppo.learners import Learner
    from aligner_core.profile import Profile

Text = tuple[str, str, Sequence[Turn] | None]  # question, answer, history


@dataclass(frozen=True)
class Asked:
    """A question with the ids of its prompt."""

    question: Question
    prompt: tuple[int, ...]


@dataclass(frozen=True)
class Rollout:
    """A sampled answer: `response` are its ids, at least one, the end token among them where it was reached."""

    asked: Asked
    response: tuple[int, ...]
    text: str
    finished: bool
    reward: float = 0.0
    cost: float = 0.0

    def __len__(self) -> int:
        return len(self.asked.prompt) + len(self.response)


class RolloutScorer(Protocol):
    """(reward, cost) of each text, on every process for its own rollouts.

    `cut` counts the texts so far that did not fit with their beginning.
    """

    @property
    def cut(self) -> int: ...

    def score(self, texts: Sequence[Text]) -> list[tuple[float, float]]: ...


def scored(rollouts: Sequence[Rollout], scorer: RolloutScorer) -> list[Rollout]:
    """The rollouts with reward and cost."""
    asked = [rollout.asked.question for rollout in rollouts]
    texts = [(item.question, rollout.text, item.history) for item, rollout in zip(asked, rollouts, strict=True)]
    found = scorer.score(texts)
    return [
        replace(rollout, reward=reward, cost=cost) for rollout, (reward, cost) in zip(rollouts, found, strict=True)
    ]


class Sampler(Protocol):
    """Answers with the policy as it is now. A rollout follows from the weights, its question and its seed alone."""

    def sample(self, questions: Sequence[Asked], seeds: Sequence[int]) -> list[Rollout]: ...

    def close(self) -> None:
        """Nothing more will be sampled."""


class InMemorySampler:
    """Decodes with the policy's own network; each process answers its own share."""

    def __init__(
        self, policy: Learner, tokenizer: PreTrainedTokenizerBase, profile: Profile, sampling: Sampling, packs: bool
    ) -> None:
        """
        Args:
            packs: lay the linear layers out for decoding first.
        """
        self._policy = policy
        self._tokenizer = tokenizer
        self._batch = profile.generation.batch
        self._sampling = sampling
        self._packs = packs

    def sample(self, questions: Sequence[Asked], seeds: Sequence[int]) -> list[Rollout]:
        prompts = prompts_of(questions, seeds)
        with self._policy.whole() as network, _for_decoding(network, self._packs):
            decoder = Decoder(network, self._tokenizer, self._batch, DraftPolicy("off"))
            completions = decoder.generate(prompts, self._sampling, seed=0)
        return _rollouts(questions, completions)

    def close(self) -> None: ...


class EngineSampler:
    """Decodes with an engine that takes the policy's weights first; the one of the main process decodes for all."""

    def __init__(
        self, engine: Engine | None, export: Callable[[Path], None], folder: Path, sampling: Sampling
    ) -> None:
        """
        Args:
            engine: open in the main process.
            export: writes the policy as a plain model folder.
            folder: where, for the engine to read.
        """
        self._engine = engine
        self._export = export
        self._folder = folder
        self._sampling = sampling

    def sample(self, questions: Sequence[Asked], seeds: Sequence[int]) -> list[Rollout]:
        self._export(self._folder)
        shares = gathered(prompts_of(questions, seeds))
        completions: list[Completion] = []
        if self._engine:
            self._engine.refresh(self._folder)
            completions = self._engine.generate([prompt for share in shares for prompt in share], self._sampling, 0)
        before = sum(map(len, shares[: rank()]))
        return _rollouts(questions, from_main(completions)[before : before + len(questions)])

    def close(self) -> None:
        if self._engine:
            self._engine.close()
            shutil.rmtree(self._folder, ignore_errors=True)


def _rollouts(questions: Sequence[Asked], completions: Sequence[Completion]) -> list[Rollout]:
    return [
        Rollout(asked, completion.ids, completion.text, completion.finished)
        for asked, completion in zip(questions, completions, strict=True)
    ]


def prompts_of(questions: Sequence[Asked], seeds: Sequence[int]) -> list[Prompt]:
    return [
        Prompt(conversation(asked.question.question, asked.question.history), seed=seed)
        for asked, seed in zip(questions, seeds, strict=True)
    ]


@contextmanager
def _for_decoding(network: Any, packs: bool) -> Iterator[None]:
    training, attention = network.training, network.config._attn_implementation
    network.eval()
    network.set_attn_implementation(packed_attention.NAME)
    with torch.random.fork_rng(), ExitStack() as stack:
        if packs:
            stack.enter_context(packed_linear_layers(network))
        yield
    network.set_attn_implementation(attention)
    network.train(training)


@dataclass(frozen=True)
class Batch:
    """Rollouts of like length, padded on the right: what a network reads, and where the responses lie in it.

    Attributes:
        input_ids: (batch, longest) prompts and responses.
        responses: (batch, tokens) ids of the responses, padded with 0.
        mask: (batch, tokens) True at true response tokens.
        columns: (batch, tokens) place in `input_ids` of what stands before each response token: where a network's
            output tells of that token.
    """

    rollouts: Sequence[Rollout]
    input_ids: Tensor
    responses: Tensor
    mask: Tensor
    columns: Tensor


def collate(rollouts: Sequence[Rollout], device: torch.device) -> Batch:
    input_ids, _ = pad_right([[*rollout.asked.prompt, *rollout.response] for rollout in rollouts])
    responses, lengths = pad_right([rollout.response for rollout in rollouts])
    first = torch.tensor([len(rollout.asked.prompt) for rollout in rollouts])
    tokens = torch.arange(responses.shape[1])
    mask = tokens < lengths[:, None]
    columns = torch.where(mask, first[:, None] - 1 + tokens, 0)
    return Batch(rollouts, input_ids.to(device), responses.to(device), mask.to(device), columns.to(device))


def in_micro_batches(rollouts: Sequence[Rollout], size: int, device: torch.device) -> list[Batch]:
    """All rollouts, the shortest first, `size` together."""
    ordered = sorted(rollouts, key=len)
    return [collate(ordered[start : start + size], device) for start in range(0, len(ordered), size)]
