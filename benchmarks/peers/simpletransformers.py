"""Simple Transformers with its default settings on a job: 128 tokens, AdamW, linear schedule; no epoch checkpoints."""

import json
import sys
import time
from typing import Any

import pandas
from simpletransformers.classification import ClassificationArgs, ClassificationModel


def main() -> None:
    job = json.loads(sys.argv[1])
    began = time.perf_counter()
    train, test = (pandas.read_csv(job[name], keep_default_na=False) for name in ("train", "test"))
    labels = sorted(set(train["label"]))
    train["labels"], test["labels"] = (table["label"].map(labels.index) for table in (train, test))
    arguments = ClassificationArgs(
        num_train_epochs=job["epochs"],
        train_batch_size=job["batch_size"],
        eval_batch_size=job["eval_batch_size"],
        manual_seed=job["seed"],
        output_dir=job["output"],
        overwrite_output_dir=True,
        save_model_every_epoch=False,
        # Processes that are forked after training, to tokenize for evaluation, would wait forever for lost threads.
        use_multiprocessing=False,
        use_multiprocessing_for_evaluation=False,
        silent=True,
    )
    model = ClassificationModel("bert", job["model"], num_labels=len(labels), args=arguments, use_cuda=False)
    fit, spent = model.train, [0.0]

    def timed(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        result = fit(*args, **kwargs)
        spent[0] = time.perf_counter() - started
        return result

    model.train = timed  # train_model() tokenizes before it
    model.train_model(train[["text", "labels"]])
    result, _, _ = model.eval_model(test[["text", "labels"]])
    right = result["tp"] + result["tn"]
    measured = {
        "seconds": spent[0],
        "total_seconds": time.perf_counter() - began,
        "accuracy": float(right / (right + result["fp"] + result["fn"])),
    }
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
