"""Adapt a speech recogniser to an accent, and measure what it gains there and forgets elsewhere.

    python recipes/accent.py --output_dir accent                             # the packaged model and accents
    python recipes/accent.py --dataset_name my_clips/ --output_dir accent    # wav2vec2-base-960h, from the Hub
    python recipes/accent.py --train_file clips.csv --group_column_name accent --source_group american --replay 0.2 \\
        --method lora --output_dir accent
    accelerate launch --multi_gpu --num_processes 2 recipes/accent.py --config recipes/accent.yaml

The data are clips with transcripts: an audiofolder, a table of paths, or a dataset; --help lists every argument.
"""

from importlib.resources import files

from hf_transfer.errors import run_command

DEMO = files("hf_transfer") / "demo" / "speech"
DATASET = {
    "model_name_or_path": str(DEMO / "wav2vec2-tiny-commands-american"),
    "dataset_name": str(DEMO / "commands"),
    "group_column_name": "accent",
    "source_group": "american",
    "target_group": ["scottish"],
}


def main() -> None:
    # Imported here, as it takes seconds: if Ctrl-C is pressed meanwhile, the recipe ends without a traceback, too.
    from hf_transfer import SpeechRecognition, run_recipe

    run_recipe(SpeechRecognition, defaults_without_data=DATASET, description=__doc__)


if __name__ == "__main__":
    run_command(main)
