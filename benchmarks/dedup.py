"""Do `w2s data dedup` and `w2s data leakage` find what was planted, in time and memory, and after a kill?

    python benchmarks/dedup.py [--records 200000] [--library]

Synthetic questions (10 to 60 words, drawn by Zipf's law from 30,000) with planted exact copies (case and spacing
changed), near-duplicates and near misses of known Jaccard similarity, and leaks of 2,000 evaluation questions: exact,
nearly, and quoted in a longer text. Similarities are counted here, not by the code that is measured. One dedup is
killed (`kill -9`) when it is half done and started again. `--library` times MinHash and LSH of rensa and, if it is
installed, datasketch on the same texts.

`ratio_..._found` is the share of what was planted that was found; `ratio_whole_vs_restart` is the time of a dedup over
that of the one that continued after the kill.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

VOCABULARY, EVALUATION = 30_000, 2_000
NEAR = 0.8
MAIN = [sys.executable, "-c", "from w2s.cli import main; main()", "data"]


@dataclass(frozen=True)
class Planted:
    """What a record was made to be, the id of what it repeats, and how similar it is to that."""

    kind: str
    partner: str
    similarity: float


def trigrams(text: str) -> set[tuple[str, ...]]:
    spoken = text.lower().split()
    return {tuple(spoken[start : start + 3]) for start in range(max(1, len(spoken) - 2))}


def similarity(first: str, second: str) -> float:
    ours, theirs = trigrams(first), trigrams(second)
    return len(ours & theirs) / len(ours | theirs)


class Writer:
    """Makes texts, and changed copies of texts."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.words = [f"w{number}" for number in range(VOCABULARY)]
        self.weights = list(accumulate(1 / rank for rank in range(1, VOCABULARY + 1)))

    def text(self, least: int = 10, most: int = 60) -> str:
        return " ".join(self.random.choices(self.words, cum_weights=self.weights, k=self.random.randint(least, most)))

    def shouted(self, text: str) -> str:
        return "  " + text.upper().replace(" ", "  ")

    def changed(self, text: str, share: float) -> str:
        """Some words replaced, left out or repeated."""
        spoken = text.split()
        for _ in range(max(1, round(share * len(spoken)))):
            place = self.random.randrange(len(spoken))
            spoken[place : place + 1] = self.random.choice([[self.random.choice(self.words)], [], [spoken[place]] * 2])
        return " ".join(spoken)

    def quoted(self, text: str) -> str:
        return f"{self.text(40, 60)} {text} {self.text(40, 60)}"


def plant(folder: Path, records: int) -> tuple[dict[str, Planted], dict[str, Planted]]:
    """Write train.jsonl and evaluation.jsonl; what is planted for dedup and for leakage, by id."""
    writer = Writer(1)
    evaluation = {f"e{number}": writer.text(15, 60) for number in range(EVALUATION)}
    texts = {f"t{number}": writer.text() for number in range(int(records * 0.825))}
    originals = list(texts)
    repeats: dict[str, Planted] = {}
    leaks: dict[str, Planted] = {}
    changes: list[tuple[str, float, Callable[[str], str]]] = [
        ("exact", 0.06, writer.shouted),
        ("changed", 0.06, lambda text: writer.changed(text, 0.02)),
        ("changed", 0.04, lambda text: writer.changed(text, 0.12)),
    ]
    for kind, share, change in changes:
        for partner in writer.random.sample(originals, int(records * share)):
            name = f"t{len(texts)}"
            texts[name] = change(texts[partner])
            repeats[name] = Planted(kind, partner, similarity(texts[name], texts[partner]))
    leak: list[tuple[str, Callable[[str], str]]] = [
        ("exact", writer.shouted),
        ("changed", lambda text: writer.changed(text, 0.02)),
        ("quoted", writer.quoted),
    ]
    for kind, change in leak:
        for partner in writer.random.sample(list(evaluation), records // 200):
            name = f"t{len(texts)}"
            texts[name] = change(evaluation[partner])
            leaks[name] = Planted(kind, partner, similarity(texts[name], evaluation[partner]))
    order = list(texts)
    head = order[: len(originals)]  # originals come first, so that a repeat is what is dropped
    tail = order[len(originals) :]
    writer.random.shuffle(tail)
    write(folder / "train.jsonl", {name: texts[name] for name in head + tail})
    write(folder / "evaluation.jsonl", evaluation)
    return repeats, leaks


def write(path: Path, texts: dict[str, str]) -> None:
    with path.open("w") as stream:
        for name, text in texts.items():
            stream.write(json.dumps({"id": name, "question": text, "answer": "An answer.", "upstream": "none"}) + "\n")


def questions(path: Path) -> dict[str, str]:
    with path.open() as stream:
        return {row["id"]: row["question"] for row in map(json.loads, stream)}


def dropped(path: Path) -> dict[str, dict[str, object]]:
    with path.open() as stream:
        return {row["id"]: row["dropped"] for row in map(json.loads, stream)}


def timed(arguments: list[str]) -> tuple[float, float]:
    """Seconds and GiB of a command."""
    started = time.monotonic()
    process = subprocess.Popen([*MAIN, *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{arguments} ended with {process.returncode}")
    return time.monotonic() - started, usage.ru_maxrss / 2**20


def kill_half_way(arguments: list[str], work: Path, chunks: int) -> None:
    process = subprocess.Popen([*MAIN, *arguments], stdout=subprocess.DEVNULL)
    while process.poll() is None and len(list(work.glob("kept-*.jsonl"))) < chunks:
        time.sleep(0.02)
    if process.poll() is not None:
        raise SystemExit("it ended before it could be killed")
    process.send_signal(signal.SIGKILL)
    process.wait()


def content(out: Path) -> list[str]:
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in (out, out.with_suffix(".dropped.jsonl"))]


def recall(
    planted: dict[str, Planted], found: dict[str, dict[str, object]], wanted: Callable[[Planted], bool]
) -> float:
    names = [name for name, plan in planted.items() if wanted(plan)]
    return sum(name in found for name in names) / len(names)


def nearly_the_same(plan: Planted) -> bool:
    return plan.kind == "changed" and plan.similarity > NEAR


def library_times(folder: Path) -> dict[str, float]:
    """Seconds for signatures, look-up and insertion of all texts by each library."""
    with (folder / "train.jsonl").open() as stream:
        sets = [sorted(map(" ".join, trigrams(json.loads(line)["question"]))) for line in stream]
    times = {}
    from rensa import RMinHash, RMinHashLSH

    started = time.monotonic()
    bands = RMinHashLSH(NEAR, 128, 32)
    for place, runs in enumerate(sets):
        signature = RMinHash(128, 1)
        signature.update(runs)
        bands.query(signature)
        bands.insert(place, signature)
    times["rensa"] = time.monotonic() - started
    try:
        from datasketch import MinHash, MinHashLSH
    except ImportError:
        return times
    started = time.monotonic()
    index = MinHashLSH(num_perm=128, params=(32, 4))
    for place, runs in enumerate(sets):
        hashes = MinHash(num_perm=128)
        hashes.update_batch([run.encode() for run in runs])
        index.query(hashes)
        index.insert(str(place), hashes, check_duplication=False)
    times["datasketch"] = time.monotonic() - started
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--library", action="store_true", help="time the libraries alone")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["W2S_CACHE"] = str(folder / "cache")
        repeats, leaks = plant(folder, arguments.records)
        if arguments.library:
            times = library_times(folder)
            result = {f"seconds_{library}": round(seconds, 1) for library, seconds in times.items()}
            if "datasketch" in times:
                result["ratio_datasketch_vs_rensa"] = round(times["datasketch"] / times["rensa"], 2)
            print(json.dumps(result))
            return
        measure(folder, repeats, leaks)


def measure(folder: Path, repeats: dict[str, Planted], leaks: dict[str, Planted]) -> None:
    train, evaluation = folder / "train.jsonl", folder / "evaluation.jsonl"
    out, again, clean = folder / "out.jsonl", folder / "again.jsonl", folder / "clean.jsonl"
    texts = questions(train) | questions(evaluation)
    records = len(texts) - EVALUATION
    dedup = ["dedup", str(train), "-o"]
    seconds, memory = timed([*dedup, str(out)])
    found = dropped(out.with_suffix(".dropped.jsonl"))
    kill_half_way([*dedup, str(again)], folder / ".again.jsonl.work", records // 20_000)
    restarted, _ = timed([*dedup, str(again)])
    leak_seconds, leak_memory = timed(["leakage", str(train), "--against", str(evaluation), "-o", str(clean)])
    leaked = dropped(clean.with_suffix(".dropped.jsonl"))
    wrong = [name for name, why in found.items() if similarity(texts[name], texts[str(why["partner"])]) < NEAR]
    innocent = [name for name in leaked if name not in leaks]
    result = {
        "records": records,
        "dedup_seconds": round(seconds, 1),
        "dedup_gib": round(memory, 2),
        "ratio_dedup_exact_found": recall(repeats, found, lambda plan: plan.kind == "exact"),
        "ratio_dedup_near_found": recall(repeats, found, nearly_the_same),
        "dedup_false_share": len(wrong) / len(found),
        "restart_seconds": round(restarted, 1),
        "restart_same": content(out) == content(again),
        "ratio_whole_vs_restart": round(seconds / restarted, 2),
        "leakage_seconds": round(leak_seconds, 1),
        "leakage_gib": round(leak_memory, 2),
        "ratio_leakage_exact_found": recall(leaks, leaked, lambda plan: plan.kind == "exact"),
        "ratio_leakage_near_found": recall(leaks, leaked, nearly_the_same),
        "ratio_leakage_quoted_found": recall(leaks, leaked, lambda plan: plan.kind == "quoted"),
        "leakage_false_share": len(innocent) / len(leaked),
    }
    for key, value in result.items():
        print(f"{key:<28}{value:>12.4f}" if isinstance(value, float) else f"{key:<28}{value!s:>12}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
