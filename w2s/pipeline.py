"""The weak-to-strong experiment as a graph of stages, from a recipe and a profile.

Per seed: the Aligner learns on W; it corrects the upstream's answers to S; the student learns those weak labels, the
ceiling the ground truth of S, the floor that of W; all answer the held-out questions and one scorer judges them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from aligner_core.correctors.parts import Slot, bare, describe, slots
from aligner_core.data_sources import Size, data_source, size_of
from aligner_core.errors import Problem, UserError
from aligner_core.mixing import mixed_counts
from aligner_core.model_ids import model_identity, parse_endpoint
from aligner_core.profile import Profile
from aligner_core.recipe import PARTS, Corrector, Data, Generation, Part, Recipe, Role, Shape, Training, WarmUp
from aligner_core.shapes import shape_of
from aligner_core.stages import Artifact, Source, Stage, in_order
from aligner_core.tasks.generate import ANSWERS, CORRECTIONS, AnswerQuestions, CorrectAnswers
from aligner_core.tasks.score import ScoreAnswers, TrainScorer
from aligner_core.tasks.train import MODEL, AlignerPhase, TrainAligner, TrainToAnswer
from aligner_core.work import EndpointWork, GenerationWork, ScoringWork, Step, Steps, TrainingWork
from w2s.prepare import EVALUATION, QUERIES, STRONG, WEAK, PrepareData, SourceUse
from w2s.weak_labels import LABELS, SelectWeakLabels

INSTRUCTION_TOKENS = 40
DRAWS_APART = 1_000_003  # between the sampling seeds of two draws, so that no other seed of a recipe gives the same
COMPARED = "by_"  # begins the names of systems that are corrected by one of `compared`


def model_source(role: Role) -> Source:
    return Source(role.model, model_identity(role.model, role.revision), role.revision, role.trust_remote_code)


@dataclass(frozen=True)
class Sizes:
    """How many records each part will have, and how long they are, for planning."""

    weak: int
    strong: int
    queries: int
    evaluation: int
    question: int
    text: int


def build(recipe: Recipe, profile: Profile) -> list[Stage]:
    """All stages of the experiment in the order in which they run.

    Raises:
        UserError: with every model or data set that cannot be found.
    """
    return in_order(StageBuilder(recipe, profile).weak_to_strong(seed) for seed in recipe.seeds)


def planned_sizes(recipe: Recipe) -> Sizes:
    data, limits = recipe.data, recipe.data.limits
    corrections = _mixed_size(data, "corrections", data.expected.corrections)
    evaluation = _mixed_size(data, "evaluation", data.expected.evaluation).records
    queries = _mixed_size(data, "queries", 0).records if data.queries else 0
    weak = round(corrections.records * data.weak_share)
    return Sizes(
        weak=min(weak, limits.corrections or weak),
        strong=min(corrections.records - weak, limits.weak_labels or corrections.records),
        queries=min(queries, limits.queries or queries),
        evaluation=min(evaluation, limits.evaluation or evaluation),
        question=corrections.question_tokens,
        text=min(corrections.text_tokens, recipe.generation.max_new_tokens),
    )


def _mixed_size(data: Data, part: Part, expected: int) -> Size:
    """Size of a part after mixing; `expected` records where a source cannot be read without a network."""
    sources = list(data.sources(part).values())
    unknown = Size(expected, data.expected.question_tokens, data.expected.answer_tokens)
    sizes = [size_of(item.source, item.columns) or unknown for item in sources]
    counts = mixed_counts([size.records for size in sizes], [item.weight for item in sources])
    total = max(1, sum(counts))
    question = sum(size.question_tokens * count for size, count in zip(sizes, counts, strict=True))
    text = sum(size.text_tokens * count for size, count in zip(sizes, counts, strict=True))
    return Size(sum(counts), round(question / total), round(text / total))


class StageBuilder:
    """Makes each stage from the recipe's sections. Stages that do not depend on the seed carry no seed in the name."""

    def __init__(self, recipe: Recipe, profile: Profile, arm: str = "") -> None:
        """`arm` goes before the names of the Aligner's stages."""
        self.recipe = recipe
        self._arm = arm
        self.profile = profile
        self.sizes = planned_sizes(recipe)
        self.precision = profile.precision
        self.engine = profile.generation.engine
        self._find_sources()

    def _find_sources(self) -> None:
        problems: list[Problem] = []
        self.models: dict[str, Source] = {}
        self.shapes: dict[str, Shape] = {}
        self.data: dict[str, Source] = {}
        for name in ("upstream", "aligner", "scorer", "embedder"):
            role: Role = getattr(self.recipe.roles, name)
            try:
                if parse_endpoint(role.model):
                    what = "is behind an endpoint, and this role is trained or loaded here"
                    raise UserError(Problem(f"roles.{name}", what, "name weights; a corrector may be behind one"))
                self.models[name] = model_source(role)
                self.shapes[name] = shape_of(role, f"roles.{name}")
            except UserError as error:
                problems += error.problems
        for part in PARTS:
            for name, item in self.recipe.data.sources(part).items():
                try:
                    self.data[name] = data_source(item.source, f"data.{part}")
                except UserError as error:
                    problems += error.problems
        if problems:
            raise UserError(problems)

    def prepare(self) -> Stage:
        data = self.recipe.data
        uses = {name: SourceUse.of(item) for part in PARTS for name, item in data.sources(part).items()}
        task = PrepareData(
            weak_share=data.weak_share, limits=data.limits, leakage=data.leakage, sources=uses,
            on_invalid=data.on_invalid, answers=data.answers,
        )  # fmt: skip
        return Stage("data", task, self.data)

    def part(self, name: str) -> Artifact:
        return self.prepare().output(name)

    def weak_to_strong(self, seed: int) -> Stage:
        """Scores of upstream, aligned and its arms, floor, student and ceiling on the held-out questions."""
        upstream = self.upstream_answers("eval", EVALUATION, seed)
        systems = {"upstream": upstream, "aligned": self.correct(f"aligned-eval-s{seed}", upstream, seed)}
        for arm in self.recipe.arms:
            recipe = self.recipe.model_copy(update={"aligner": self.recipe.arm(arm)})
            builder = StageBuilder(recipe, self.profile, f"{arm}-")
            systems[f"aligned_{arm}"] = builder.correct(f"aligned-{arm}-eval-s{seed}", upstream, seed)
        for name, corrector in self.recipe.compared.items():
            systems[COMPARED + name] = self.correct(f"by-{name}-eval-s{seed}", upstream, seed, corrector)
        if self.recipe.student:
            systems |= self._strong_systems(seed)
        return self.scores(systems, seed)

    def _strong_systems(self, seed: int) -> dict[str, Artifact]:
        training = self.student_training
        trained = {
            "floor": self.train_to_answer(f"floor-s{seed}", "aligner", self.part(WEAK), self.floor_training(), seed),
            "student": self.student(seed, with_queries=False),
            "ceiling": self.train_to_answer(f"ceiling-s{seed}", "upstream", self.part(STRONG), training, seed),
        }
        if self.recipe.data.queries:
            trained["student_more"] = self.student(seed, with_queries=True)
        return {name: self.answer(f"{name}-eval-s{seed}", stage, EVALUATION, seed) for name, stage in trained.items()}

    def scores(
        self, systems: Mapping[str, Artifact], seed: int, name: str = "scores", scorer: Artifact | None = None
    ) -> Stage:
        """All systems' texts on the held-out questions, scored by the evaluating scorer or by another."""
        fields = {name: "correction" if texts.path == CORRECTIONS else "answer" for name, texts in systems.items()}
        task = ScoreAnswers(systems=fields, precision=self.precision, scorer="training" if scorer else "evaluation")
        inputs: dict[str, Artifact | Source] = {
            **systems,
            "questions": self.part(EVALUATION),
            "scorer": scorer or self.scorer(),
            "embedder": self.models["embedder"],
        }
        rows = len(systems) * self.sizes.evaluation
        work = ScoringWork(self.shapes["scorer"], rows, self.sizes.question + self.sizes.text)
        return Stage(f"{name}-s{seed}", task, inputs, work)

    def upstream_answers(self, name: str, part: str, seed: int) -> Artifact:
        """The upstream's own answers, given or sampled; shared by all seeds where decoding has none."""
        if self.recipe.data.answers == "given":
            return self.part(part)
        seed = self.sampling_seed(seed)
        suffix = f"-s{seed}" if seed else ""
        return self._answers(f"upstream-{name}{suffix}", "upstream", self.models["upstream"], part, seed)

    def answer(self, name: str, trained: Stage, part: str, seed: int) -> Artifact:
        """A trained model's answers to a part of the data."""
        return self._answers(name, trained.name, trained.output(MODEL), part, self.sampling_seed(seed))

    def _answers(self, name: str, upstream: str, model: Artifact | Source, part: str, seed: int) -> Artifact:
        task = AnswerQuestions(
            upstream=upstream, generation=self.generation, precision=self.precision, engine=self.engine, seed=seed
        )
        role = "aligner" if upstream.startswith("floor") else "upstream"
        work = self._generation_work(role, self.rows_of(part), self.sizes.question)
        return Stage(name, task, {"model": model, "questions": self.part(part)}, work).output(ANSWERS)

    def rows_of(self, part: str) -> int:
        """How many records a part will have."""
        sizes = self.sizes
        return {WEAK: sizes.weak, STRONG: sizes.strong, QUERIES: sizes.queries, EVALUATION: sizes.evaluation}[part]

    def correct(
        self, name: str, answers: Artifact, seed: int, corrector: Corrector | None = None, draw: int = 0
    ) -> Artifact:
        """The corrections of a model's answers, by the recipe's corrector or another; each `draw` samples anew."""
        settings = corrector or self.recipe.corrector
        task = CorrectAnswers(
            corrector=bare(settings), name=describe(bare(settings)), generation=self.generation,
            precision=self.precision, engine=self.engine, seed=self.sampling_seed(seed) + draw * DRAWS_APART,
        )  # fmt: skip
        needed = list(slots(settings))
        inputs = {"answers": answers, **{slot.name: self._slot_input(slot, seed) for slot in needed}}
        rows = getattr(answers.stage.work, "rows", self.sizes.evaluation)
        work = Steps(tuple(self._slot_work(slot, rows) for slot in needed if slot.what != "records"))
        return Stage(name, task, inputs, work).output(CORRECTIONS)

    def _slot_input(self, slot: Slot, seed: int) -> Artifact | Source:
        """What the recipe names for a need of its corrector, or what stands for it in this experiment."""
        if isinstance(slot.given, Role):
            return model_source(slot.given)
        if isinstance(slot.given, str):
            return data_source(slot.given, slot.name)
        match slot.what:
            case "aligner":
                return self.aligner(seed).output(MODEL)
            case "prompted":
                return self.models["upstream"]
            case "scorer":
                return self.selector()
            case "records":
                return self.part(WEAK)

    def _slot_work(self, slot: Slot, rows: int) -> Step:
        tokens = self.sizes.question + self.sizes.text
        role = {"aligner": "aligner", "prompted": "upstream", "scorer": "scorer"}[slot.what]
        shape = self.shapes[role]
        if isinstance(slot.given, Role):
            if parse_endpoint(slot.given.model):
                return EndpointWork(slot.passes * rows, tokens + INSTRUCTION_TOKENS, self.sizes.text)
            shape = shape_of(slot.given, slot.name)
        if slot.what == "scorer":
            return ScoringWork(shape, slot.passes * rows, tokens)
        prompt = tokens + INSTRUCTION_TOKENS
        longest = prompt + self.generation.max_new_tokens
        return GenerationWork(shape, slot.passes * rows, prompt, self.sizes.text, longest)

    def aligner_records(self) -> Artifact:
        """What the Aligner is trained on."""
        return self.part(WEAK)

    def aligner(self, seed: int) -> Stage:
        """Identity warm-up and residual training, in two stages or in one, as the recipe says."""
        section, warm_up = self.recipe.aligner, self.recipe.aligner.warm_up
        base: Artifact | Source = self.models["aligner"]
        apart = warm_up.mode == "sequential" and warm_up.optimizer == "fresh"
        if warm_up.fraction > 0 and apart:
            base = self._aligner_phase(
                f"{self._arm}warm-up-s{seed}", base, "warm-up", warm_up.fraction * warm_up.epochs, seed
            )
        phase: AlignerPhase = "residual" if apart or warm_up.fraction == 0 else "both"
        epochs = section.training.epochs + (warm_up.fraction * warm_up.epochs if phase == "both" else 0)
        return self._aligner_phase(f"{self._arm}aligner-s{seed}", base, phase, epochs, seed).stage

    def _aligner_phase(
        self, name: str, base: Artifact | Source, phase: AlignerPhase, epochs: float, seed: int
    ) -> Artifact:
        section = self.recipe.aligner
        if phase == "residual":  # how the weights that it starts from were made is no setting of this stage
            section = section.model_copy(update={"warm_up": WarmUp(fraction=0)})
        task = TrainAligner(phase=phase, section=section, precision=self.precision, seed=seed)
        tokens = self.sizes.question + 2 * self.sizes.text + INSTRUCTION_TOKENS
        training = section.training.model_copy(update={"epochs": epochs})
        examples = min(section.records or self.sizes.weak, self.sizes.weak)
        work = self._training_work("aligner", examples, tokens, training)
        return Stage(name, task, {"model": base, "records": self.aligner_records()}, work).output(MODEL)

    def student(self, seed: int, with_queries: bool) -> Stage:
        suffix = "_more" if with_queries else ""
        labels = Stage(
            f"weak-labels{suffix}-s{seed}", SelectWeakLabels(rules=self.recipe.weak_labels),
            self._label_inputs(seed, with_queries),
        )  # fmt: skip
        training = self.student_training
        return self.train_to_answer(f"student{suffix}-s{seed}", "upstream", labels.output(LABELS), training, seed)

    def _label_inputs(self, seed: int, with_queries: bool) -> dict[str, Artifact | Source]:
        answers = self.upstream_answers("labels", STRONG, seed)
        inputs: dict[str, Artifact | Source] = {"corrections": self.correct(f"corrections-s{seed}", answers, seed)}
        if with_queries:
            more = self.upstream_answers("queries", QUERIES, seed)
            inputs["corrections_queries"] = self.correct(f"corrections-queries-s{seed}", more, seed)
        return inputs

    def train_to_answer(
        self,
        name: str,
        role: str,
        records: Artifact,
        training: Training,
        seed: int,
        start: Artifact | None = None,
    ) -> Stage:
        """Question -> correction, from the role's model or from `start`."""
        examples = self.sizes.weak if role == "aligner" else self.sizes.strong
        if name.startswith("student_more"):
            examples += self.sizes.queries
        work = self._training_work(role, examples, self.sizes.question + self.sizes.text, training)
        task = TrainToAnswer(training=training, precision=self.precision, seed=seed)
        return Stage(name, task, {"model": start or self.models[role], "records": records}, work)

    def scorer(self) -> Artifact:
        """One evaluating scorer for the whole experiment; it sees all ground truth and no held-out question."""
        parts = (WEAK,) if self.recipe.data.weak_share == 1 else (WEAK, STRONG)
        return self._scorer("scorer", parts, self.recipe.scorer.seed)

    def selector(self) -> Artifact:
        """The scorer that correctors may use: other data than the evaluating one (W alone), and another seed."""
        return self._scorer("selector", (WEAK,), self.recipe.scorer.seed + 1)

    def _scorer(self, name: str, parts: tuple[str, ...], seed: int) -> Artifact:
        section = self.recipe.scorer
        shape = self.shapes["scorer"]
        tokens = self.sizes.question + self.sizes.text
        share = (section.trainable_layers or shape.layers) / shape.layers
        training = section.training
        pairs = self.sizes.weak + (self.sizes.strong if STRONG in parts else 0)
        work = TrainingWork(shape, 2 * pairs, tokens, 1, training.epochs, 2 * training.global_batch,
                            training.max_length, share)  # fmt: skip
        task = TrainScorer(section=section, precision=self.precision, seed=seed)
        records = {f"records_{part[0]}": self.part(part) for part in parts}
        return Stage(name, task, {"model": self.models["scorer"], **records}, work).output(MODEL)

    @property
    def generation(self) -> Generation:
        return self.recipe.generation

    @property
    def student_training(self) -> Training:
        assert self.recipe.student is not None, "asked for only where there is a student"
        return self.recipe.student.training

    def floor_training(self) -> Training:
        return self.recipe.floor or self.recipe.aligner.training

    def sampling_seed(self, seed: int) -> int:
        """Greedy decoding has no seed, so its answers are shared by all seeds."""
        return 0 if self.generation.preset == "greedy" else seed

    def _generation_work(self, role: str, rows: int, prompt: int) -> GenerationWork:
        longest = prompt + self.generation.max_new_tokens
        return GenerationWork(self.shapes[role], rows, prompt, self.sizes.text, longest)

    def _training_work(self, role: str, examples: int, tokens: int, training: Training) -> TrainingWork:
        return TrainingWork(
            self.shapes[role], examples, tokens, self.sizes.text, training.epochs, training.global_batch,
            training.max_length, lora_rank=training.lora.rank if training.lora else None,
        )  # fmt: skip
