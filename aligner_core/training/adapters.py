"""Low-rank adapters: put on before a training, merged into plain weights after it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from aligner_core.files import open_folder
from aligner_core.recipe import Lora
from aligner_core.stage_context import ModelLocation


def with_adapters(network: Any, lora: Lora, gradient_checkpointing: bool) -> Any:
    """The network with fresh adapters on every linear layer but the output; only they are trained."""
    from peft import get_peft_model

    return get_peft_model(_reached(network, gradient_checkpointing), _settings(lora, task_type="CAUSAL_LM"))


def adapters_inside(trunk: Any, lora: Lora, gradient_checkpointing: bool) -> None:
    """Put adapters on every linear layer of a trunk that has no output layer; only they are trained."""
    from peft import inject_adapter_in_model

    inject_adapter_in_model(_settings(lora), _reached(trunk, gradient_checkpointing))


def _reached(network: Any, gradient_checkpointing: bool) -> Any:
    if gradient_checkpointing:
        network.enable_input_require_grads()  # else no gradient would reach the first checkpointed layer
    return network


def _settings(lora: Lora, **more: Any) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules="all-linear", **more
    )


def merge_adapters(base: ModelLocation, folder: Path, adapter: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Turn a folder of adapters into one of plain weights; the adapters move to `adapter`.

    The base is read again, unsharded: under ZeRO-3 no process holds it whole.
    """
    from peft import PeftModel
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    # Else from_pretrained would shard it again, and wait for the other processes.
    unset_hf_deepspeed_config()  # type: ignore[no-untyped-call]
    shutil.rmtree(adapter, ignore_errors=True)
    shutil.move(folder, adapter)
    network = AutoModelForCausalLM.from_pretrained(base.folder, dtype="auto", **base.arguments())
    merged: Any = PeftModel.from_pretrained(network, str(adapter)).merge_and_unload()
    with open_folder(folder) as writing:
        merged.save_pretrained(writing)
        tokenizer.save_pretrained(writing)
