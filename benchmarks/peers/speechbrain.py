"""SpeechBrain on a job, as its CTC recipes set it up: short clips first, Adam for wav2vec2 and Adadelta for the head.

Left out is what our run does not have: augmentation, layers between wav2vec2 and the head, validation.
"""

import csv
import json
import sys
import time
from pathlib import Path

import soundfile
import speechbrain as sb
import torch
from speechbrain.integrations.huggingface.wav2vec2 import Wav2Vec2
from speechbrain.utils.data_pipeline import provides, takes


class Recogniser(sb.Brain):
    def compute_forward(self, batch, stage):
        clips, lengths = batch.to(self.device).sig
        return self.modules.head(self.modules.wav2vec2(clips, lengths)).log_softmax(-1), lengths

    def compute_objectives(self, predictions, batch, stage):
        tokens, token_lengths = batch.tokens
        return sb.nnet.losses.ctc_loss(predictions[0], tokens, predictions[1], token_lengths, blank_index=0)

    def init_optimizers(self):
        wav2vec2 = torch.optim.Adam(self.modules.wav2vec2.parameters(), lr=1e-4)
        head = torch.optim.Adadelta(self.modules.head.parameters(), lr=0.9, rho=0.95, eps=1e-8)
        self.optimizers_dict = {"wav2vec2": wav2vec2, "head": head}


def read(file: str, encoder: sb.dataio.encoder.CTCTextEncoder) -> sb.dataio.dataset.DynamicItemDataset:
    """Return the clips of a table as a dataset, from short to long; they are decoded when they are needed."""
    with open(file, newline="", encoding="utf-8") as stream:
        rows = {
            row["path"]: {"wav": str(Path(file).parent / "clips" / row["path"])} | row
            for row in csv.DictReader(stream)
        }
    for row in rows.values():
        row["duration"] = soundfile.info(row["wav"]).duration
    data = sb.dataio.dataset.DynamicItemDataset(rows)
    data.add_dynamic_item(takes("wav")(provides("sig")(sb.dataio.dataio.read_audio)))
    encode = takes("sentence")(provides("tokens")(lambda text: torch.LongTensor(encoder.encode_sequence(list(text)))))
    data.add_dynamic_item(encode)
    data.set_output_keys(["id", "sig", "tokens"])
    if not len(encoder.lab2ind):
        encoder.insert_blank(index=0)
        encoder.update_from_iterable(row["sentence"] for row in rows.values())
    return data.filtered_sorted(sort_key="duration")


def main() -> None:
    job = json.loads(sys.argv[1])
    torch.manual_seed(job["seed"])
    began = time.perf_counter()
    encoder = sb.dataio.encoder.CTCTextEncoder()
    train, test = read(job["train"], encoder), read(job["test"], encoder)
    wav2vec2 = Wav2Vec2(job["model"], job["output"], output_norm=True, freeze_feature_extractor=True)
    modules = {"wav2vec2": wav2vec2, "head": torch.nn.Linear(wav2vec2.model.config.hidden_size, len(encoder))}
    brain = Recogniser(modules, run_opts={"device": "cpu"})
    loader = {"batch_size": job["batch_size"], "shuffle": False}
    started = time.perf_counter()
    brain.fit(range(job["epochs"]), train, train_loader_kwargs=loader, progressbar=False)
    seconds = time.perf_counter() - started
    brain.evaluate(test, progressbar=False, test_loader_kwargs=loader)
    sb.utils.checkpoints.Checkpointer(job["output"], dict(brain.modules.items())).save_checkpoint()
    print(json.dumps({"seconds": seconds, "total_seconds": time.perf_counter() - began, "accuracy": None}))


if __name__ == "__main__":
    main()
