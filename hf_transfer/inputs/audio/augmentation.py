"""Augmentation of training clips with torchaudio: speed, telephone band, noise, gain."""

from dataclasses import dataclass

import numpy as np
import torch
import torchaudio.functional as F

from hf_transfer.inputs.audio.resampling import resampler

# Narrow-band telephony, ITU-T G.712.
TELEPHONE_BAND = (300.0, 3400.0)
TELEPHONE_RATE = 8000


@dataclass(frozen=True)
class Augmentation:
    """Dataclass of random changes of training clips; called with a clip, it returns a changed one.

    Attributes:
        speed_perturbation: clips are played faster or slower by up to this share (Ko et al. 2015, "Audio augmentation
            for speech recognition", takes 0.1), which shifts the pitch as well.
        noise_snr_db: lowest and highest signal-to-noise ratio of added noise, in dB.
        noise_probability: share of the clips to which noise is added.
        gain_db: clips are made louder or softer by up to this many dB.
        telephone_probability: share of the clips that sound as over a telephone line.
    """

    speed_perturbation: float = 0.0
    noise_snr_db: tuple[float, float] = (10.0, 30.0)
    noise_probability: float = 0.0
    gain_db: float = 0.0
    telephone_probability: float = 0.0

    def __call__(
        self, samples: np.ndarray, sampling_rate: int, generator: np.random.Generator, min_samples: int
    ) -> np.ndarray:
        """Return the clip with random changes, float32 [samples].

        Args:
            samples: float32 [n].
            sampling_rate: in Hz.
            generator: of this clip and epoch.
            min_samples: the clip is not made shorter than this, which its transcript needs.
        """
        clip = torch.from_numpy(samples)
        if self.speed_perturbation:
            clip = self._perturb_speed(clip, generator, min_samples)
        if generator.random() < self.telephone_probability:
            clip = _telephone(clip, sampling_rate)
        if generator.random() < self.noise_probability:
            clip = _add_noise(clip, float(generator.uniform(*self.noise_snr_db)), generator)
        if self.gain_db:
            clip = F.gain(clip, float(generator.uniform(-self.gain_db, self.gain_db)))
        return clip.clamp(-1.0, 1.0).numpy()

    def _perturb_speed(self, clip: torch.Tensor, generator: np.random.Generator, min_samples: int) -> torch.Tensor:
        # In whole percent: each factor has a resampling filter of its own, and these are cached.
        percent = round(100 * generator.uniform(1 - self.speed_perturbation, 1 + self.speed_perturbation))
        perturbed = resampler(percent, 100)(clip)
        return perturbed if len(perturbed) >= min_samples else clip


def _add_noise(clip: torch.Tensor, snr_db: float, generator: np.random.Generator) -> torch.Tensor:
    """Return a clip [samples] with white noise, or pink noise (1/f), at this signal-to-noise ratio in dB.

    Pink noise is nearer to that of rooms and streets.
    """
    noise = torch.from_numpy(generator.standard_normal(len(clip)).astype(np.float32))
    if generator.random() < 0.5:
        spectrum = torch.fft.rfft(noise)
        spectrum /= torch.arange(1, len(spectrum) + 1).sqrt()
        noise = torch.fft.irfft(spectrum, n=len(clip))
    return F.add_noise(clip, noise, torch.tensor(snr_db))


def _telephone(clip: torch.Tensor, sampling_rate: int) -> torch.Tensor:
    """Return a clip [samples] as over a telephone line: in its frequency band, and coded with mu-law."""
    low, high = TELEPHONE_BAND
    rate = min(sampling_rate, TELEPHONE_RATE)
    narrow = resampler(sampling_rate, rate)(clip)
    narrow = F.lowpass_biquad(F.highpass_biquad(narrow, rate, low), rate, high)
    coded = F.mu_law_decoding(F.mu_law_encoding(narrow.clamp(-1.0, 1.0), 256), 256)
    return resampler(rate, sampling_rate)(coded)[: len(clip)]
