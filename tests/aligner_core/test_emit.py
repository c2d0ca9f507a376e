"""The files that start a run on several nodes really start it: on a machine that plays two nodes."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from aligner_core.configuration import find_profile, load_profile, read_yaml
from aligner_core.emit import Start, emit
from aligner_core.errors import UserError
from aligner_core.files import read_json, write_json
from tests.command_line import w2s

# Stand-ins that reach every node on this machine; all nodes must end well.
SRUN = """#!/usr/bin/env bash
echo "$@" >> "$CALLS"
while [[ $1 == --* ]]; do [[ $1 == --nodes=* ]] && nodes=${1#--nodes=}; shift; done
for ((node = 0; node < nodes; node++)); do "$@" & done
for ((node = 0; node < nodes; node++)); do wait -n || exit 1; done
"""
PDSH = """#!/usr/bin/env bash
echo "$@" >> "$CALLS"
while [[ $1 == -* ]]; do case $1 in -w) hosts=${2//,/ }; shift ;; -f) shift ;; esac; shift; done
words="$*"
node=0
for host in $hosts; do bash -c "${words//%n/$node}" & node=$((node + 1)); done
for host in $hosts; do wait -n || exit 1; done
"""
SSH = """#!/usr/bin/env bash
echo 127.0.0.1
"""


def start(**changes: object) -> Start:
    values = {"program": "w2s", "recipe": "llama70b_w2s", "overrides": [], "runs": Path("runs"), "name": "big",
              "seconds": 9000.0}  # fmt: skip
    return Start(**{**values, **changes})  # type: ignore[arg-type]


def two_nodes(tmp_path: Path) -> Path:
    """The smoke profile as two nodes with one process each."""
    smoke = read_yaml(find_profile("smoke"))
    file = tmp_path / "two.json"
    write_json(file, {**smoke, "nodes": 2, "processes": 2, "zero": {"stage": 2}, "launch": {"kind": "slurm"}})
    return file


def with_programs(tmp_path: Path, **programs: str) -> dict[str, str]:
    folder = tmp_path / "programs"
    folder.mkdir()
    for name, text in programs.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "CALLS": str(tmp_path / "calls")}


@pytest.mark.parametrize("kind", ["slurm", "hostfile"])
def test_the_emitted_script_is_good_bash_and_runs_the_recipe_with_the_emitted_profile(
    tmp_path: Path, kind: str
) -> None:
    result = w2s("plan", "llama70b_w2s", "--profile", "h100x8x8", "--runs", tmp_path, "--emit", kind,
                 "--set", "data.expected.corrections=10000")  # fmt: skip
    assert result.returncode == 0, result.stderr
    written = [Path(line.strip()) for line in result.stdout.partition("written:")[2].split()]
    assert written
    assert all(path.is_file() for path in written)
    script = written[0]
    assert subprocess.run(["bash", "-n", script]).returncode == 0
    last = script.read_text().splitlines()[-1]
    profile = next(path for path in written if path.name == "profile.json")
    assert re.search(rf"exec \S+/w2s run llama70b_w2s --profile {profile} --runs {tmp_path} --set data", last)
    assert load_profile(str(profile)).launch.kind == kind
    assert load_profile(str(profile)).processes == 64


def test_sbatch_is_asked_for_the_profiles_nodes_and_devices_and_half_more_than_the_planned_time(
    tmp_path: Path,
) -> None:
    script, _ = emit("slurm", start(), load_profile("h100x8x8"), tmp_path)
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)=(.*)$", script.read_text(), re.MULTILINE))
    assert options["nodes"] == "8"
    assert options["gpus-per-node"] == "8"
    assert options["ntasks-per-node"] == "1"
    assert options["time"] == "4:00:00"
    assert options["job-name"] == "big"


def test_a_hostfile_is_one_that_deepspeed_reads_and_is_not_overwritten_once_it_has_names(tmp_path: Path) -> None:
    from deepspeed.launcher.runner import fetch_hostfile

    emit("hostfile", start(), load_profile("h100x8x8"), tmp_path)
    hostfile = tmp_path / "hostfile"
    assert fetch_hostfile(str(hostfile)) == {f"node{number}": 8 for number in range(1, 9)}
    hostfile.write_text("alpha slots=8\nbeta slots=8\n")
    emit("hostfile", start(), load_profile("h100x8x8"), tmp_path)
    assert "alpha" in hostfile.read_text()


def test_one_node_needs_no_files_and_is_told_how_to_start() -> None:
    with pytest.raises(UserError) as caught:
        emit("slurm", start(), load_profile("a800x8"), Path("nowhere"))
    assert "w2s run llama70b_w2s --profile a800x8" in str(caught.value)
    assert not Path("nowhere").exists()


def test_paths_with_spaces_stay_whole(tmp_path: Path) -> None:
    folder = tmp_path / "my runs"
    script, _ = emit("slurm", start(runs=folder, overrides=["data.corrections=my file.jsonl"]),
                     load_profile("h100x8x8"), folder)  # fmt: skip
    last = script.read_text().splitlines()[-1]
    show = f'printf "%s\\n" {last.removeprefix("exec ")}'
    words = subprocess.run(["bash", "-c", show], capture_output=True, text=True, check=True).stdout.splitlines()
    assert words[words.index("--runs") + 1] == str(folder)
    assert words[-2:] == ["--set", "data.corrections=my file.jsonl"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "script", "programs"),
    [("slurm", "run.sbatch", {"srun": SRUN}), ("hostfile", "run.sh", {"pdsh": PDSH, "ssh": SSH})],
)
def test_the_emitted_script_runs_to_the_report_with_a_distributed_stage_on_two_nodes(
    tmp_path: Path, kind: str, script: str, programs: dict[str, str]
) -> None:
    settings = ["--set", "student=null", "--set", "aligner.warm_up.fraction=0", "--set", "data.weak_share=1"]
    place = ["--profile", two_nodes(tmp_path), "--runs", tmp_path]
    planned = w2s("plan", "quickstart", *place, "--emit", kind, *settings)
    assert planned.returncode == 0, planned.stderr
    file = tmp_path / "quickstart" / "launch" / kind / script
    environment = with_programs(tmp_path, **programs)
    result = subprocess.run(["bash", file], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert (tmp_path / "quickstart" / "report.html").is_file()
    (manifest,) = (tmp_path / "quickstart" / "stages").glob("aligner-*/manifest.json")
    facts = read_json(manifest)["facts"]
    assert (facts["processes"], facts["zero_stage"]) == (2, 2)
    assert len((tmp_path / "calls").read_text().splitlines()) == 1, "the training is the one distributed stage"
