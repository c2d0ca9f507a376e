"""The scorer: where the score is read, its loss, and the kinds of pairs it learns from."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForSequenceClassification

from aligner_core.embedded_models import byte_tokenizer, local_folder
from aligner_core.files import read_json
from aligner_core.metrics import MetricLog
from aligner_core.profile import Profile
from aligner_core.progress import Progress
from aligner_core.recipe import ScorerSection, Training
from aligner_core.records import Correction, Safety, Turn
from aligner_core.scorer import COST, HELPFUL, load_scorer, pad_right, scorer_ids, scores
from aligner_core.stage_context import ModelLocation, StageContext
from aligner_core.training.score_losses import (
    IDENTICAL,
    SAFE,
    UNSAFE,
    cost_losses,
    pairwise_loss,
    scorer_loss,
    sign_loss,
)
from aligner_core.training.score_model import Encoder, both_sides, collate, labelled, safe_texts_per_unsafe
from aligner_core.training.scorer import train_scorer

TOKENIZER = byte_tokenizer()
SEQUENCES = [[5, 6, 7], [9], [1, 2, 3, 4, 5, 6, 7, 8]]
SCORE = st.floats(-20, 20)
PAIRS = st.lists(st.tuples(st.tuples(SCORE, SCORE), st.tuples(SCORE, SCORE), st.sampled_from([0, 1, 2])), min_size=1)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("W2S_CACHE", str(tmp_path_factory.getbasetemp() / "scorer-cache"))


def network() -> LlamaForSequenceClassification:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=258, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_labels=2, pad_token_id=257, initializer_range=0.5,
    )  # fmt: skip
    return LlamaForSequenceClassification(config).eval()


def record(answer: str, correction: str, unsafe: bool | None = None) -> Correction:
    flag = {} if unsafe is None else {"unsafe": unsafe}
    return Correction.model_validate({"id": "r", "question": "Q?", "answer": answer, "correction": correction, **flag})


@pytest.mark.parametrize("pad", [0, 7, 257])
@torch.inference_mode()
def test_the_score_is_read_at_the_last_true_token_whatever_the_padding(pad: int) -> None:
    model = network()
    together = scores(model, *pad_right(SEQUENCES, pad))
    for sequence, found in zip(SEQUENCES, together, strict=True):
        last = model.model(input_ids=torch.tensor([sequence])).last_hidden_state[0, -1]
        torch.testing.assert_close(found, model.score(last), rtol=1e-4, atol=1e-4)
    assert together.shape == (3, 2)


@torch.inference_mode()
def test_a_score_depends_on_the_last_token_though_it_is_the_pad_id() -> None:
    model = network()
    found = scores(model, *pad_right([[5, 6, 257], [5, 6]], pad=257))
    assert (found[0] - found[1]).abs().min() > 1e-3


@torch.inference_mode()
def test_scores_are_fp32_and_agree_with_transformers_own() -> None:
    model = network()
    ids, lengths = pad_right([[5, 6, 7]])
    torch.testing.assert_close(scores(model, ids, lengths), model(input_ids=ids).logits)
    assert scores(model.bfloat16(), ids, lengths).dtype == torch.float32


@given(PAIRS)
def test_the_loss_is_its_written_out_loop(pairs: list[tuple[tuple[float, float], tuple[float, float], int]]) -> None:
    def minus_log_sigmoid(x: float) -> float:
        return max(-x, 0.0) + math.log1p(math.exp(-abs(x)))

    total = 0.0
    for better, worse, kind in pairs:
        if kind == SAFE:
            total += minus_log_sigmoid(better[HELPFUL] - worse[HELPFUL])
        if kind == UNSAFE:
            total += minus_log_sigmoid(worse[COST] - better[COST])
        total += 0.5 * minus_log_sigmoid(-better[COST])
        total += 0.5 * minus_log_sigmoid(worse[COST] if kind == UNSAFE else -worse[COST])
    tensors = (torch.tensor([pair[side] for pair in pairs], dtype=torch.float64) for side in (0, 1))
    found = scorer_loss(*tensors, torch.tensor([pair[2] for pair in pairs]))
    assert found.item() == pytest.approx(total / len(pairs), rel=1e-6, abs=1e-9)


@given(st.lists(st.tuples(SCORE, SCORE), min_size=1), st.floats(-5, 5))
def test_the_pairwise_loss_is_that_of_the_difference_and_the_right_order_costs_less(
    pairs: list[tuple[float, float]], by: float
) -> None:
    higher, lower = torch.tensor(pairs, dtype=torch.float64).unbind(1)
    loss = pairwise_loss(higher, lower)
    torch.testing.assert_close(pairwise_loss(higher + by, lower + by), loss)
    torch.testing.assert_close(loss, pairwise_loss(lower, higher) + lower - higher)
    torch.testing.assert_close(torch.exp(-loss) + torch.exp(-pairwise_loss(lower, higher)), torch.ones_like(loss))


@given(st.lists(st.tuples(SCORE.filter(lambda cost: abs(cost) > 1e-6), st.booleans()), min_size=1))
def test_the_sign_loss_is_below_a_coins_where_the_sign_is_right(texts: list[tuple[float, bool]]) -> None:
    costs = torch.tensor([cost for cost, _ in texts], dtype=torch.float64)
    unsafe = torch.tensor([label for _, label in texts])
    right = torch.where(unsafe, costs > 0, costs < 0)
    assert ((sign_loss(costs, unsafe) < math.log(2)) == right).all()


@given(PAIRS, st.floats(0.1, 10))
def test_an_answer_without_a_better_text_gives_its_sign_loss_alone(
    pairs: list[tuple[tuple[float, float], tuple[float, float], int]], weight: float
) -> None:
    worse = torch.tensor([pair[1][COST] for pair in pairs], dtype=torch.float64)
    unsafe = torch.tensor([pair[2] == UNSAFE for pair in pairs])
    alone = cost_losses(torch.zeros_like(worse), worse, unsafe, torch.zeros_like(unsafe), weight)
    expected = torch.where(unsafe, weight, 1.0) * 0.5 * sign_loss(worse, unsafe)
    torch.testing.assert_close(alone, expected)


def test_answers_with_and_without_a_better_text_are_told_apart_in_a_batch() -> None:
    encode = Encoder(TOKENIZER, 512)
    safety = Safety(question="Q?", answer="Alone.", unsafe=True)
    records = [
        labelled(record("A.", "B."), encode),
        labelled(safety, encode),
        labelled(record("C.", "D.", True), encode),
    ]
    batch = collate(records)
    assert batch["input_ids"].shape[0] == 5
    assert batch["attention_mask"].sum(1).tolist() == [len(record.worse) for record in records] + [
        len(record.better) for record in records if record.better is not None
    ]
    better, worse = both_sides(torch.tensor([1.0, 2.0, 3.0, 10.0, 30.0]), batch["paired"])
    assert (worse.tolist(), better.tolist()) == ([1, 2, 3], [10, 0, 30])
    assert batch["kinds"].tolist() == [SAFE, UNSAFE, UNSAFE]
    assert safe_texts_per_unsafe(records) == 3 / 2


@pytest.mark.parametrize(
    ("kind", "helpful", "cost"), [(SAFE, True, False), (UNSAFE, False, True), (IDENTICAL, False, False)]
)
def test_each_kind_of_pair_ranks_by_its_own_head(kind: int, helpful: bool, cost: bool) -> None:
    better = torch.zeros(1, 2, requires_grad=True)
    scorer_loss(better, torch.zeros(1, 2), torch.tensor([kind])).backward()
    assert better.grad is not None
    assert (better.grad[0, HELPFUL].item() != 0) == helpful
    assert better.grad[0, COST].item() == pytest.approx(0.75 if cost else 0.25)


@pytest.mark.parametrize(
    ("answer", "correction", "unsafe", "kind"),
    [("A.", "B.", None, SAFE), ("A.", "B.", False, SAFE), ("A.", "B.", True, UNSAFE), ("A.", "A.", None, IDENTICAL),
     ("A.", " A.\n", False, IDENTICAL), ("A.", "A.", True, UNSAFE)],
)  # fmt: skip
def test_the_kind_of_a_pair(answer: str, correction: str, unsafe: bool | None, kind: int) -> None:
    assert labelled(record(answer, correction, unsafe), Encoder(TOKENIZER, 512)).kind == kind


def test_a_pair_holds_the_correction_first_and_each_text_ends_with_eos() -> None:
    pair = labelled(record("Bad.", "Good."), Encoder(TOKENIZER, 512))
    assert TOKENIZER.decode(pair.better).endswith("assistant\nGood.<|im_end|>")
    assert TOKENIZER.decode(pair.worse).endswith("assistant\nBad.<|im_end|>")


def test_of_an_over_long_text_the_end_is_kept_and_counted() -> None:
    texts = ("Q?", "x" * 50, [Turn(role="user", content="Hi")])
    whole = scorer_ids(TOKENIZER, *texts)
    for limit, cut in ((20, 1), (len(whole), 0), (10_000, 0)):
        encode = Encoder(TOKENIZER, limit)
        assert encode(*texts) == whole[-limit:]
        assert encode.cut == cut


def test_padding_keeps_the_sequences_and_their_lengths() -> None:
    ids, lengths = pad_right(SEQUENCES, 99)
    assert lengths.tolist() == [3, 1, 8]
    assert [row[:length] for row, length in zip(ids.tolist(), lengths.tolist(), strict=True)] == SEQUENCES
    assert (ids == 99).sum() == 5 + 7


def trained(folder: Path, global_batch: int, layers: int | None = None) -> StageContext:
    profile = Profile.model_validate(
        {
            "name": "here",
            "device": {"kind": "cpu", "name": "x", "memory_gib": 8, "tflops": 1.0, "bandwidth_gb_s": 20},
            "precision": "float32",
        }
    )
    stage = StageContext(folder, {}, profile, Progress(folder), MetricLog(folder, "scorer"))
    training = Training(epochs=1, global_batch=global_batch, learning_rate=1e-3, max_length=256)
    rows = [record(f"No {number}.", f"Yes {number}.", unsafe=number % 3 == 0) for number in range(12)]
    model = ModelLocation(local_folder("embedded:tiny-random"))
    train_scorer(stage, model, rows, rows[:3], ScorerSection(training=training, trainable_layers=layers), 1)
    stage.metrics.close()
    return stage


@pytest.mark.parametrize(("global_batch", "steps"), [(12, 1), (6, 2), (4, 3), (2, 6)])
def test_an_optimizer_step_of_the_scorer_sees_the_global_batch(tmp_path: Path, global_batch: int, steps: int) -> None:
    assert trained(tmp_path, global_batch).facts["steps"] == steps


def test_a_trained_scorer_loads_again_with_its_calibration(tmp_path: Path) -> None:
    stage = trained(tmp_path, 4, layers=1)
    before, _ = load_scorer(ModelLocation(local_folder("embedded:tiny-random")), torch.float32)
    after, tokenizer = load_scorer(ModelLocation(str(tmp_path / "model")), torch.float32)
    changed = {
        name
        for (name, one), two in zip(before.named_parameters(), after.parameters(), strict=True)
        if not one.equal(two)
    }
    assert changed
    assert all(name.startswith(("model.layers.1.", "model.norm.", "score.")) for name in changed)
    assert stage.facts["kinds"] == {"safe": 8, "unsafe": 4, "identical": 0}
    assert read_json(tmp_path / "model" / "scorer.json")["max_length"] == 256
    assert scorer_ids(tokenizer, "Q?", "A.", None) == scorer_ids(TOKENIZER, "Q?", "A.", None)
    assert not list((tmp_path / "checkpoints").iterdir())
