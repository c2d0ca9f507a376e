"""From corrections to trained students: the stages that select weak labels and learn from them by SFT, DPO or PPO."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from aligner_core.recipe import Ppo, Student
from aligner_core.recipe.students import Method
from aligner_core.stages import Artifact, Source, Stage
from aligner_core.tasks.policy import TrainPpo
from aligner_core.tasks.preference import REFERENCE, ReferenceLogProbs, TrainDpo
from aligner_core.tasks.train import MODEL
from aligner_core.work import PolicyWork, PreferenceWork, ScoringWork
from w2s.weak_labels import LABELS, PAIRS, SelectWeakLabels

if TYPE_CHECKING:
    from w2s.pipeline import StageBuilder

Input = Artifact | Source


def system_of(method: Method, prefix: str = "student") -> str:
    """What the report calls a method's student."""
    return prefix if method == "sft" else f"{prefix}_{method}"


class Students:
    """Makes the stages of students that all learn from corrections of the same model's answers."""

    def __init__(self, builder: StageBuilder, prefix: str, seed: int, start: Input, examples: int) -> None:
        """`start` is the model that is fine-tuned, `examples` how many labels to expect."""
        self._builder = builder
        self._recipe = builder.recipe
        self._prefix = prefix
        self._seed = seed
        self._start = start
        self._examples = examples

    def labels(self, name: str, corrections: Mapping[str, Input]) -> Stage:
        """The corrections that the recipe's rules let through."""
        rules = self._recipe.weak_labels
        inputs = dict(corrections)
        task = SelectWeakLabels(rules=rules, precision=self._builder.precision)
        if not rules.needs_scores:
            return Stage(name, task, inputs)
        scorers, cost_weight = self._builder.scorers, 1 if rules.drop_unsafe else rules.cost_weight
        shapes = tuple(scorers.score_shapes(cost_weight).values())
        work = ScoringWork(shapes, 2 * self._examples, self._tokens)
        return Stage(name, task, inputs | scorers.score_models(cost_weight), work)

    def by_each_method(self, labels: Stage, questions: Artifact) -> dict[str, Stage]:
        """The report's name of each of the recipe's students, with its training."""
        methods = self._settings.methods
        return {system_of(method, self._prefix): self.train(method, labels, questions) for method in methods}

    def train(self, method: Method, labels: Stage, questions: Artifact) -> Stage:
        """The student that learns `labels` by `method`; PPO answers `questions`."""
        match method:
            case "sft":
                return self._sft(labels)
            case "dpo":
                return self._dpo(labels)
            case "ppo":
                return self._ppo(labels, questions)

    def _sft(self, labels: Stage) -> Stage:
        training = self._builder.student_training
        return self._builder.train_to_answer(
            self._name("sft"), "upstream", labels.output(LABELS), training, self._seed, self._start, self._examples
        )

    def _dpo(self, labels: Stage) -> Stage:
        section, builder = self._settings.dpo, self._builder
        model, pairs = self._first(section.start, labels), labels.output(PAIRS)
        shape, precision = builder.shapes["upstream"], builder.precision
        name = self._name("dpo")
        reference = Stage(
            f"reference-{name}", ReferenceLogProbs(precision=precision, max_length=section.training.max_length),
            {"model": model, "pairs": pairs},
            ScoringWork((shape,), 2 * self._examples, self._tokens, builder.sizes.text),
        )  # fmt: skip
        work = builder.training_work("upstream", self._examples, self._tokens, section.training, PreferenceWork)
        task = TrainDpo(section=section, precision=precision, seed=self._seed)
        inputs: dict[str, Input] = {"model": model, "pairs": pairs, "reference": reference.output(REFERENCE)}
        return Stage(name, task, inputs, work)

    def _ppo(self, labels: Stage, questions: Artifact) -> Stage:
        section, builder = self._settings.ppo, self._builder
        task = TrainPpo(
            section=section, max_new_tokens=section.max_new_tokens or self._recipe.generation.max_new_tokens,
            precision=builder.precision, engine=builder.engine, seed=self._seed,
        )  # fmt: skip
        inputs: dict[str, Input] = {
            "model": self._first(section.start, labels),
            "questions": questions,
            "labels": labels.output(LABELS),
            **builder.scorers.score_models(section.cost_weight),
        }
        return Stage(self._name("ppo"), task, inputs, self._policy_work(section))

    def _policy_work(self, section: Ppo) -> PolicyWork:
        sizes, policy = self._builder.sizes, self._builder.shapes["upstream"]
        new_tokens = section.max_new_tokens or self._recipe.generation.max_new_tokens
        scores = self._builder.scorers.score_shapes(section.cost_weight)
        return PolicyWork(
            policy=policy, value=scores["reward"] if section.value_start == "reward" else policy,
            scores=tuple(scores.values()),
            iterations=section.iterations or max(1, round(section.epochs * self._examples / section.prompts)),
            prompts=section.prompts, prompt_tokens=sizes.question, new_tokens=min(sizes.text, new_tokens),
            longest=min(section.max_length, 3 * sizes.question + new_tokens), global_batch=section.global_batch,
            updates=section.updates, label_tokens=self._tokens if section.ptx else 0,
            lora_rank=section.lora.rank if section.lora else None,
        )  # fmt: skip

    def _first(self, start: str, labels: Stage) -> Input:
        """The model that a method begins with: the students' own start, or the SFT student of the same labels."""
        if start == "upstream":
            return self._start
        return self._sft(labels).output(MODEL)

    @property
    def _settings(self) -> Student:
        assert self._recipe.student is not None, "asked for only where there is a student"
        return self._recipe.student

    @property
    def _tokens(self) -> int:
        return self._builder.sizes.question + self._builder.sizes.text

    def _name(self, method: Method) -> str:
        return f"{system_of(method, self._prefix)}-s{self._seed}"
