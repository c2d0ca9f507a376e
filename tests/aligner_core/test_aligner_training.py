"""Training the Aligner: what is supervised, in which order, what is kept, and what comes out."""

from __future__ import annotations

import random
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTuner
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase, TrainerControl, TrainerState

from aligner_core.configuration import find_profile, read_yaml
from aligner_core.embedded_models import byte_tokenizer, local_folder
from aligner_core.errors import UserError
from aligner_core.files import file_digest, read_json, read_jsonl, write_json, write_jsonl
from aligner_core.metrics import MetricLog
from aligner_core.profile import Profile
from aligner_core.progress import Progress
from aligner_core.recipe import AlignerSection, HeldOut
from aligner_core.records import Correction
from aligner_core.stage_context import ModelLocation, StageContext
from aligner_core.tasks.train import TrainAligner
from aligner_core.templates import KEEP_TOKEN, TEMPLATES, correction_template, prepare_tokenizer, stored_template
from aligner_core.training import held_out
from aligner_core.training.aligner import ExampleMaker
from aligner_core.training.checkpoints import newest
from aligner_core.training.examples import IGNORED
from aligner_core.training.held_out import EVALUATION, BestWeights
from aligner_core.training.loop import require_numbers
from aligner_core.training.supervised import SupervisedTrainer
from tests.aligner_core.test_templates import bos_tokenizer

TINY = local_folder("embedded:tiny-random")
TEXT = st.text(st.characters(codec="utf-8"), max_size=40)
WORDS = TEXT.filter(str.strip)


def smoke(**changes: Any) -> Profile:
    return Profile.model_validate({**read_yaml(find_profile("smoke")), "replace": {}, **changes})


def records(number: int = 24) -> list[Correction]:
    source = random.Random(0)
    return [
        Correction(id=str(index), question=f"Say {index}.", answer="no", correction="abc" * source.randint(1, 20))
        for index in range(number)
    ]


def section(**changes: Any) -> AlignerSection:
    training = {"epochs": 2, "learning_rate": 1e-3, "global_batch": 8, "lr_warmup": 0.1, "max_length": 512}
    training |= changes.pop("training", {})
    return AlignerSection.model_validate({"training": training, "warm_up": {"fraction": 0.5}, **changes})


def train(
    folder: Path, phase: str, section: AlignerSection, rows: list[Correction] | None = None, **profile: Any
) -> dict[str, Any]:
    """One phase in this process; returns the facts."""
    folder.mkdir(exist_ok=True)
    write_jsonl(folder / "records.jsonl", (row.row() for row in rows or records()))
    inputs = {"model": {"location": TINY}, "records": {"location": str(folder / "records.jsonl")}}
    stage = StageContext(folder, inputs, smoke(**profile), Progress(folder), MetricLog(folder, "test"))
    task = TrainAligner.model_validate({"phase": phase, "section": section, "precision": "float32", "seed": 1})
    task.run(stage)
    stage.metrics.close()
    return stage.facts


def losses(folder: Path, key: str = "loss") -> list[float]:
    return [row[key] for row in read_jsonl(folder / "metrics.jsonl") if key in row]


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("tokenizer", [byte_tokenizer(), bos_tokenizer()], ids=["pad is EOS", "adds BOS itself"])
@settings(max_examples=25)
@given(question=TEXT, answer=TEXT, correction=WORDS)
def test_exactly_the_correction_and_one_eos_are_supervised_in_every_template(
    name: str, tokenizer: PreTrainedTokenizerBase, question: str, answer: str, correction: str
) -> None:
    template = correction_template(name)
    prepare_tokenizer(tokenizer, template.frame)
    record = Correction.model_construct(id="r", question=question, answer=answer, correction=correction)
    example = ExampleMaker(tokenizer, template, 10**6, False).residual(record)
    supervised = [label for label in example.labels if label != IGNORED]
    assert tokenizer.decode(supervised[:-1]) == correction.strip()
    assert supervised[-1] == tokenizer.eos_token_id
    assert example.input_ids[-len(supervised) :] == supervised
    assert tokenizer.eos_token_id not in supervised[:-1]


def test_an_enormous_record_is_supervised_to_its_end() -> None:
    tokenizer = byte_tokenizer()
    record = Correction(id="r", question="q" * 49_000, answer="a" * 49_000, correction="c" * 49_000)
    example = ExampleMaker(tokenizer, correction_template("chat@1"), 10**6, False).residual(record)
    assert example.supervised == 49_001


def test_identity_examples_teach_the_answer_and_residual_ones_the_correction() -> None:
    tokenizer = byte_tokenizer()
    make = ExampleMaker(tokenizer, correction_template("chat@1"), 512, False)
    changed = Correction(id="1", question="Q", answer="bad", correction="good")
    targets = [[label for label in item.labels if label != IGNORED] for item in
               (make.identity(changed), make.residual(changed))]  # fmt: skip
    assert [tokenizer.decode(target[:-1]) for target in targets] == ["bad", "good"]


def test_the_keep_token_stands_for_answers_that_the_ground_truth_leaves() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": [KEEP_TOKEN]}, replace_extra_special_tokens=False)
    make = ExampleMaker(tokenizer, correction_template("chat@1", keep=KEEP_TOKEN), 512, False)
    good = Correction(id="1", question="Q", answer="fine ", correction="fine")
    keep = tokenizer.convert_tokens_to_ids(KEEP_TOKEN)
    for item in (make.identity(good), make.residual(good)):
        assert [label for label in item.labels if label != IGNORED] == [keep, tokenizer.eos_token_id]
    changed = Correction(id="2", question="Q", answer="bad", correction="good")
    assert keep not in make.identity(changed).input_ids + make.residual(changed).input_ids
    spelled = Correction(id="3", question="Q", answer="bad", correction=KEEP_TOKEN)
    assert keep not in make.residual(spelled).input_ids


def test_of_an_over_long_record_the_answer_loses_its_end_and_the_correction_nothing() -> None:
    tokenizer = byte_tokenizer()
    make = ExampleMaker(tokenizer, correction_template("chat@1"), 300, True)
    record = Correction(id="long", question="Q", answer="x" * 200 + "STOP", correction="c" * 80)
    example = make.residual(record)
    assert len(example) == 300
    assert example.supervised == 81
    assert "xxx" in tokenizer.decode(example.input_ids)
    assert "STOP" not in tokenizer.decode(example.input_ids)
    assert make.truncated == ["long"]
    hopeless = Correction(id="hopeless", question="Q", answer="x", correction="c" * 400)
    assert len(make.residual(hopeless)) > 300
    assert make.truncated == ["long"]


def test_an_over_long_answer_is_taught_as_far_as_it_is_shown() -> None:
    tokenizer = byte_tokenizer()
    make = ExampleMaker(tokenizer, correction_template("chat@1"), 300, True)
    example = make.identity(Correction(id="long", question="Q", answer="x" * 200 + "STOP", correction="c"))
    assert len(example) in (299, 300)
    taught = tokenizer.decode([label for label in example.labels if label != IGNORED][:-1])
    assert len(taught) > 20
    assert taught == "x" * len(taught)
    assert tokenizer.decode(example.input_ids).count("x") == 2 * len(taught)


def test_a_warm_up_watches_no_blank_answer_and_tells_of_no_record_that_it_did_not_learn(tmp_path: Path) -> None:
    held_out = {"share": 0.5, "every": 1, "corrected": 0}
    training = {"held_out": held_out, "max_length": 300, "over_long": "truncate_answer"}
    rows = [
        Correction(id=str(index), question=f"Q{index}", answer=answer * 200, correction="c")
        for index, answer in enumerate(" x" * 8)
    ]
    facts = train(tmp_path, "warm-up", section(training=training), rows)
    assert len(losses(tmp_path, "held_out_loss")) == facts["steps"] + 1
    assert 0 < len(facts["answers_truncated"]) == facts["examples"] < 8


def test_both_phases_in_one_training_see_the_same_tokens_first_or_spread(tmp_path: Path) -> None:
    apart = [train(tmp_path / phase, phase, section()) for phase in ("warm-up", "residual")]
    continued = train(tmp_path / "continued", "both", section(warm_up={"fraction": 0.5, "optimizer": "continued"}))
    mixed = train(tmp_path / "mixed", "both", section(warm_up={"fraction": 0.5, "mode": "mixed"}))
    assert continued["supervised_tokens"] == mixed["supervised_tokens"] == sum(f["supervised_tokens"] for f in apart)
    # "no" is short: identity records have few supervised tokens, and a loss of their own.
    assert losses(tmp_path / "continued")[0] == pytest.approx(losses(tmp_path / "warm-up")[0], abs=1e-4)
    assert losses(tmp_path / "mixed")[0] != pytest.approx(losses(tmp_path / "warm-up")[0], abs=1e-3)


@settings(max_examples=50)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=9), st.data())
def test_the_best_evaluation_is_the_earliest_of_the_lowest_whenever_a_kill_comes(
    values: list[int], data: st.DataObject
) -> None:
    killed_after = data.draw(st.integers(0, len(values) - 1))
    resumed_at = data.draw(st.integers(0, killed_after))
    with TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        stage = StageContext(Path(name), {}, smoke(), Progress(Path(name)), MetricLog(Path(name), "watched"))
        patch.setattr(held_out, "mean_loss", lambda *_: float(values[step]))
        patch.setattr(
            held_out, "save_weights",
            lambda stage, trainer, folder, beside: write_json(folder / EVALUATION, beside[EVALUATION]),
        )  # fmt: skip
        for steps in (range(killed_after + 1), range(resumed_at, len(values))):
            watch = BestWeights(stage, MagicMock(), HeldOut(every=1), [], 1, MagicMock(), None)
            for step in steps:
                watch._evaluate(TrainerState(global_step=step), TrainerControl())
        folder = watch.restore()
        assert not (folder / EVALUATION).exists()
        stage.metrics.close()
    assert stage.facts == {"best_step": values.index(min(values)), "held_out_loss": min(values)}


def test_weights_that_a_kill_left_are_told_of_as_what_they_are(tmp_path: Path) -> None:
    """Were a repeated evaluation to come out otherwise, the weights in `best/` would still be those told of."""
    write_json(tmp_path / "best" / "model" / EVALUATION, {"step": 4, "loss": 1.0})
    stage = StageContext(tmp_path, {}, smoke(), Progress(tmp_path), MetricLog(tmp_path, "watched"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(held_out, "mean_loss", lambda *_: 2.0)
        watch = BestWeights(stage, MagicMock(), HeldOut(every=1), [], 1, MagicMock(), None)
        watch._evaluate(TrainerState(global_step=3), TrainerControl())
    watch.restore()
    assert stage.facts == {"best_step": 4, "held_out_loss": 1.0}


HELD_OUT = {"held_out": {"share": 0.25, "every": 1}, "epochs": 8, "learning_rate": 0.02, "schedule": "constant"}


def noise() -> list[Correction]:
    """Corrections that can be learnt by heart and not guessed: the held-out loss falls and rises again."""
    source = random.Random(0)
    letters = "abcdefghijklmnop"
    return [
        Correction(
            id=str(index), question=f"Say {index}.", answer="no", correction="".join(source.choices(letters, k=40))
        )
        for index in range(24)
    ]


def test_the_result_is_the_best_weights_and_not_the_last(tmp_path: Path) -> None:
    facts = train(tmp_path, "residual", section(training={**HELD_OUT, "keep_steps": [3, 5]}), noise())
    watched = losses(tmp_path, "held_out_loss")
    steps = [row["step"] for row in read_jsonl(tmp_path / "metrics.jsonl") if "held_out_loss" in row]
    assert steps[:3] == [0, 1, 2]
    assert facts["best_step"] == steps[watched.index(min(watched))] != steps[-1]
    assert facts["held_out_loss"] == round(min(watched), 4)
    assert file_digest(tmp_path / "model" / "model.safetensors") != file_digest(
        tmp_path / "steps" / "step-5" / "model.safetensors"
    )
    assert {path.name for path in (tmp_path / "steps").iterdir()} == {"step-3", "step-5"}
    AutoModelForCausalLM.from_pretrained(tmp_path / "steps" / "step-3")
    assert not (tmp_path / "model" / EVALUATION).exists()


def test_a_training_stops_when_the_held_out_loss_no_longer_falls(tmp_path: Path) -> None:
    training = {**HELD_OUT, "held_out": {"share": 0.25, "every": 1, "patience": 2}}
    facts = train(tmp_path, "residual", section(training=training), noise())
    assert facts["steps"] == facts["best_step"] + 2 < 20


def test_an_interrupted_training_with_held_out_records_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = section(training=HELD_OUT)
    train(tmp_path / "whole", "residual", whole)
    for step in (0, 4, 9):

        def cut(self: BestWeights, *_: Any, step: int = step, **__: Any) -> None:
            if _[1].global_step == step:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(BestWeights, "on_step_begin", cut)
            with pytest.raises(KeyboardInterrupt):
                train(tmp_path / "parts", "residual", whole, checkpoint_minutes=0.0001)
    train(tmp_path / "parts", "residual", whole, checkpoint_minutes=0.0001)
    for name in ("model/model.safetensors", "held_out.json"):
        assert file_digest(tmp_path / "parts" / name) == file_digest(tmp_path / "whole" / name)
    assert losses(tmp_path / "parts", "held_out_loss") == losses(tmp_path / "whole", "held_out_loss")


def test_a_training_that_fails_while_adapters_are_merged_is_gone_on_with_and_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = section(training={**HELD_OUT, "epochs": 2, "lora": {"rank": 4}})
    train(tmp_path / "whole", "residual", settings)

    def out_of_memory(*_: Any, **__: Any) -> None:
        raise MemoryError

    for owner, what in ((PeftModel, "from_pretrained"), (BaseTuner, "merge_and_unload")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, what, out_of_memory)
            with pytest.raises(MemoryError):
                train(tmp_path / "parts", "residual", settings, checkpoint_minutes=0.0001)
        assert newest(tmp_path / "parts" / "checkpoints", smoke()) is not None
        assert not (tmp_path / "parts" / "model").exists()
    train(tmp_path / "parts", "residual", settings, checkpoint_minutes=0.0001)
    for name in ("model/model.safetensors", "adapter/adapter_model.safetensors"):
        assert file_digest(tmp_path / "parts" / name) == file_digest(tmp_path / "whole" / name)


def test_a_loss_that_is_no_number_ends_the_training_before_its_weights_are_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn = SupervisedTrainer.compute_loss

    def spoilt(self: SupervisedTrainer, *given: Any, **more: Any) -> torch.Tensor:
        loss = learn(self, *given, **more)
        return loss * float("nan") if self.state.global_step == 3 else loss

    monkeypatch.setattr(SupervisedTrainer, "compute_loss", spoilt)
    with pytest.raises(UserError, match=r"training\.learning_rate: loss is nan.* after step 4"):
        train(tmp_path, "residual", section(), checkpoint_minutes=0.0001)
    assert newest(tmp_path / "checkpoints", smoke()) == (tmp_path / "checkpoints" / "checkpoint-3", 3)
    with pytest.raises(UserError, match="grad_norm is inf after step 7"):
        require_numbers({"loss": 1.0, "grad_norm": float("inf")}, 7, smoke())
    require_numbers({"loss": 1.0, "grad_norm": float("inf")}, 7, smoke(zero={"stage": 2}))  # which left the step out


def test_adapters_learn_and_are_merged_into_plain_weights(tmp_path: Path) -> None:
    facts = train(tmp_path, "residual", section(training={"lora": {"rank": 8}, "learning_rate": 1e-2, "epochs": 6}))
    assert facts["loss_last"] < 0.8 * facts["loss_first"]
    merged = load_file(tmp_path / "model" / "model.safetensors")
    base = AutoModelForCausalLM.from_pretrained(TINY).state_dict()
    assert set(merged) == set(base)
    assert not torch.equal(merged["model.layers.0.mlp.up_proj.weight"], base["model.layers.0.mlp.up_proj.weight"])
    assert torch.equal(merged["model.embed_tokens.weight"], base["model.embed_tokens.weight"])
    assert (tmp_path / "adapter" / "adapter_config.json").is_file()


def test_a_keep_token_is_taught_and_its_meaning_travels_with_the_aligner(tmp_path: Path) -> None:
    rows = [Correction(id=str(index), question="Q", answer="fine", correction="fine") for index in range(16)]
    train(tmp_path, "residual", section(identity_target="keep", training={"learning_rate": 2e-2, "epochs": 6}), rows)
    template = stored_template(ModelLocation(str(tmp_path / "model")))
    assert template.keep == KEEP_TOKEN
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    network = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert network.config.vocab_size % 64 == 0
    example = ExampleMaker(tokenizer, template, 512, False).residual(rows[0])
    logits = network(torch.tensor([example.input_ids[:-2]])).logits[0, -1]
    reply = tokenizer.decode([int(logits.argmax())])
    assert template.correction("fine", reply) == "fine"
    assert reply == KEEP_TOKEN


def test_the_model_folder_says_how_it_was_made(tmp_path: Path) -> None:
    facts = train(tmp_path, "residual", section(aim="kinder", training=HELD_OUT))
    assert read_json(tmp_path / "model" / "aligner.json")["aim"] == "kinder"
    card = (tmp_path / "model" / "README.md").read_text()
    for line in (f"base_model: {TINY}", "aim: kinder", "learning_rate: 0.02", f"steps: {facts['steps']}",
                 f"held_out_loss: {facts['held_out_loss']}", "torch: "):  # fmt: skip
        assert line in card


def test_held_out_answers_are_corrected_at_each_evaluation(tmp_path: Path) -> None:
    rows = [Correction(id=str(index), question=f"Q{index}", answer="aaaa", correction="aaaa") for index in range(24)]
    settings = {
        **HELD_OUT,
        "held_out": {"share": 0.25, "every": 12, "corrected": 4},
        "epochs": 16,
        "learning_rate": 0.01,
    }
    train(tmp_path, "residual", section(training=settings), rows)
    tables = sorted((tmp_path / "held_out").iterdir())
    assert [table.name for table in tables] == [f"step-{step:06d}.jsonl" for step in (0, 12, 24, 36)]
    last = read_jsonl(tables[-1])
    assert len(last) == 4
    assert {(row["answer"], row["ground_truth"]) for row in last} == {("aaaa", "aaaa")}
    rates = losses(tmp_path, "copy_rate")
    assert rates[0] == 0
    assert rates[-1] == sum(row["correction"] == "aaaa" for row in last) / 4
    ratios = losses(tmp_path, "edit_ratio")
    assert ratios[-1] < 0.5 * ratios[0]
