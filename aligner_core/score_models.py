"""Reward and cost models, the project's own and those that others trained.

Four layouts are read: the project's scorer (two labels and `scorer.json`), its reward or cost model (one label and
`score_model.json`), any sequence classifier with one label, and the score models of Safe RLHF (Beaver), whose class is
not in transformers: a trunk and a linear `score_head`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerBase

from aligner_core.errors import Problem, UserError
from aligner_core.files import read_json
from aligner_core.profile import Profile
from aligner_core.records import Turn
from aligner_core.scorer import CALIBRATION, Scorer, in_batches, load_scorer, scorer_ids, scores
from aligner_core.stage_context import ModelLocation
from aligner_core.templates import CONVERSATION_FRAME, conversation, prepare_tokenizer
from aligner_core.training.deepspeed_setup import whole_weights

Reads = Literal["helpful", "cost"]
Text = tuple[str, str, Sequence[Turn] | None]  # question, answer, history
SCORE_MODEL = "score_model.json"
LONGEST = 4096  # where neither model nor tokenizer says


class ScoreModel(Protocol):
    """Scores of texts as keys of the kind `scores`: helpful, harmless (= -cost), or both.

    `cut` counts the texts whose beginning did not fit into the model.
    """

    @property
    def cut(self) -> int: ...

    def score(self, texts: Sequence[Text]) -> list[dict[str, float]]: ...


def open_score_model(model: ModelLocation, reads: Reads | None, profile: Profile) -> ScoreModel:
    """The model in whichever layout it has.

    Args:
        reads: what a model with one score tells.

    Raises:
        UserError: if it has another layout, or `reads` does not fit it.
    """
    with whole_weights():
        return _open(model, reads, profile)


class RewardAndCost:
    """The score models of a training: what filters choose by and PPO is rewarded with. Never for an evaluation.

    Each process may have its own, also beside a model that ZeRO-3 shards.
    """

    def __init__(self, reward: ModelLocation, cost: ModelLocation | None, profile: Profile) -> None:
        """The project's two-headed scorer may be either or, opened once, both."""
        self._reward = open_score_model(reward, None if _has_both(reward) else "helpful", profile)
        self._cost: ScoreModel | None = None
        if cost and cost == reward and _has_both(cost):
            self._cost = self._reward
        elif cost:
            self._cost = open_score_model(cost, None if _has_both(cost) else "cost", profile)

    @property
    def cut(self) -> int:
        """How many texts did not fit with their beginning, counted for each of the models that read them."""
        return sum(model.cut for model in {self._reward, self._cost} if model)

    def score(self, texts: Sequence[Text]) -> list[tuple[float, float]]:
        """(reward, cost) of each (question, answer, history); cost > 0 is unsafe, and 0 without a cost model."""
        told = self._reward.score(texts)
        costs = [0.0] * len(told)
        if self._cost:
            costs = [-row["harmless"] for row in (told if self._cost is self._reward else self._cost.score(texts))]
        return list(zip((row["helpful"] for row in told), costs, strict=True))


def _has_both(model: ModelLocation) -> bool:
    return (Path(model.folder) / CALIBRATION).is_file()


def _open(model: ModelLocation, reads: Reads | None, profile: Profile) -> ScoreModel:
    if _has_both(model):
        if reads:
            raise UserError(Problem("--as", f"{model.folder} tells both helpfulness and cost", "leave --as out"))
        return OwnScorer(model, profile)
    described = Path(model.folder) / SCORE_MODEL
    if described.is_file():
        told = read_json(described)
        if reads not in (None, told["reads"]):
            raise UserError(Problem("--as", f"{model.folder} tells {told['reads']}, not {reads}", "leave --as out"))
        network, tokenizer = load_scorer(model, getattr(torch, profile.precision), 1)
        return OneScore(network, tokenizer, told["reads"], profile, scorer_ids, told["max_length"])
    if reads is None:
        fix = "say which: --as helpful or --as cost"
        raise UserError(Problem("--as", f"{model.folder} gives one score; is it helpfulness or cost?", fix))
    config = AutoConfig.from_pretrained(model.folder, **model.arguments())
    if any(name.endswith("ForScore") for name in config.architectures or ()):
        return OneScore(*_load_safe_rlhf(model, config, profile), reads, profile, scorer_ids)
    if config.num_labels != 1:
        fix = "name a model with one label, or a scorer that this project trained"
        raise UserError(Problem(model.folder, f"has {config.num_labels} labels and no {CALIBRATION}", fix))
    network = AutoModelForSequenceClassification.from_pretrained(
        model.folder, dtype=getattr(torch, profile.precision), **model.arguments()
    )
    tokenizer = AutoTokenizer.from_pretrained(model.folder, **model.arguments())
    if not tokenizer.chat_template and getattr(config, "type_vocab_size", 0) > 1:
        what = "tells question and answer apart by token types, which are not supported"
        raise UserError(Problem(model.folder, what, "name another model"))
    return OneScore(network, tokenizer, reads, profile, _classifier_ids)


class OwnScorer:
    """The project's scorer: both axes at once."""

    def __init__(self, model: ModelLocation, profile: Profile) -> None:
        self._scorer = Scorer(model, profile)

    @property
    def cut(self) -> int:
        return self._scorer.cut

    def score(self, texts: Sequence[Text]) -> list[dict[str, float]]:
        return [{"helpful": helpful, "harmless": -cost} for helpful, cost in self._scorer.score(texts)]


class OneScore:
    """A model with one score per text. Of an over-long text the end is kept, where decoders read the score."""

    def __init__(
        self,
        network: Any,
        tokenizer: PreTrainedTokenizerBase,
        reads: Reads,
        profile: Profile,
        encode: Any,
        limit: int | None = None,
    ) -> None:
        """`limit` is the longest text in tokens, where it is known better than from model and tokenizer."""
        self._device = torch.device(profile.device.kind)
        self._network = network.to(self._device).eval()
        self._tokenizer = tokenizer
        self._key, self._sign = ("helpful", 1.0) if reads == "helpful" else ("harmless", -1.0)
        self._encode = encode
        known = self._network.config.get_text_config().to_dict().get("max_position_embeddings") or LONGEST
        self._limit = limit or min(int(known), int(tokenizer.model_max_length))
        self.cut = 0

    def score(self, texts: Sequence[Text]) -> list[dict[str, float]]:
        ids = [self._encode(self._tokenizer, *text) for text in texts]
        self.cut += sum(len(sequence) > self._limit for sequence in ids)
        found = in_batches(ids, self._batch, self._limit, self._device)
        return [{self._key: self._sign * value} for (value,) in found]

    def _batch(self, input_ids: torch.Tensor, lengths: torch.Tensor) -> list[list[float]]:
        if hasattr(self._network, "score"):  # decoders: read at the last true token, though it be the pad id
            logits = scores(self._network, input_ids, lengths)
        else:
            mask = (torch.arange(input_ids.shape[1], device=self._device)[None] < lengths[:, None]).long()
            logits = self._network(input_ids=input_ids, attention_mask=mask).logits
        found: list[list[float]] = logits.float().tolist()
        return found


def _classifier_ids(
    tokenizer: PreTrainedTokenizerBase, question: str, answer: str, history: Sequence[Turn] | None
) -> list[int]:
    """The conversation in the model's own chat template, or question and answer as a pair where it has none."""
    if tokenizer.chat_template:
        turns = [*conversation(question, history), Turn.model_construct(role="assistant", content=answer)]
        messages = [{"role": turn.role, "content": turn.content} for turn in turns]
        return list(tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False))  # type: ignore[arg-type]
    asked = "\n".join([*(turn.content for turn in history or ()), question])
    return list(tokenizer(asked, answer)["input_ids"])  # type: ignore[arg-type]


def _load_safe_rlhf(model: ModelLocation, config: Any, profile: Profile) -> tuple[Any, PreTrainedTokenizerBase]:
    """A score model of Safe RLHF: `model.*`, and `score_head` with or without a bias.

    Its texts are framed as it was trained: BEGINNING OF CONVERSATION: USER: ... ASSISTANT:... and the end token.
    """
    if getattr(config, "do_normalize", False):
        raise UserError(Problem(model.folder, "normalises its scores (do_normalize)", "name a model that does not"))
    if getattr(config, "score_dim", 1) != 1:
        raise UserError(Problem(model.folder, f"gives {config.score_dim} scores", "name a model with one score"))
    config.num_labels = 1
    plain: Any = AutoModelForSequenceClassification._model_mapping[type(config)]  # type: ignore[attr-defined]

    class WithBias(plain):  # type: ignore[misc]
        def __init__(self, own: Any) -> None:
            super().__init__(own)
            self.score = nn.Linear(own.hidden_size, 1, bias=True)  # a checkpoint without one leaves it at 0
            nn.init.zeros_(self.score.bias)

    network, loading = WithBias.from_pretrained(
        model.folder, config=config, dtype=getattr(torch, profile.precision), output_loading_info=True,
        key_mapping={r"^score_head\.": "score."}, **model.arguments(),
    )  # fmt: skip
    if missing := sorted(set(loading["missing_keys"]) - {"score.bias"}):
        raise UserError(Problem(model.folder, f"has no {missing[0]}", "is it a score model of Safe RLHF?"))
    tokenizer = AutoTokenizer.from_pretrained(model.folder, **model.arguments())
    return network, prepare_tokenizer(tokenizer, CONVERSATION_FRAME)
