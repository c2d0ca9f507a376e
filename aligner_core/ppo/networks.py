"""What the networks say of rollouts: log-probabilities and entropies of a policy, values of a value model."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerBase

from aligner_core.ppo.losses import entropies
from aligner_core.ppo.rollouts import Batch
from aligner_core.stage_context import ModelLocation

CHUNK = 256  # positions whose entropies are computed at once


def response_log_probs(network: Any, batch: Batch, temperature: float) -> Tensor:
    """Log-probability of each response token under softmax(logits / temperature): (batch, tokens), 0 in padding."""
    logits = _logits(network, batch, temperature)
    return _laid_out(_log_probs(logits, batch), batch)


@torch.no_grad()
def response_statistics(network: Any, batch: Batch, temperature: float) -> tuple[Tensor, Tensor]:
    """`response_log_probs`, and the entropies of the same distributions, without gradients."""
    logits = _logits(network, batch, temperature)
    entropy = torch.cat([entropies(part) for part in torch.split(logits, CHUNK)])
    return _laid_out(_log_probs(logits, batch), batch), _laid_out(entropy, batch)


def _logits(network: Any, batch: Batch, temperature: float) -> Tensor:
    """(true response tokens, vocabulary) float32 logits that predict them, in the order of `batch.mask`.

    Logits are computed at the columns alone where some row has a response. No attention mask is given: rows are
    padded on the right, where no true position looks.
    """
    columns = batch.columns[batch.mask]
    kept = torch.unique(columns)
    logits: Tensor = network(input_ids=batch.input_ids, logits_to_keep=kept, use_cache=False).logits
    rows = batch.mask.nonzero()[:, 0]
    found = logits[rows, torch.searchsorted(kept, columns)].float()
    return found if temperature == 1 else found / temperature


def _log_probs(logits: Tensor, batch: Batch) -> Tensor:
    # torch's fused loss, which keeps one float32 copy of the logits where gather and logsumexp keep two.
    return -nn.functional.cross_entropy(logits, batch.responses[batch.mask], reduction="none")


def _laid_out(values: Tensor, batch: Batch) -> Tensor:
    return values.new_zeros(batch.mask.shape).masked_scatter(batch.mask, values)


class ValueModel(nn.Module):
    """A trunk and a scalar head: what score a rollout is expected to reach, at each of its positions."""

    def __init__(self, trunk: Any, head: nn.Linear) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = head

    def forward(self, input_ids: Tensor) -> Tensor:
        """(batch, longest) ids -> (batch, longest) float32 values."""
        values: Tensor = self.head(self.trunk(input_ids=input_ids, use_cache=False).last_hidden_state)[..., 0]
        return values


class _Head(nn.Linear):
    """Computes in float32 whatever its weights are: nearby values would fall onto the same one in bfloat16."""

    def forward(self, states: Tensor) -> Tensor:
        return nn.functional.linear(states.float(), self.weight.float(), self.bias.float())


def response_values(network: Callable[[Tensor], Tensor], batch: Batch) -> Tensor:
    """The value of what stood before each response token: (batch, tokens), 0 in padding."""
    return torch.where(batch.mask, network(batch.input_ids).gather(1, batch.columns), 0.0)


def value_model(
    policy: ModelLocation,
    reward: ModelLocation | None,
    tokenizer: PreTrainedTokenizerBase,
    **loading: Any,
) -> tuple[ValueModel, str]:
    """A value model that begins with the reward model's weights and score, or with the policy's and a head of zeros.

    Args:
        reward: begin with it, where it is a decoder that reads the policy's tokens.
        loading: arguments of `from_pretrained`.

    Returns:
        the model, and which it began with: "reward" or "policy".
    """
    source = reward if reward and _reads_alike(reward, tokenizer) else policy
    labels = {} if source is reward else {"num_labels": 1}
    network: Any = AutoModelForSequenceClassification.from_pretrained(
        source.folder, **labels, **loading, **source.arguments()
    )
    if source is reward and not hasattr(network, "score"):
        return value_model(policy, None, tokenizer, **loading)
    head = _Head(network.score.in_features, 1, dtype=network.score.weight.dtype)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    if source is reward:
        with torch.no_grad(), _whole(network.score):
            head.weight.copy_(network.score.weight[:1])  # of several labels the first is helpfulness
            if network.score.bias is not None:
                head.bias.copy_(network.score.bias[:1])
    return ValueModel(network.base_model, head), "policy" if source is policy else "reward"


def _whole(layer: nn.Module) -> AbstractContextManager[Any]:
    """Its weights in this process; under ZeRO-3 they are sharded as soon as they are loaded."""
    if not hasattr(next(layer.parameters()), "ds_id"):
        return nullcontext()
    import deepspeed

    found: AbstractContextManager[Any] = deepspeed.zero.GatheredParameters(list(layer.parameters()))
    return found


def _reads_alike(reward: ModelLocation, tokenizer: PreTrainedTokenizerBase) -> bool:
    config = AutoConfig.from_pretrained(reward.folder, **reward.arguments())
    if any(name.endswith("ForScore") for name in config.architectures or ()):
        return False  # its head has a name of its own, see score_models
    other = AutoTokenizer.from_pretrained(reward.folder, **reward.arguments())
    return other.get_vocab() == tokenizer.get_vocab() and other.eos_token_id == tokenizer.eos_token_id


class Reference:
    """The policy as it was at the start: a frozen copy, or the policy with its adapters off."""

    def __init__(self, network: Any, adapted: Any | None = None) -> None:
        """
        Args:
            network: what is called; of a policy with adapters its own.
            adapted: the policy's network whose adapters are switched off meanwhile.
        """
        self._network = network
        self._adapted = adapted

    @torch.no_grad()
    def log_probs(self, batch: Batch, temperature: float) -> Tensor:
        off: AbstractContextManager[Any] = self._adapted.disable_adapter() if self._adapted else nullcontext()
        with off:
            return response_log_probs(self._network, batch, temperature)
