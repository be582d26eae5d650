"""Fine-tune a BERT-like encoder to recognise spam messages.

    python recipes/spam.py --output_dir spam                                     # bert-base on SMS Spam, from the Hub
    python recipes/spam.py --train_file messages.csv --method lora --output_dir spam
    accelerate launch --multi_gpu --num_processes 2 recipes/spam.py --config recipes/spam.yaml

The file needs a column of texts and one of labels; --help lists every argument.
"""

from hf_transfer.errors import run_command

DATASET = {"dataset_name": "ucirvine/sms_spam"}


def main() -> None:
    # Imported here, as it takes seconds: if Ctrl-C is pressed meanwhile, the recipe ends without a traceback, too.
    from hf_transfer import TextClassification, run_recipe

    run_recipe(TextClassification, defaults_without_data=DATASET, description=__doc__)


if __name__ == "__main__":
    run_command(main)
