"""Fine-tune a BERT-like encoder to classify reviews as positive or negative.

    python recipes/sentiment.py --output_dir sentiment                      # bert-base on SST-2, from the Hub
    python recipes/sentiment.py --train_file reviews.csv --method lora --output_dir sentiment
    accelerate launch --multi_gpu --num_processes 2 recipes/sentiment.py --config recipes/sentiment.yaml

The file needs a column of texts and one of labels; --help lists every argument.
"""

from hf_transfer.errors import run_command

DATASET = {
    "dataset_name": "stanfordnlp/sst2",
    "test_split_name": "validation",  # the labels of the test split are kept secret
}


def main() -> None:
    # Imported here, as it takes seconds: if Ctrl-C is pressed meanwhile, the recipe ends without a traceback, too.
    from hf_transfer import TextClassification, run_recipe

    run_recipe(TextClassification, defaults_without_data=DATASET, description=__doc__)


if __name__ == "__main__":
    run_command(main)
