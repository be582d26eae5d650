"""SetFit with its default settings on a job: batches of 16 sampled pairs, one epoch, logistic regression on top."""

import json
import sys
import time

import pandas
import torch
from datasets import Dataset
from setfit import SetFitModel, Trainer, TrainingArguments


def main() -> None:
    job = json.loads(sys.argv[1])
    torch.manual_seed(job["seed"])
    began = time.perf_counter()
    train, test = (pandas.read_csv(job[name], keep_default_na=False) for name in ("train", "test"))
    model = SetFitModel.from_pretrained(job["model"], labels=sorted(set(train["label"])), device="cpu")
    arguments = TrainingArguments(
        job["output"], seed=job["seed"], save_strategy="no", report_to="none", show_progress_bar=False
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=Dataset.from_pandas(train))
    started = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - started
    predicted = model.predict(list(test["text"]), show_progress_bar=False)
    model.save_pretrained(job["output"])
    result = {
        "seconds": seconds,
        "total_seconds": time.perf_counter() - began,
        "accuracy": float((pandas.Series(list(predicted)) == test["label"]).mean()),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
