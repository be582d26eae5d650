"""Fine-tune wav2vec2 to classify sounds: spoken commands, accents, calls.

    python recipes/command.py --output_dir command                          # six accents, packaged
    python recipes/command.py --train_file clips.csv --label_column_name command --output_dir command
    accelerate launch --multi_gpu --num_processes 2 recipes/command.py --config recipes/command.yaml

The data are clips with labels: a table of paths, an audiofolder, or a dataset; --help lists every argument.
"""

from importlib.resources import files

from hf_transfer.errors import run_command

DEMO = files("hf_transfer") / "demo" / "speech"
DATASET = {
    "model_name_or_path": str(DEMO / "wav2vec2-tiny-commands-american"),
    "dataset_name": str(DEMO / "commands"),
    "label_column_name": "accent",
}


def main() -> None:
    # Imported here, as it takes seconds: if Ctrl-C is pressed meanwhile, the recipe ends without a traceback, too.
    from hf_transfer import AudioClassification, run_recipe

    run_recipe(AudioClassification, defaults_without_data=DATASET, description=__doc__)


if __name__ == "__main__":
    run_command(main)
