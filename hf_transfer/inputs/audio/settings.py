"""Settings of audio as input: columns, which clips are used, augmentation."""

from dataclasses import dataclass, field
from typing import ClassVar

from hf_transfer.errors import InputError, nearest
from hf_transfer.inputs.audio.augmentation import Augmentation
from hf_transfer.inputs.audio.findings import SUSPICIONS


@dataclass
class AudioSettings:
    """Dataclass of the flags of audio as input: columns, which clips are used, augmentation.

    Raises:
        InputError: one of them is out of its range.
    """

    flags_for_prediction: ClassVar[tuple[str, ...]] = ("audio_column_name",)
    flags_for_evaluation: ClassVar[tuple[str, ...]] = (
        "audio_column_name",
        "speaker_column_name",
        "min_seconds",
        "max_seconds",
        "leave_out",
    )

    audio_column_name: str | None = field(
        default=None, metadata={"help": "Column of the clips: paths of files, or audio."}
    )
    speaker_column_name: str | None = field(
        default=None, metadata={"help": "Column of the speakers, if there is one."}
    )
    min_seconds: float = field(default=0.1, metadata={"help": "Clips of fewer seconds are left out."})
    max_seconds: float = field(default=30.0, metadata={"help": "Clips of more seconds are left out."})
    leave_out: list[str] = field(
        default_factory=lambda: ["silent", "truncated"],
        metadata={"help": f"Kinds of suspicious clips that are left out, of: {', '.join(SUSPICIONS)}; or `none`."},
    )
    train_feature_encoder: bool = field(
        default=False, metadata={"help": "Train the convolutional feature encoder, too, with --method full."}
    )
    speed_perturbation: float = field(
        default=0.1,
        metadata={"help": "Play training clips faster or slower by up to this share; 0 leaves them unchanged."},
    )
    noise_probability: float = field(
        default=0.0, metadata={"help": "Share of training clips to which noise is added."}
    )
    noise_snr_db: list[float] = field(
        default_factory=lambda: [10.0, 30.0],
        metadata={"help": "Lowest and highest signal-to-noise ratio of that noise, in dB."},
    )
    gain_db: float = field(
        default=0.0, metadata={"help": "Make training clips louder or softer by up to this many dB."}
    )
    telephone_probability: float = field(
        default=0.0, metadata={"help": "Share of training clips that sound as over a telephone line."}
    )
    mask_time_prob: float | None = field(
        default=None,
        metadata={
            "help": "SpecAugment: share of the frames that are masked (default: the checkpoint's; none with --method "
            "frozen)."
        },
    )
    mask_feature_prob: float | None = field(
        default=None,
        metadata={"help": "SpecAugment: share of the features that are masked (default: the checkpoint's)."},
    )

    def __post_init__(self) -> None:
        self.leave_out = self.leave_out or ["none"]
        for name in self.leave_out:
            if name not in (*SUSPICIONS, "none"):
                raise InputError(
                    f"--leave_out {name}: expected none, or some of {', '.join(SUSPICIONS)}."
                    f"{nearest(name, SUSPICIONS)}"
                )
        if not 0 < self.min_seconds < self.max_seconds:
            raise InputError(
                f"--min_seconds {self.min_seconds:g} --max_seconds {self.max_seconds:g}: expected 0 < min < max."
            )
        for name in ("noise_probability", "telephone_probability", "mask_time_prob", "mask_feature_prob"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise InputError(f"--{name} is {value:g}: expected a share from 0 to 1.")
        if not 0 <= self.speed_perturbation < 0.5:
            raise InputError(f"--speed_perturbation is {self.speed_perturbation:g}: expected 0 to 0.5.")
        if self.gain_db < 0:
            raise InputError(f"--gain_db is {self.gain_db:g}: expected 0 or more, the largest change in dB.")
        if len(self.noise_snr_db) != 2 or self.noise_snr_db[0] > self.noise_snr_db[1]:
            raise InputError(f"--noise_snr_db is {self.noise_snr_db}: expected two numbers, the lower first.")

    def augmentation(self) -> Augmentation | None:
        """Return the `Augmentation` of training clips, or None if they are not augmented."""
        if not (self.speed_perturbation or self.noise_probability or self.gain_db or self.telephone_probability):
            return None
        low, high = self.noise_snr_db
        return Augmentation(
            self.speed_perturbation, (low, high), self.noise_probability, self.gain_db, self.telephone_probability
        )
