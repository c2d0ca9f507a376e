"""Stages in their own processes: what fails is explained, what is finished is kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from aligner_core.configuration import find_profile, read_yaml
from aligner_core.display import PlainDisplay
from aligner_core.errors import Problem, UserError
from aligner_core.files import read_json, write_json, write_text
from aligner_core.launch import launch_command, launch_environment
from aligner_core.profile import Profile
from aligner_core.progress import SECONDS
from aligner_core.runner import StageError, locked, run_growing, run_stages
from aligner_core.stage_context import StageContext
from aligner_core.stages import Stage, Task, is_finished, stage_folder

PROFILE = Profile.model_validate({**read_yaml(find_profile("smoke")), "replace": {}})


class WriteText(Task):
    version: ClassVar[int] = 1
    text: str

    def run(self, stage: StageContext) -> None:
        before = stage.file("before").read_text() if "before" in stage.inputs else ""
        write_text(stage.folder / "text.txt", before + self.text)
        stage.facts["length"] = len(before + self.text)


class FailOnce(Task):
    """Leaves something behind, and ends well only when it finds that again."""

    version: ClassVar[int] = 1
    marker: str

    def run(self, stage: StageContext) -> None:
        if not (stage.folder / "half").exists():
            (stage.folder / "half").write_text("done so far")
            raise RuntimeError(self.marker)


class Refuse(Task):
    version: ClassVar[int] = 1

    def run(self, stage: StageContext) -> None:
        raise UserError([Problem("here", "is wrong", "mend it"), Problem("there", "is wrong too")])


def test_stages_pass_files_on_and_leave_a_manifest(tmp_path: Path) -> None:
    first = Stage("first", WriteText(text="a"))
    second = Stage("second", WriteText(text="b"), {"before": first.output("text.txt")})
    run_stages(tmp_path, [first, second], PROFILE, PlainDisplay())
    folder = stage_folder(tmp_path, second)
    assert (folder / "text.txt").read_text() == "ab"
    manifest = read_json(folder / "manifest.json")
    assert manifest["facts"] == {"length": 2}
    assert manifest["inputs"] == {"before": f"{first.identity}/text.txt"}


def test_a_finished_stage_is_not_run_again(tmp_path: Path) -> None:
    stage = Stage("only", WriteText(text="a"))
    run_stages(tmp_path, [stage], PROFILE, PlainDisplay())
    before = (stage_folder(tmp_path, stage) / "text.txt").stat().st_mtime_ns
    run_stages(tmp_path, [stage], PROFILE, PlainDisplay())
    assert (stage_folder(tmp_path, stage) / "text.txt").stat().st_mtime_ns == before


class LinkFromBest(Task):
    """As a training does that made its best weights the result."""

    version: ClassVar[int] = 1

    def run(self, stage: StageContext) -> None:
        for name in ("shards/rows", "checkpoints/weights", "best/weights"):
            write_text(stage.folder / name, name)
        (stage.folder / "model").hardlink_to(stage.folder / "best" / "weights")


def test_what_a_stage_could_be_continued_from_goes_when_it_is_whole_and_nothing_is_read_again(tmp_path: Path) -> None:
    stage = Stage("training", LinkFromBest())
    run_stages(tmp_path, [stage], PROFILE, PlainDisplay())
    folder = stage_folder(tmp_path, stage)
    assert not {"shards", "checkpoints", "best"} & {path.name for path in folder.iterdir()}
    assert (folder / "model").read_text() == "best/weights"
    outputs = read_json(folder / "manifest.json")["outputs"]
    assert set(outputs) == {"facts.json", "metrics.jsonl", "model", "stage.json"}
    times = (folder / "model").stat()
    assert read_json(folder / "verified.json")["model"] == [times.st_size, times.st_mtime_ns, times.st_ctime_ns]


def test_a_failed_stage_shows_its_log_and_continues_where_it_was(tmp_path: Path) -> None:
    stage = Stage("fragile", FailOnce(marker="out of luck"))
    with pytest.raises(StageError, match=r"(?s)stage fragile ended with code 1.*out of luck"):
        run_stages(tmp_path, [stage], PROFILE, PlainDisplay())
    assert not is_finished(tmp_path, stage)
    run_stages(tmp_path, [stage], PROFILE, PlainDisplay())
    assert (stage_folder(tmp_path, stage) / "half").read_text() == "done so far"


def test_the_seconds_of_a_manifest_are_those_of_all_attempts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aligner_core.progress.KEEP_SECONDS", 0.0)
    stage = Stage("fragile", FailOnce(marker="out of luck"))
    with pytest.raises(StageError):
        run_stages(tmp_path, [stage], PROFILE, PlainDisplay())
    folder = stage_folder(tmp_path, stage)
    kept = folder.with_name(f"{folder.name}.partial") / SECONDS
    spent = read_json(kept)
    assert spent > 0
    write_json(kept, spent + 1000)
    run_stages(tmp_path, [stage], PROFILE, PlainDisplay())
    manifest = read_json(folder / "manifest.json")
    assert manifest["seconds"] > 1000
    assert SECONDS not in manifest["outputs"]


def test_problems_of_a_stage_reach_the_user_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        run_stages(tmp_path, [Stage("refusing", Refuse())], PROFILE, PlainDisplay())
    assert [problem.where for problem in caught.value.problems] == ["here", "there"]


@pytest.mark.parametrize(
    ("launch", "expected"),
    [
        ({"kind": "local"}, ["torch.distributed.run", "--nproc_per_node=4", "--standalone"]),
        ({"kind": "hostfile", "hostfile": "hosts"}, ["deepspeed", "--hostfile=hosts", "--num_nodes=2"]),
        ({"kind": "slurm"}, ["srun", "--nodes=2", "--nnodes=2", "--nproc_per_node=4"]),
    ],
)
def test_a_distributed_stage_is_started_by_the_launcher_of_the_profile(
    launch: dict[str, str], expected: list[str]
) -> None:
    profile = Profile.model_validate(
        {**read_yaml(find_profile("h100x8")), "nodes": 2, "processes": 8, "launch": launch}
    )
    command = launch_command(Path("folder"), profile)
    for word in expected:
        assert any(word in part for part in command), command
    assert command[-1] == "folder"


def test_processes_share_the_cores_of_a_cpu() -> None:
    two = PROFILE.model_copy(update={"processes": 2})
    assert int(launch_environment(two)["OMP_NUM_THREADS"]) >= 1
    assert "OMP_NUM_THREADS" not in launch_environment(PROFILE)


def test_a_graph_grows_only_when_what_it_depends_on_has_been_run(tmp_path: Path) -> None:
    first = Stage("first", WriteText(text="a"))

    def growing() -> Iterator[list[Stage]]:
        yield [first]
        text = (stage_folder(tmp_path, first) / "text.txt").read_text()
        yield [first, Stage("second", WriteText(text=text * 2), {"before": first.output("text.txt")})]

    run_growing(tmp_path, growing(), PROFILE, PlainDisplay())
    names = [stage["name"] for stage in read_json(tmp_path / "run.json")["stages"]]
    assert names == ["first", "second"]
    assert [path.read_text() for path in tmp_path.glob("stages/second-*/text.txt")] == ["aaa"]


FIRST = Stage("first", WriteText(text="a"))
SECOND = Stage("second", WriteText(text="b"), {"before": FIRST.output("text.txt")})


def test_a_run_that_is_gone_over_again_reads_as_what_it_was_until_that_has_ended(tmp_path: Path) -> None:
    def growing(stopped: bool = False) -> Iterator[list[Stage]]:
        yield [FIRST]
        if stopped:
            raise KeyboardInterrupt
        yield [FIRST, SECOND]

    def told() -> list[object]:
        return [read_json(tmp_path / name) for name in ("run.json", "recipe.json")]

    run_growing(tmp_path, growing(), PROFILE, PlainDisplay(), {"recipe.json": "old"})
    before = told()
    with pytest.raises(KeyboardInterrupt):
        run_growing(tmp_path, growing(stopped=True), PROFILE, PlainDisplay(), {"recipe.json": "new"})
    assert told() == before
    run_growing(tmp_path, growing(), PROFILE, PlainDisplay(), {"recipe.json": "new"})
    assert told() == [before[0], "new"]
    write_text(stage_folder(tmp_path, SECOND) / "text.txt", "by hand")
    with pytest.raises(UserError, match="is not what its stage wrote"):
        run_growing(tmp_path, growing(), PROFILE, PlainDisplay(), {"recipe.json": "newer"})
    assert told() == [before[0], "new"]


def test_a_second_start_leaves_alone_what_the_first_one_wrote(tmp_path: Path) -> None:
    write_json(tmp_path / "recipe.json", "of the first")
    with locked(tmp_path), pytest.raises(UserError, match="is being run by another process"):
        run_growing(tmp_path, [[FIRST]], PROFILE, PlainDisplay(), {"recipe.json": "of the second"})
    assert read_json(tmp_path / "recipe.json") == "of the first"
