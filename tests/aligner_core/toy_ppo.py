"""A toy world for PPO: a tiny random model that writes letters, and a score that is the share of one of them.

Also a process of its own, `python -m tests.aligner_core.toy_ppo FOLDER`: trains as `FOLDER/toy.json` says, with
several processes under a launcher.
"""

from __future__ import annotations

import dataclasses
import os
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    set_seed,
)

from aligner_core.configuration import find_profile, read_yaml
from aligner_core.files import read_json, write_json
from aligner_core.metrics import MetricLog
from aligner_core.ppo.loop import Loop
from aligner_core.ppo.parts import open_parts, within_room
from aligner_core.ppo.rollouts import Text
from aligner_core.profile import Profile
from aligner_core.progress import Progress
from aligner_core.recipe.students import Ppo
from aligner_core.records import Question
from aligner_core.stage_context import ModelLocation, StageContext
from aligner_core.templates import conversation, prompt_ids, target_ids
from aligner_core.training.examples import Example, build_example

LETTERS = "abcdefghijklmn"
WANTED = "g"
NEW_TOKENS = 8
REWARD = "reward"


class ShareOfLetter:
    """Reward is the share of the wanted letter in the answer, cost the share of another."""

    cut = 0

    def score(self, texts: Sequence[Text]) -> list[tuple[float, float]]:
        words = [answer.split() for _, answer, _ in texts]
        return [(line.count(WANTED) / max(1, len(line)), line.count("a") / max(1, len(line))) for line in words]


def toy_model(folder: Path, seed: int = 0) -> ModelLocation:
    """Two layers, sixteen tokens: letters, the user's mark, and the end. A reward model lies in it."""
    vocabulary = {token: index for index, token in enumerate([*LETTERS, "<user>", "<end>"])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="a"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>", pad_token="<end>",
                                        additional_special_tokens=["<user>"])  # fmt: skip
    tokenizer.chat_template = "{% for message in messages %}<user> {{ message['content'] }} {% endfor %}"
    config = LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=32, max_position_embeddings=128, initializer_range=0.05,
        tie_word_embeddings=False, eos_token_id=vocabulary["<end>"], pad_token_id=vocabulary["<end>"],
        bos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(seed)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    model = ModelLocation(str(folder))
    toy_reward(folder / REWARD, model)
    return model


def toy_reward(folder: Path, model: ModelLocation, seed: int = 5) -> ModelLocation:
    """A reward model with random scores that reads the policy's tokens."""
    torch.manual_seed(seed)
    AutoModelForSequenceClassification.from_pretrained(model.folder, num_labels=1).save_pretrained(folder)
    AutoTokenizer.from_pretrained(model.folder).save_pretrained(folder)
    return ModelLocation(str(folder))


def profile(**changes: Any) -> Profile:
    return Profile.model_validate({**read_yaml(find_profile("smoke")), "replace": {}, "micro_batch": 64, **changes})


def stage_in(folder: Path, place: Profile) -> StageContext:
    folder.mkdir(exist_ok=True)
    main_process = os.environ.get("RANK", "0") == "0"
    return StageContext(folder, {}, place, Progress(folder, writes=main_process), MetricLog(folder, "toy"))


def questions(count: int = 64) -> list[Question]:
    source = random.Random(0)
    return [
        Question(id=str(number), question=" ".join(source.choices(LETTERS, k=source.randint(1, 6))))
        for number in range(count)
    ]


def labels(tokenizer: Any) -> list[Example]:
    source = random.Random(1)
    return [
        build_example(
            prompt_ids(tokenizer, conversation(row.question)),
            target_ids(tokenizer, " ".join(source.choices(LETTERS, k=source.randint(1, 5)))),
            tokenizer.eos_token_id, row.id,
        )
        for row in questions(16)
    ]  # fmt: skip


def toy_loop(
    stage: StageContext, model: ModelLocation, section: Ppo, seed: int = 1, reward: ModelLocation | None = None
) -> Loop:
    """The real loop with real parts; only the scores are the toy's. The value model begins with `reward`, if given."""
    set_seed(seed)  # fresh adapters are drawn
    tokenizer = AutoTokenizer.from_pretrained(model.folder)
    asked = within_room(stage, questions(), tokenizer, section.max_length - NEW_TOKENS)
    scores = reward.folder if reward else str(Path(model.folder) / REWARD)
    stage.inputs = {"model": {"location": model.folder}, "reward": {"location": scores}}
    start = section.model_copy(update={"value_start": "reward" if reward else "policy"})
    parts = dataclasses.replace(open_parts(stage, tokenizer, start, NEW_TOKENS, asked), scorer=ShareOfLetter())
    return Loop(stage, section, parts, asked, labels(tokenizer) if section.ptx else [], seed)


def describe(folder: Path, model: ModelLocation, section: Ppo, place: Profile, reward: str | None = None) -> None:
    folder.mkdir(exist_ok=True)
    write_json(
        folder / "toy.json",
        {
            "model": model.folder, "section": section.model_dump(mode="json"),
            "profile": place.model_dump(mode="json"), "reward": reward,
        },
    )  # fmt: skip


def main(folder: Path) -> None:
    told = read_json(folder / "toy.json")
    stage = stage_in(folder, Profile.model_validate(told["profile"]))
    reward = ModelLocation(told["reward"]) if told["reward"] else None
    toy_loop(stage, ModelLocation(told["model"]), Ppo.model_validate(told["section"]), reward=reward).run()
    if stage.is_main_process:
        write_json(folder / "facts.json", stage.facts)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
