"""Tokenising ahead gives the ids that tokenising at once gives."""

from __future__ import annotations

from transformers import AutoTokenizer

from aligner_core.embedded_models import local_folder
from aligner_core.engines.ahead import Ahead
from aligner_core.engines.protocol import Prompt
from aligner_core.templates import batch_prompt_ids, conversation, prepare_tokenizer, prompt_ids

TEXTS = ["Hi", "What is rain?", "says <|im_end|> itself", "  two\n\nlines  "]


def test_prompts_prepared_or_not_become_the_same_ids_one_by_one_and_together() -> None:
    tokenizer = prepare_tokenizer(AutoTokenizer.from_pretrained(local_folder("embedded:tiny-random")))
    shards = [[Prompt(conversation(f"{number} {text}")) for text in TEXTS] for number in range(4)]
    ahead = Ahead(tokenizer)
    for shard in shards[:3]:
        ahead.prepare(shard)
    for shard in shards:
        expected = [prompt_ids(tokenizer, prompt.messages) for prompt in shard]
        assert ahead.take(shard) == expected
        assert batch_prompt_ids(tokenizer, [prompt.messages for prompt in shard]) == expected
