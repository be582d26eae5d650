"""CTC decoding with a KenLM language model, by torchaudio's beam search (flashlight-text, which includes KenLM)."""

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from hf_transfer.errors import InputError

INSTALL_COMMAND = 'pip install "hf-transfer-learning[lm]"'


class LanguageModelDecoder:
    """Decoder of CTC logits that finds the words that fit the audio and, by a KenLM model, one another.

    Only words in the language model can be written. Pratap et al. 2019, https://arxiv.org/abs/1812.07625.

    Args:
        file: an ARPA file, whose words are the lexicon.
        tokenizer: of the recogniser.

    Raises:
        InputError: the extra is not installed, or the file is not a language model in this recogniser's letters.
    """

    def __init__(self, file: str, tokenizer: PreTrainedTokenizerBase):
        try:
            from torchaudio.models.decoder import ctc_decoder
        except (ImportError, RuntimeError) as error:
            raise InputError(f"--language_model needs the extra `lm`: {INSTALL_COMMAND} ({error})") from error
        tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        self.word_end = tokenizer.word_delimiter_token
        lexicon = {word: [*word, self.word_end] for word in _read_words(Path(file)) if set(word) <= set(tokens)}
        if not lexicon:
            raise InputError(
                f"--language_model {file}: none of its words can be spelt in the model's letters. Are they "
                "in the same case?"
            )
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".txt") as lexicon_file:
            lexicon_file.writelines(_lexicon_lines(lexicon))
            lexicon_file.flush()
            try:
                self.search = ctc_decoder(
                    lexicon=lexicon_file.name, tokens=tokens, lm=file, blank_token=tokenizer.pad_token,
                    sil_token=self.word_end, unk_word="<unk>", lm_weight=1.5, word_score=-0.5,
                )  # fmt: skip
            except RuntimeError as error:
                reason = str(error).strip().splitlines()[-1]
                raise InputError(f"--language_model {file}: KenLM cannot read it: {reason}") from error

    def decode_beams(self, logits: np.ndarray) -> list[tuple]:
        """Return the best beam for logits [frames, letters], as pyctcdecode does, which transformers expects.

        Returns:
            ``[(text, None, [(word, (first frame, frame after the last)), ...])]``
        """
        scores = torch.from_numpy(logits).float().log_softmax(dim=-1).unsqueeze(0)
        best = self.search(scores)[0][0]
        letters = self.search.idxs_to_tokens(best.tokens)
        words = list(_words_with_frames(letters, best.timesteps.tolist(), self.word_end))
        return [(" ".join(best.words), None, words)]


def _read_words(file: Path) -> Iterator[str]:
    """Yield the unigrams (words) of an ARPA file."""
    if not file.is_file():
        raise InputError(f"--language_model {file}: there is no such file.")
    try:
        section = ""
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("\\"):
                    section = line.strip()
                    if section == "\\2-grams:":
                        return
                elif section == "\\1-grams:" and (cells := line.split()) and not re.fullmatch(r"<.*>", cells[1]):
                    yield cells[1]
    except (UnicodeDecodeError, IndexError) as error:
        raise InputError(f"--language_model {file}: expected an ARPA text file of KenLM.") from error


def _lexicon_lines(lexicon: dict[str, list[str]]) -> Iterator[str]:
    """Yield the lines of torchaudio's lexicon file: a word and its letters."""
    return (f"{word} {' '.join(letters)}\n" for word, letters in lexicon.items())


def _words_with_frames(tokens: list[str], frames: list[int], word_end: str) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield the words that tokens make, each with the numbers of its first frame and the frame after its last."""
    word, first, last = "", 0, 0
    for token, frame in zip([*tokens, word_end], [*frames, 0], strict=True):
        if token != word_end:
            first = first if word else frame
            word, last = word + token, frame
        elif word:
            yield word, (first, last + 1)
            word = ""
