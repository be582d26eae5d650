"""finetune() on a job: takes it and prints seconds and accuracy as the peers' scripts do, in JSON.

Activations of frozen layers are computed before training, for all splits together; the seconds for those of the
training split count as training.
"""

import json
import sys
import time
from typing import Any

from hf_transfer import SpeechRecognition, TextClassification, finetune
from hf_transfer.training.activations.feature_cache import FeatureCache


def main() -> None:
    job = json.loads(sys.argv[1])
    compute, spent = FeatureCache.examples, [0.0]

    def timed(cache: Any, inputs: Any, args: Any) -> Any:
        if "train" in inputs:
            started = time.perf_counter()
            compute(cache, {"train": inputs["train"]}, args)
            spent[0] += time.perf_counter() - started
        return compute(cache, inputs, args)

    FeatureCache.examples = timed
    speech = job["task"] == "speech"
    started = time.perf_counter()
    report = finetune(
        SpeechRecognition(speed_perturbation=0.0) if speech else TextClassification(max_length=128),
        model_name_or_path=job["model"],
        train_file=job["train"],
        test_file=job["test"],
        validation_size=0,
        method=job["method"],
        output_dir=job["output"],
        per_device_train_batch_size=job["batch_size"],
        gradient_accumulation_steps=1,
        per_device_eval_batch_size=job["eval_batch_size"],
        num_train_epochs=job["epochs"],
        save_strategy="no",
        seed=job["seed"],
        use_cpu=True,
        disable_tqdm=True,
    ).report
    result = {
        "seconds": report["training"]["seconds"] + spent[0],
        "total_seconds": time.perf_counter() - started,
        "accuracy": None if speech else report["metrics"]["accuracy"],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
