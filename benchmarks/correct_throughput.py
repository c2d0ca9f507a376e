"""How fast answers are corrected: one by one, with our engines, and copy-aware.

    python benchmarks/correct_throughput.py [--data FILE] [--model ALIGNER] [--sequences 8 32] [--precision float32]
    python benchmarks/correct_throughput.py --model ALIGNER --keep ALIGNER --scorer SCORER

Two sets are made from the records: their answers as they are, and a stress set in which nine answers of ten are the
record's correction already, so that a good Aligner copies them. All ways get the same rows with the same greedy
settings in one run, in turns over several slices of the data; each ratio is the median over slices. A first slice
warms up and, where a way is copy-aware, is what its probe decides on. In float32 all ways must give the same text; in
bfloat16 it is counted which tokens a plain forward pass finds more than 0.25 nats behind the best one.

An untuned model does not copy: name a trained Aligner.

With `--keep`, an Aligner that was taught the keep token and otherwise trained like the first corrects the stress set
beside it, both copy-aware with transformers: tokens that each generates, rows per second, and the paired difference of
their corrections' rewards.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from aligner_core.configuration import find_profile, read_yaml
from aligner_core.data_sources import local_path
from aligner_core.embedded_models import local_folder
from aligner_core.engines.probe import DraftPolicy
from aligner_core.engines.protocol import Completion, Prompt, Sampling
from aligner_core.mixing import by_hash
from aligner_core.profile import Profile
from aligner_core.records import Correction, read_records
from aligner_core.stage_context import ModelLocation
from aligner_core.statistics import bootstrap, difference
from aligner_core.templates import ALIGNER_FILE, CorrectionTemplate, correction_template, stored_template

NATS = 0.25
CHECKED = 32  # texts of each way that are held against a plain forward pass
ALONE, COPY_AWARE = "one by one", ", copy-aware"
Generate = Callable[[Sequence[Prompt]], list[Completion]]


@dataclass
class Measured:
    """One way on one set: tokens and seconds per slice, and what it wrote."""

    tokens: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    written: list[Completion] = field(default_factory=list)

    def speeds(self) -> list[float]:
        return [tokens / seconds for tokens, seconds in zip(self.tokens, self.seconds, strict=True)]


def one_by_one(location: ModelLocation, precision: str, sampling: Sampling) -> Generate:
    """`model.generate` row by row, as the field's scripts do."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from aligner_core.templates import prepare_tokenizer, prompt_ids

    tokenizer = prepare_tokenizer(AutoTokenizer.from_pretrained(location.folder))
    model = AutoModelForCausalLM.from_pretrained(location.folder, dtype=getattr(torch, precision)).eval()

    def generate(prompts: Sequence[Prompt]) -> list[Completion]:
        completions = []
        for prompt in prompts:
            ids = torch.tensor([prompt_ids(tokenizer, prompt.messages)])
            with torch.inference_mode():
                output = model.generate(
                    ids, attention_mask=torch.ones_like(ids), max_new_tokens=sampling.max_new_tokens, do_sample=False,
                    pad_token_id=tokenizer.pad_token_id,
                )  # fmt: skip
            new = output[0, ids.shape[1] :].tolist()
            kept = [token for token in new if token != tokenizer.eos_token_id]
            completions.append(Completion(tokenizer.decode(kept).strip(), len(kept), len(kept) < len(new)))
        return completions

    return generate


def profile(precision: str, engine: str, sequences: int, copy_aware: str) -> Profile:
    place = {"engine": engine, "batch": sequences, "copy_aware": copy_aware}
    content = read_yaml(find_profile("cpu"))
    return Profile.model_validate({**content, "precision": precision, "generation": place})


def open_ways(location: ModelLocation, arguments: argparse.Namespace, sequences: int) -> dict[str, Any]:
    """Our engines, each plain and copy-aware, with so many sequences in work."""
    ways: dict[str, Any] = {}
    for name in arguments.engines:
        if name == "transformers":
            from aligner_core.engines.transformers_engine import TransformersEngine as Kind
        else:
            from aligner_core.engines.vllm_engine import VllmEngine as Kind
        ways[name] = Kind(location, profile(arguments.precision, name, sequences, "off"))
        ways[name + COPY_AWARE] = Kind(location, profile(arguments.precision, name, sequences, "auto"))
    return ways


def prompts_of(rows: Sequence[Correction], template: CorrectionTemplate, stress: bool) -> list[Prompt]:
    answers = [row.correction if stress and index % 10 else row.answer for index, row in enumerate(rows)]
    return [
        Prompt(template.messages(row.question, answer, row.history), draft=answer)
        for row, answer in zip(rows, answers, strict=True)
    ]


def measure(ways: Mapping[str, Generate], slices: Sequence[Sequence[Prompt]], few: int) -> dict[str, Measured]:
    """Every way on every slice, in turns; the first slice is not counted. One by one takes `few` rows of each."""
    measured = {name: Measured() for name in ways}
    for number, prompts in enumerate(slices):
        for name, generate in ways.items():
            chosen = prompts[:few] if name == ALONE else prompts
            began = time.perf_counter()
            completions = generate(chosen)
            seconds = time.perf_counter() - began
            if number:
                result = measured[name]
                result.tokens.append(sum(item.tokens for item in completions))
                result.seconds.append(seconds)
                result.written += completions
    return measured


def ratio(of: Measured, to: Measured) -> float:
    return statistics.median(a / b for a, b in zip(of.speeds(), to.speeds(), strict=True))


def same_texts(measured: Mapping[str, Measured]) -> bool:
    """Print how many texts each way wrote as the first did; whether all did."""
    first, *others = measured
    reference = measured[first].written
    equal = {
        name: sum(a.text == b.text for a, b in zip(measured[name].written, reference, strict=True)) for name in others
    }
    for name, count in equal.items():
        print(f"  {name}: {count} of {len(reference)} texts as {first} wrote them")
    return all(count == len(reference) for count in equal.values())


def tokens_behind(location: ModelLocation, prompts: Sequence[Prompt], texts: Sequence[str]) -> tuple[int, int]:
    """(tokens that a plain bf16 forward pass finds more than NATS behind the best one, all tokens)."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from aligner_core.templates import prompt_ids, target_ids

    tokenizer = AutoTokenizer.from_pretrained(location.folder)
    model = AutoModelForCausalLM.from_pretrained(location.folder, dtype=torch.bfloat16).eval()
    behind = total = 0
    for prompt, text in zip(prompts, texts, strict=True):
        start, target = prompt_ids(tokenizer, prompt.messages), target_ids(tokenizer, text)
        if not target:
            continue
        with torch.inference_mode():
            logits = model(torch.tensor([start + target])).logits[0, len(start) - 1 : -1].float()
        lack = logits.max(-1).values - logits.gather(-1, torch.tensor(target)[:, None])[:, 0]
        behind += int((lack > NATS).sum())
        total += len(target)
    return behind, total


def compare_keep(
    parts: Sequence[Sequence[Correction]], location: ModelLocation, template: CorrectionTemplate,
    arguments: argparse.Namespace,
) -> dict[str, float]:  # fmt: skip
    """An Aligner without and one with the keep token on the stress set; the figures for the last line."""
    from aligner_core.engines.transformers_engine import TransformersEngine
    from aligner_core.scorer import Scorer

    sequences = max(arguments.sequences)
    place = profile(arguments.precision, "transformers", sequences, "on")
    keeper, with_keep = open_location(arguments.keep)
    assert with_keep.keep, "--keep names an Aligner with the keep token"
    assert replace(with_keep, keep=None) == template, "both Aligners must be asked alike"
    slices = [prompts_of(part, template, stress=True) for part in parts]
    sampling = Sampling(arguments.max_new_tokens)
    ways = {
        name: partial(TransformersEngine(model, place).generate, sampling=sampling, seed=0)
        for name, model in {"without keep token": location, "with keep token": keeper}.items()
    }
    measured = measure(ways, slices, 0)
    rows = [row for part in parts[1:] for row in part]
    answers = [str(prompt.draft) for part in slices[1:] for prompt in part]
    scorer, rewards = Scorer(ModelLocation(arguments.scorer), place), []
    for name, result in measured.items():
        texts = [
            with_keep.correction(*pair) for pair in zip(answers, (item.text for item in result.written), strict=True)
        ]
        kept = sum(text.strip() == answer.strip() for text, answer in zip(texts, answers, strict=True))
        scores = scorer.score([(row.question, text, row.history) for row, text in zip(rows, texts, strict=True)])
        rewards.append(np.array(scores)[None, :, 0])
        print(
            f" stress {name:<26} {sum(result.tokens) / len(rows):7.1f} tokens/row, "
            f"{len(rows) / sum(result.seconds):.2f} rows/s, {kept} of {len(rows)} answers left as they are",
            flush=True,
        )
    copies, keeps = measured.values()
    interval = bootstrap(difference, rewards[1], rewards[0])
    spread = float(np.concatenate(rewards).std())
    print(
        f"  reward with less without: {interval.value:+.3f} ({interval.low:+.3f} to {interval.high:+.3f}), "
        f"where rewards spread by {spread:.3f}"
    )
    return {
        "ratio_tokens_without_vs_with_keep": sum(copies.tokens) / sum(keeps.tokens),
        "ratio_rows_with_vs_without_keep": sum(copies.seconds) / sum(keeps.seconds),
        "reward_difference": interval.value,
        "reward_low": interval.low,
        "reward_high": interval.high,
    }


def run_set(
    name: str, slices: Sequence[Sequence[Prompt]], ways: Mapping[str, Generate], alone: Generate | None,
    location: ModelLocation, arguments: argparse.Namespace,
) -> dict[str, Measured]:  # fmt: skip
    """Measure one set, print its lines, and check what was written."""
    everything = measure({**({ALONE: alone} if alone else {}), **ways}, slices, arguments.one_by_one)
    measured = {way: result for way, result in everything.items() if way != ALONE}
    for way, result in everything.items():
        speeds = result.speeds()
        print(
            f"{name:>7} {way:<26} {statistics.median(speeds):7.1f} tokens/s  ({min(speeds):.1f} to {max(speeds):.1f})",
            flush=True,
        )
    same = same_texts(measured)
    if arguments.precision == "float32":
        assert same, "in float32 all ways must write the same"
    else:
        prompts = [prompt for part in slices[1:] for prompt in part][:CHECKED]
        for way, result in measured.items():
            behind, total = tokens_behind(location, prompts, [item.text for item in result.written[:CHECKED]])
            print(f"  {way}: {behind} of {total} tokens more than {NATS} nats behind the best one")
    return everything


def open_location(model: str) -> tuple[ModelLocation, CorrectionTemplate]:
    location = ModelLocation(local_folder(model))
    trained = (Path(location.folder) / ALIGNER_FILE).is_file()
    return location, stored_template(location) if trained else correction_template("chat@1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="embedded:corrections", help="Q-A-C records: embedded:NAME or a .jsonl file")
    parser.add_argument("--model", default="embedded:smollm2-135m-instruct", help="an Aligner's folder, or a model")
    parser.add_argument("--sequences", type=int, nargs="+", default=[8, 32], help="sequences decoded together")
    parser.add_argument("--engines", nargs="+", default=["transformers", "vllm"], choices=["transformers", "vllm"])
    parser.add_argument("--sets", nargs="+", default=["records", "stress"], choices=["records", "stress"])
    parser.add_argument("--precision", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--rows", type=int, default=64, help="rows per slice")
    parser.add_argument("--slices", type=int, default=4, help="slices of each set; the first warms up")
    parser.add_argument(
        "--one-by-one", type=int, default=8, help="rows of a slice that are decoded one by one; 0: none"
    )
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--keep", help="an Aligner with the keep token: compares it alone, and nothing else")
    parser.add_argument("--scorer", help="a trained scorer's folder, for --keep")
    arguments = parser.parse_args()
    if bool(arguments.keep) != bool(arguments.scorer):
        parser.error("--keep and --scorer go together")
    sampling = Sampling(arguments.max_new_tokens)
    location, template = open_location(arguments.model)
    path = local_path(arguments.data)
    assert path is not None, "name a file or embedded data"
    rows = by_hash(read_records(path, Correction))
    size = min(arguments.rows, len(rows) // (arguments.slices * len(arguments.sets)))
    parts = [rows[start : start + size] for start in range(0, size * arguments.slices * len(arguments.sets), size)]
    if arguments.keep:
        print_figures(compare_keep(parts[: arguments.slices], location, template, arguments))
        return
    alone = one_by_one(location, arguments.precision, sampling) if arguments.one_by_one else None
    results: dict[tuple[int, str], dict[str, Measured]] = {}
    for sequences in arguments.sequences:
        engines = open_ways(location, arguments, sequences)
        print(f"{sequences} sequences, {size} rows a slice, {arguments.precision}", flush=True)
        for number, name in enumerate(arguments.sets):
            for way, engine in engines.items():
                if way.endswith(COPY_AWARE):
                    engine.policy = DraftPolicy("auto")  # each set has its own probe, as each stage has
            slices = [prompts_of(part, template, name == "stress") for part in parts[number :: len(arguments.sets)]]
            ways = {way: partial(engine.generate, sampling=sampling, seed=0) for way, engine in engines.items()}
            results[sequences, name] = run_set(name, slices, ways, alone, location, arguments)
        for engine in engines.values():
            engine.close()
    print_figures(ratios(results, arguments.engines))


def print_figures(figures: Mapping[str, float]) -> None:
    print(json.dumps({key: round(value, 3) for key, value in figures.items()}))


def ratios(results: Mapping[tuple[int, str], Mapping[str, Measured]], engines: Sequence[str]) -> dict[str, float]:
    """The figures of the last line; those over several sets or engines are the worst."""
    found: dict[str, float] = {}
    for (sequences, name), measured in results.items():
        for engine in engines:
            if ALONE in measured:
                key = f"ratio_{engine}_vs_one_by_one_{sequences}"
                found[key] = min(found.get(key, math.inf), ratio(measured[engine], measured[ALONE]))
            if name == "stress":
                found[f"ratio_copy_aware_vs_{engine}_{sequences}"] = ratio(
                    measured[engine + COPY_AWARE], measured[engine]
                )
    for engine in engines:
        for name in {name for _, name in results}:
            tried = [measured for (_, other), measured in results.items() if other == name]
            best = max(tried, key=lambda measured: statistics.median(measured[engine].speeds()))
            key = f"ratio_at_best_batch_{engine}"
            found[key] = min(found.get(key, math.inf), ratio(best[engine + COPY_AWARE], best[engine]))
    return found


if __name__ == "__main__":
    main()
