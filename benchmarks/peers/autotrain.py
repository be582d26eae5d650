"""AutoTrain with its default settings on a job: 128 tokens, AdamW, linear schedule; started as its command does it."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pandas
from autotrain.trainers.text_classification.__main__ import train as autotrain
from autotrain.trainers.text_classification.params import TextClassificationParams
from datasets import ClassLabel, Dataset, DatasetDict
from transformers import Trainer, pipeline


def main() -> None:
    job = json.loads(sys.argv[1])
    fit, spent = Trainer.train, [0.0]

    def timed(trainer: Trainer, *args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        result = fit(trainer, *args, **kwargs)
        spent[0] = time.perf_counter() - started
        return result

    Trainer.train = timed
    began = time.perf_counter()
    train, test = (pandas.read_csv(job[name], keep_default_na=False) for name in ("train", "test"))
    labels = sorted(set(train["label"]))
    table = Dataset.from_pandas(train.rename(columns={"label": "target"}), preserve_index=False)
    project = Path(job["output"])
    os.chdir(project.parent)  # a project's name cannot be a path
    data = f"{project.name}/autotrain-data"
    DatasetDict(train=table.cast_column("target", ClassLabel(names=labels))).save_to_disk(data)
    autotrain(
        TextClassificationParams(
            data_path=data,
            model=job["model"],
            project_name=project.name,
            epochs=job["epochs"],
            batch_size=job["batch_size"],
            seed=job["seed"],
        )
    )
    if not (project / "model.safetensors").exists():  # errors are logged and swallowed
        raise SystemExit("AutoTrain wrote no model.")
    classify = pipeline("text-classification", job["output"], device="cpu", batch_size=job["eval_batch_size"])
    predicted = [each["label"] for each in classify(list(test["text"]), truncation=True)]
    result = {
        "seconds": spent[0],
        "total_seconds": time.perf_counter() - began,
        "accuracy": float((pandas.Series(predicted) == test["label"]).mean()),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
