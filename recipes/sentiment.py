"""Fine-tune a BERT-like encoder to tell praise from complaint.

    python recipes/sentiment.py --output_dir sentiment                      # bert-base on SST-2, from the Hub
    python recipes/sentiment.py --train_file reviews.csv --method lora --output_dir sentiment
    accelerate launch --multi_gpu --num_processes 2 recipes/sentiment.py --config recipes/sentiment.yaml

The file needs a column of texts and one of labels; --help lists every argument.
"""

from hf_transfer.errors import run_command, show

DEFAULTS = {"model_name_or_path": "google-bert/bert-base-uncased"}
DATASET = {
    "dataset_name": "stanfordnlp/sst2",
    "test_split_name": "validation",  # the labels of the test split are kept secret
}


def main() -> None:
    # Here, as they take seconds: Ctrl-C ends the recipe without a traceback then too.
    from hf_transfer import TextClassification, finetune
    from hf_transfer.parsing import parse_arguments
    from hf_transfer.reporting.report import next_command

    arguments = parse_arguments(
        TextClassification, defaults=DEFAULTS, defaults_without_data=DATASET, description=__doc__
    )
    result = finetune(arguments.task, arguments)
    if arguments.training.should_save:
        show(f"\n{result}\n{next_command(result, arguments.task)}")


if __name__ == "__main__":
    run_command(main)
