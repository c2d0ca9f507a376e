"""The weak-to-strong experiment as a graph of stages, from a recipe and a profile.

Per seed: the Aligner learns on W; it corrects the upstream's answers to S; the student learns those weak labels, the
ceiling the ground truth of S, the floor that of W; all answer the held-out questions and one scorer judges them.
"""

from __future__ import annotations

from collections.abc import Mapping

from aligner_core.correctors.parts import Slot, bare, describe, draws, slots
from aligner_core.data_sources import data_source
from aligner_core.errors import Problem, UserError
from aligner_core.model_ids import model_identity, parse_endpoint
from aligner_core.profile import Profile
from aligner_core.recipe import (
    PARTS,
    Corrector,
    Generation,
    Recipe,
    Role,
    Roles,
    Shape,
    Training,
    WarmUp,
)
from aligner_core.shapes import shape_of
from aligner_core.stages import Artifact, Source, Stage, in_order
from aligner_core.tasks.generate import ANSWERS, CORRECTIONS, AnswerQuestions, CorrectAnswers
from aligner_core.tasks.score import ScoreAnswers
from aligner_core.tasks.train import MODEL, AlignerPhase, TrainAligner, TrainToAnswer
from aligner_core.work import EndpointWork, GenerationWork, ScoringWork, Step, Steps, TrainingWork
from w2s.main_table import MainTable
from w2s.prepare import EVALUATION, INSTRUCTIONS, PREFERENCES, QUERIES, STRONG, WEAK, PrepareData, SourceUse
from w2s.scorers import Scorers
from w2s.sizes import planned_sizes
from w2s.students import Students

INSTRUCTION_TOKENS = 40
DRAWS_APART = 1_000_003  # between the sampling seeds of two draws, so that no other seed of a recipe gives the same
COMPARED = "by_"  # begins the names of systems that are corrected by one of `compared`


def model_source(role: Role) -> Source:
    return Source(role.model, model_identity(role.model, role.revision), role.revision, role.trust_remote_code)


def build(recipe: Recipe, profile: Profile) -> list[Stage]:
    """All stages of the experiment in the order in which they run.

    Raises:
        UserError: with every model or data set that cannot be found.
    """
    builder = StageBuilder(recipe, profile)
    if recipe.upstreams:
        return in_order(MainTable(builder).cells())
    return in_order(builder.weak_to_strong(seed) for seed in recipe.seeds)


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
        self.scorers = Scorers(self)
        self._find_sources()

    def _find_sources(self) -> None:
        problems: list[Problem] = []
        self.models: dict[str, Source] = {}
        self.shapes: dict[str, Shape] = {}
        self.data: dict[str, Source] = {}
        for name in Roles.model_fields:
            role: Role | None = getattr(self.recipe.roles, name)
            if role is None:
                continue
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
        systems = {"upstream": upstream, **self.corrected("eval", upstream, self.sizes.evaluation, seed)}
        if self.recipe.student:
            systems |= self._strong_systems(seed)
        return self.scores(systems, seed)

    def corrected(self, name: str, answers: Artifact, rows: int, seed: int) -> dict[str, Artifact]:
        """Held-out answers corrected by the Aligner, by its arms and by what is compared, under the systems' names."""
        systems = {"aligned": self.correct(f"aligned-{name}-s{seed}", answers, rows, seed)}
        for arm in self.recipe.arms:
            recipe = self.recipe.model_copy(update={"aligner": self.recipe.arm(arm)})
            builder = StageBuilder(recipe, self.profile, f"{arm}-")
            systems[f"aligned_{arm}"] = builder.correct(f"aligned-{arm}-{name}-s{seed}", answers, rows, seed)
        for compared, corrector in self.recipe.compared.items():
            stage = f"by-{compared}-{name}-s{seed}"
            systems[COMPARED + compared] = self.correct(stage, answers, rows, seed, corrector)
        return systems

    def _strong_systems(self, seed: int) -> dict[str, Artifact]:
        assert self.recipe.student is not None
        by_weak_labels = self.recipe.student.learns_from == "weak_labels"
        trained = self._by_weak_labels(seed) if by_weak_labels else self._by_other_data(seed)
        role = {"floor": "aligner"}
        return {
            name: self.answer(f"{name}-eval-s{seed}", stage, EVALUATION, seed, role.get(name, "upstream"))
            for name, stage in trained.items()
        }

    def _by_weak_labels(self, seed: int) -> dict[str, Stage]:
        """Floor, ceiling and a student by each method; where there are further questions, one more by SFT on both."""
        floor, training = self.floor_training(), self.student_training
        trained = {"floor": self.train_to_answer(f"floor-s{seed}", "aligner", self.part(WEAK), floor, seed)}
        students = Students(self, "student", seed, self.upstream, self.sizes.strong)
        labels = students.labels(f"weak-labels-s{seed}", self._label_inputs(seed, with_queries=False))
        trained |= students.by_each_method(labels, self.part(STRONG))
        if self.recipe.data.queries:
            students = Students(self, "student_more", seed, self.upstream, self.sizes.strong + self.sizes.queries)
            labels = students.labels(f"weak-labels_more-s{seed}", self._label_inputs(seed, with_queries=True))
            trained["student_more"] = students.train("sft", labels, self.part(STRONG))
        trained["ceiling"] = self.train_to_answer(f"ceiling-s{seed}", "upstream", self.part(STRONG), training, seed)
        return trained

    def _by_other_data(self, seed: int) -> dict[str, Stage]:
        """A student by each method, of the data that the Aligner learns from, or of preferences."""
        assert self.recipe.student is not None
        part = WEAK if self.recipe.student.learns_from == "corrections" else PREFERENCES
        records = self.part(part)
        students = Students(self, "student", seed, self.upstream, self.rows_of(part))
        labels = students.labels(f"labels-s{seed}", {"corrections": records})
        return students.by_each_method(labels, records)

    def scores(
        self,
        systems: Mapping[str, Artifact],
        seed: int,
        name: str = "scores",
        questions: Artifact | None = None,
        asked: int | None = None,
        scorer: Artifact | None = None,
    ) -> Stage:
        """All systems' texts on the held-out questions, or on so many others, by the evaluating scorer or another."""
        fields = {system: "correction" if texts.path == CORRECTIONS else "answer" for system, texts in systems.items()}
        task = ScoreAnswers(systems=fields, precision=self.precision, scorer="training" if scorer else "evaluation")
        inputs: dict[str, Artifact | Source] = {
            **systems,
            "questions": questions or self.part(EVALUATION),
            "scorer": scorer or self.scorers.evaluating(),
            "embedder": self.models["embedder"],
        }
        rows = len(systems) * (asked or self.sizes.evaluation)
        work = ScoringWork((self.shapes["scorer"],), rows, self.sizes.question + self.sizes.text)
        return Stage(f"{name}-s{seed}", task, inputs, work)

    def ask(self, name: str, upstream: str, role: Role, questions: Artifact, rows: int, seed: int) -> Artifact:
        """The answers of a model from outside, loaded here or served by others."""
        if parse_endpoint(role.model):
            work: Step = EndpointWork(rows, self.sizes.question, self.sizes.text)
        else:
            shape = shape_of(role, f"upstreams.{upstream}.model")
            work = self._generation_work(shape, rows, self.sizes.question)
        return self._ask(self._shared(name, seed), upstream, model_source(role), questions, work, seed)

    @property
    def upstream(self) -> Artifact | Source:
        """The model whose answers are corrected: the role's, or that after its own fine-tuning on instructions."""
        training = self.recipe.upstream_sft
        if training is None:
            return self.models["upstream"]
        task = TrainToAnswer(training=training, precision=self.precision, seed=self.recipe.seeds[0], learns="answer")
        work = self.training_work("upstream", self.sizes.instructions, self.sizes.question + self.sizes.text, training)
        inputs: dict[str, Artifact | Source] = {"model": self.models["upstream"], "records": self.part(INSTRUCTIONS)}
        return Stage("upstream-sft", task, inputs, work).output(MODEL)

    def upstream_answers(self, name: str, part: str, seed: int) -> Artifact:
        """The upstream's own answers, given or sampled; shared by all seeds where decoding has none."""
        if self.recipe.data.answers == "given":
            return self.part(part)
        work = self._generation_work(self.shapes["upstream"], self.rows_of(part), self.sizes.question)
        name = self._shared(f"upstream-{name}", seed)
        return self._ask(name, "upstream", self.upstream, self.part(part), work, seed)

    def answer(self, name: str, trained: Stage, part: str, seed: int, role: str = "upstream") -> Artifact:
        """The answers to a part of the data by a model that was trained from a role's."""
        work = self._generation_work(self.shapes[role], self.rows_of(part), self.sizes.question)
        return self._ask(name, trained.name, trained.output(MODEL), self.part(part), work, seed)

    def _ask(
        self, name: str, upstream: str, model: Artifact | Source, questions: Artifact, work: Step, seed: int
    ) -> Artifact:
        task = AnswerQuestions(
            upstream=upstream, generation=self.generation, precision=self.precision, engine=self.engine,
            seed=self.sampling_seed(seed),
        )  # fmt: skip
        return Stage(name, task, {"model": model, "questions": questions}, work).output(ANSWERS)

    def rows_of(self, part: str) -> int:
        """How many records a part will have."""
        rows: int = getattr(self.sizes, part.removesuffix(".jsonl"))
        return rows

    def correct(
        self, name: str, answers: Artifact, rows: int, seed: int, corrector: Corrector | None = None, draw: int = 0
    ) -> Artifact:
        """The corrections of so many answers, by the recipe's corrector or another; each `draw` samples anew."""
        settings = corrector or self.recipe.corrector
        drawn = (seed if draws(settings) else self.sampling_seed(seed)) + draw * DRAWS_APART
        task = CorrectAnswers(
            corrector=bare(settings), name=describe(bare(settings)), generation=self.generation,
            precision=self.precision, engine=self.engine, seed=drawn,
        )  # fmt: skip
        needed = list(slots(settings))
        inputs = {"answers": answers, **{slot.name: self._slot_input(slot, seed) for slot in needed}}
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
                return self.upstream
            case "scorer":
                return self.scorers.selector()
            case "records":
                return self.part(WEAK)

    def _slot_work(self, slot: Slot, rows: int) -> Step:
        rows, tokens = slot.passes * rows, self.sizes.question + self.sizes.text
        role = {"aligner": "aligner", "prompted": "upstream", "scorer": "scorer"}[slot.what]
        shape = self.shapes[role]
        if isinstance(slot.given, Role):
            if parse_endpoint(slot.given.model):
                return EndpointWork(rows, tokens + INSTRUCTION_TOKENS, self.sizes.text)
            shape = shape_of(slot.given, slot.name)
        if slot.what == "scorer":
            return ScoringWork((shape,), rows, tokens)
        return self._generation_work(shape, rows, tokens + INSTRUCTION_TOKENS)

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
        work = self.training_work("aligner", examples, tokens, training)
        return Stage(name, task, {"model": base, "records": self.aligner_records()}, work).output(MODEL)

    def _label_inputs(self, seed: int, with_queries: bool) -> dict[str, Artifact | Source]:
        answers = self.upstream_answers("labels", STRONG, seed)
        corrections = self.correct(f"corrections-s{seed}", answers, self.sizes.strong, seed)
        inputs: dict[str, Artifact | Source] = {"corrections": corrections}
        if with_queries:
            more = self.upstream_answers("queries", QUERIES, seed)
            name = f"corrections-queries-s{seed}"
            inputs["corrections_queries"] = self.correct(name, more, self.sizes.queries, seed)
        return inputs

    def train_to_answer(
        self,
        name: str,
        role: str,
        records: Artifact,
        training: Training,
        seed: int,
        start: Artifact | Source | None = None,
        examples: int | None = None,
    ) -> Stage:
        """Question -> correction, from the role's model or from `start`."""
        expected = examples or (self.sizes.weak if role == "aligner" else self.sizes.strong)
        work = self.training_work(role, expected, self.sizes.question + self.sizes.text, training)
        task = TrainToAnswer(training=training, precision=self.precision, seed=seed)
        own = self.upstream if role == "upstream" else self.models[role]
        return Stage(name, task, {"model": start or own, "records": records}, work)

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

    def _shared(self, name: str, seed: int) -> str:
        """The name of a stage that all seeds share where decoding has none."""
        seed = self.sampling_seed(seed)
        return f"{name}-s{seed}" if seed else name

    def _generation_work(self, shape: Shape, rows: int, prompt: int) -> GenerationWork:
        longest = prompt + self.generation.max_new_tokens
        return GenerationWork(shape, rows, prompt, self.sizes.text, longest)

    def training_work(
        self, role: str, examples: int, tokens: int, training: Training, kind: type[TrainingWork] = TrainingWork
    ) -> TrainingWork:
        return kind(
            self.shapes[role], examples, tokens, self.sizes.text, training.epochs, training.global_batch,
            training.max_length, lora_rank=training.lora.rank if training.lora else None,
        )  # fmt: skip
