"""Reward and cost models in the layouts of others, on tiny random checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForSequenceClassification

from aligner_core.embedded_models import byte_tokenizer
from aligner_core.errors import UserError
from aligner_core.files import read_json, write_json, write_jsonl
from aligner_core.profile import Profile
from aligner_core.score_models import Reads, RewardAndCost, open_score_model
from aligner_core.stage_context import ModelLocation
from aligner_core.tasks.score import ScoreAnswers
from aligner_core.templates import CONVERSATION_FRAME
from aligner_core.training.deepspeed_setup import whole_weights
from tests.aligner_core.toy_ppo import stage_in

PROFILE = Profile.model_validate(
    {
        "name": "here",
        "device": {"kind": "cpu", "name": "x", "memory_gib": 8, "tflops": 1.0, "bandwidth_gb_s": 20},
        "precision": "float32",
    }
)
TEXTS = [("Why?", "Because.", None), ("How do I do it, then?", "Like this: first one thing, then the other.", None)]
LONG = [("Why?", "y" * letters, None) for letters in (30, 40)]  # 54 and 64 tokens


def classifier(folder: Path, labels: int = 1) -> LlamaForSequenceClassification:
    torch.manual_seed(0)
    tokenizer = byte_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_labels=labels, pad_token_id=tokenizer.pad_token_id, initializer_range=0.5, max_position_embeddings=200,
    )  # fmt: skip
    model = LlamaForSequenceClassification(config).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def beaver(folder: Path, bias: float | None) -> LlamaForSequenceClassification:
    """The layout of Safe RLHF's checkpoints: a class of its own name, `model.*` and `score_head.*`."""
    model = classifier(folder)
    weights = load_file(folder / "model.safetensors")
    weights["score_head.weight"] = weights.pop("score.weight")
    if bias is not None:
        weights["score_head.bias"] = torch.tensor([bias])
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = read_json(folder / "config.json")
    for key in ("id2label", "label2id", "num_labels"):
        config.pop(key, None)
    config |= {"architectures": ["LlamaModelForScore"], "score_dim": 1, "do_normalize": False}
    write_json(folder / "config.json", config)
    return model


def score_of(model: LlamaForSequenceClassification, text: str) -> float:
    """By transformers' own forward, one text at a time, at the last token."""
    ids = torch.tensor([byte_tokenizer()(text, add_special_tokens=False)["input_ids"]])
    with torch.inference_mode():
        last = model.model(input_ids=ids).last_hidden_state[0, -1]
        return float(model.score(last))


@pytest.mark.parametrize("bias", [None, 0.7])
def test_a_score_model_of_safe_rlhf_scores_in_its_frame_with_its_bias(tmp_path: Path, bias: float | None) -> None:
    model = beaver(tmp_path, bias)
    assert "BEGINNING OF CONVERSATION" in CONVERSATION_FRAME
    framed = [f"BEGINNING OF CONVERSATION: USER: {q} ASSISTANT:{a}<|im_end|>" for q, a, _ in TEXTS]
    expected = [score_of(model, text) + (bias or 0) for text in framed]
    found = open_score_model(ModelLocation(str(tmp_path)), "helpful", PROFILE).score(TEXTS)
    assert [row["helpful"] for row in found] == pytest.approx(expected, abs=1e-4)
    cost = open_score_model(ModelLocation(str(tmp_path)), "cost", PROFILE).score(TEXTS)
    assert [row["harmless"] for row in cost] == pytest.approx([-value for value in expected], abs=1e-4)


@pytest.mark.parametrize(
    ("change", "told"),
    [({"do_normalize": True}, "normalises its scores"), ({"score_dim": 3}, "gives 3 scores")],
)
def test_what_cannot_be_read_of_safe_rlhf_is_refused(tmp_path: Path, change: dict[str, object], told: str) -> None:
    beaver(tmp_path, None)
    write_json(tmp_path / "config.json", read_json(tmp_path / "config.json") | change)
    with pytest.raises(UserError, match=told):
        open_score_model(ModelLocation(str(tmp_path)), "cost", PROFILE)


def test_a_score_model_without_its_head_is_refused(tmp_path: Path) -> None:
    beaver(tmp_path, None)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["score_head.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"has no score\.weight"):
        open_score_model(ModelLocation(str(tmp_path)), "cost", PROFILE)


def test_a_decoder_with_one_label_reads_the_conversation_in_its_template(tmp_path: Path) -> None:
    model = classifier(tmp_path)
    tokenizer = byte_tokenizer()
    framed = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": q}, {"role": "assistant", "content": a}], tokenize=False
        )
        for q, a, _ in TEXTS
    ]
    found = open_score_model(ModelLocation(str(tmp_path)), "helpful", PROFILE).score(TEXTS)
    assert [row["helpful"] for row in found] == pytest.approx([score_of(model, text) for text in framed], abs=1e-4)


def test_an_encoder_without_a_template_reads_question_and_answer_as_a_pair(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    config = BertConfig(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=1,
                        num_attention_heads=2, num_labels=1, initializer_range=0.5, type_vocab_size=1)  # fmt: skip
    model = BertForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path)
    with torch.inference_mode():
        expected = [float(model(**tokenizer(q, a, return_tensors="pt")).logits) for q, a, _ in TEXTS]
    found = open_score_model(ModelLocation(str(tmp_path)), "helpful", PROFILE).score(TEXTS)
    assert [row["helpful"] for row in found] == pytest.approx(expected, abs=1e-4)


def test_an_encoder_that_needs_token_types_is_refused(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    config = BertConfig(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=1,
                        num_attention_heads=2, num_labels=1)  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="token types"):
        open_score_model(ModelLocation(str(tmp_path)), "helpful", PROFILE)


def test_texts_over_the_limit_are_counted(tmp_path: Path) -> None:
    classifier(tmp_path)
    model = open_score_model(ModelLocation(str(tmp_path)), "helpful", PROFILE)
    model.score([*TEXTS, ("Why?", "x" * 300, None)])
    assert model.cut == 1


def test_two_labels_or_an_unsaid_axis_are_refused(tmp_path: Path) -> None:
    classifier(tmp_path, labels=3)
    with pytest.raises(UserError, match="has 3 labels"):
        open_score_model(ModelLocation(str(tmp_path)), "helpful", PROFILE)
    with pytest.raises(UserError, match="is it helpfulness or cost"):
        open_score_model(ModelLocation(str(tmp_path)), None, PROFILE)


def own(folder: Path, reads: str, max_length: int = 200) -> LlamaForSequenceClassification:
    """The layout of the reward and cost models that this project trains."""
    model = classifier(folder)
    write_json(folder / "score_model.json", {"reads": reads, "max_length": max_length})
    return model


@pytest.mark.parametrize("reads", ["helpful", "cost"])
def test_a_score_model_of_this_project_says_itself_what_it_reads(tmp_path: Path, reads: str) -> None:
    model = own(tmp_path, reads)
    framed = [f"<|im_start|>user\n{q}<|im_end|>\n<|im_start|>assistant\n{a}<|im_end|>" for q, a, _ in TEXTS]
    expected = [score_of(model, text) for text in framed]
    found = open_score_model(ModelLocation(str(tmp_path)), None, PROFILE).score(TEXTS)
    if reads == "helpful":
        assert [row["helpful"] for row in found] == pytest.approx(expected, abs=1e-4)
    else:
        assert [-row["harmless"] for row in found] == pytest.approx(expected, abs=1e-4)
    other: Reads = "cost" if reads == "helpful" else "helpful"
    with pytest.raises(UserError, match=f"tells {reads}, not {other}"):
        open_score_model(ModelLocation(str(tmp_path)), other, PROFILE)


def test_its_limit_is_the_one_it_was_trained_with(tmp_path: Path) -> None:
    own(tmp_path, "helpful", max_length=50)
    model = open_score_model(ModelLocation(str(tmp_path)), None, PROFILE)
    one, other = model.score([("Why?", "x" * 20 + "y" * 60, None), ("How, then?", "y" * 60, None)])
    assert one == other
    assert model.cut == 2


def test_reward_and_cost_are_told_together_and_cost_is_zero_without_a_cost_model(tmp_path: Path) -> None:
    own(tmp_path / "reward", "helpful")
    beaver(tmp_path / "cost", 0.7)
    reward, cost = (ModelLocation(str(tmp_path / name)) for name in ("reward", "cost"))
    rewards = [row["helpful"] for row in open_score_model(reward, "helpful", PROFILE).score(TEXTS)]
    harmless = [row["harmless"] for row in open_score_model(cost, "cost", PROFILE).score(TEXTS)]
    assert RewardAndCost(reward, cost, PROFILE).score(TEXTS) == [
        (helpful, -value) for helpful, value in zip(rewards, harmless, strict=True)
    ]
    assert RewardAndCost(reward, None, PROFILE).score(TEXTS) == [(helpful, 0.0) for helpful in rewards]
    assert RewardAndCost(reward, cost, PROFILE).score([]) == []


def test_the_two_headed_scorer_may_be_both(tmp_path: Path) -> None:
    classifier(tmp_path, labels=2)
    write_json(tmp_path / "scorer.json", {"max_length": 200})
    place = ModelLocation(str(tmp_path))
    both = open_score_model(place, None, PROFILE).score(TEXTS)
    assert RewardAndCost(place, place, PROFILE).score(TEXTS) == [(row["helpful"], -row["harmless"]) for row in both]


def test_texts_that_were_cut_are_counted_for_each_model_that_read_them_and_once_for_a_shared_one(
    tmp_path: Path,
) -> None:
    for name, reads, limit in (("reward", "helpful", 50), ("cost", "cost", 60)):
        own(tmp_path / name, reads, limit)
    classifier(tmp_path / "both", labels=2)
    write_json(tmp_path / "both" / "scorer.json", {"max_length": 50})
    reward, cost, both = (ModelLocation(str(tmp_path / name)) for name in ("reward", "cost", "both"))
    for models, cut in (((reward, None), 2), ((reward, cost), 3), ((both, both), 2)):
        scorer = RewardAndCost(*models, PROFILE)
        scorer.score(LONG)
        assert scorer.cut == cut


def test_an_evaluation_says_how_many_texts_its_scorer_could_not_read_whole(tmp_path: Path) -> None:
    classifier(tmp_path / "scorer", labels=2)
    write_json(tmp_path / "scorer" / "scorer.json", {"max_length": 60})
    rows = [{"id": str(number), "question": asked, "answer": text} for number, (asked, text, _) in enumerate(LONG)]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    places = {"questions": tmp_path / "rows.jsonl", "student": tmp_path / "rows.jsonl", "scorer": tmp_path / "scorer"}
    stage = stage_in(tmp_path / "stage", PROFILE)
    stage.inputs = {name: {"location": str(path)} for name, path in places.items()}
    ScoreAnswers(systems={"student": "answer"}, precision="float32", scorer="evaluation").run(stage)
    assert stage.facts == {"rows": 2, "cut": 1}


def test_a_reward_model_is_no_cost_model(tmp_path: Path) -> None:
    own(tmp_path, "helpful")
    with pytest.raises(UserError, match="tells helpful, not cost"):
        RewardAndCost(ModelLocation(str(tmp_path)), ModelLocation(str(tmp_path)), PROFILE)


def test_score_models_are_loaded_whole_where_zero_3_shards_the_model_in_training() -> None:
    from transformers.integrations.deepspeed import HfDeepSpeedConfig, is_deepspeed_zero3_enabled

    config = HfDeepSpeedConfig({"zero_optimization": {"stage": 3}, "train_micro_batch_size_per_gpu": 1})
    assert is_deepspeed_zero3_enabled()
    with whole_weights():
        assert not is_deepspeed_zero3_enabled()
    assert is_deepspeed_zero3_enabled()
    del config
