"""Headers of WAV files and their relatives: how much audio is promised, how much is there, and mended ones.

RIFF (WAV), RIFX (big-endian WAV), RF64, W64 and AIFF are chunks one after another; one of them holds the samples.
libsndfile reads them all, but takes a size of 0 for "no samples", where it stands for "not known when the header was
written", and says nothing where a file is shorter than its header promises.
"""

import io
import os
import struct
from dataclasses import dataclass
from typing import Any

# Sizes from here on are written by programs that cannot seek back to fill in the true one: servers, pipes.
STREAMED = 0x7FFFF000
# So are smaller ones that would be gigabytes, where next to nothing of them is there.
IMPLAUSIBLE_BYTES, SHARE_THERE = 1_000_000_000, 0.1
W64_RIFF, W64_TAIL = b"riff\x2e\x91\xcf\x11", 16 + 8
# What may follow the samples.
AFTER_SAMPLES = (b"LIST", b"id3 ", b"ID3 ", b"bext", b"cue ", b"smpl", b"fact", b"iXML", b"_PMX", b"PEAK")
TAIL_BYTES = 1 << 16


@dataclass(frozen=True)
class SampleChunk:
    """Where the samples of a WAV-like file lie.

    Attributes:
        start: position of the first byte.
        promised: bytes that the header promises; None where it does not say.
        there: bytes that the file holds.
        block: bytes of the smallest part that can be decoded: a frame, or a block of compressed frames.
        format: the content of the ``fmt`` chunk; empty in AIFF.
        order: ``<`` or ``>``, the byte order.
        misplaced: whether it can be reached only over chunks that lack their padding byte.
    """

    start: int
    promised: int | None
    there: int
    block: int
    format: bytes
    order: str
    misplaced: bool = False

    @property
    def missing(self) -> int:
        """Bytes that are promised and not there, less than a block aside."""
        lacking = 0 if self.promised is None else self.promised - self.there
        return lacking if lacking >= self.block else 0

    @property
    def needs_mending(self) -> bool:
        """Whether libsndfile would not see the samples."""
        return self.misplaced or (self.promised is None and self.there > 0 and bool(self.format))


def find_samples(stream: Any) -> SampleChunk | None:
    """The samples of a WAV, RIFX, RF64, W64 or AIFF file; None where it is another kind, or has none.

    Args:
        stream: the file, seekable.
    """
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    head = stream.read(12)
    if head.startswith(W64_RIFF):
        return _find(stream, size, 40, wide=True)
    if head[:4] in (b"RIFF", b"RIFX", b"RF64") and head[8:] == b"WAVE":
        return _find(stream, size, 12, order=">" if head[:4] == b"RIFX" else "<")
    if head[:4] == b"FORM" and head[8:] in (b"AIFF", b"AIFC"):
        return _find(stream, size, 12, order=">")
    return None


def _find(stream: Any, size: int, at: int, *, order: str = "<", wide: bool = False) -> SampleChunk | None:
    """Go from chunk to chunk, from the position `at`; `wide` for W64, whose names are GUIDs and sizes 64-bit."""
    header, block, sample_format, misplaced = (24 if wide else 8), 1, b"", False
    in_ds64: int | None = None
    while True:
        stream.seek(at)
        head = stream.read(header)
        if len(head) < header:
            return None
        name = head[:4]
        length = struct.unpack("<Q", head[16:])[0] - 24 if wide else struct.unpack(f"{order}I", head[4:])[0]
        at += header
        if name == b"ds64":
            in_ds64 = struct.unpack("<Q", stream.read(16)[8:].ljust(8, b"\0"))[0]
        elif name == b"fmt ":
            sample_format = stream.read(min(length, 1 << 12))
            block = struct.unpack(f"{order}H", sample_format[12:14])[0] if len(sample_format) >= 14 else 1
        elif name in (b"data", b"SSND"):
            promised = in_ds64 if in_ds64 is not None and length == 0xFFFFFFFF else length
            return _sample_chunk(stream, size, at, promised, max(1, block), sample_format, order, misplaced)
        if length < 0:
            return None
        at, padded = at + length, at + length + (-length % 8 if wide else length % 2)
        if padded != at:
            stream.seek(at)
            after = stream.read(5)
            unpadded = _is_name(after[:4]) and not _is_name(after[1:5])
            misplaced |= unpadded
            at = at if unpadded else padded


def _is_name(four: bytes) -> bool:
    return len(four) == 4 and all(0x20 <= byte < 0x7F for byte in four)


def _sample_chunk(
    stream: Any, size: int, at: int, promised: int, block: int, sample_format: bytes, order: str, misplaced: bool
) -> SampleChunk | None:
    there = size - at
    unknown = promised <= 0 or promised >= STREAMED
    unknown |= promised >= IMPLAUSIBLE_BYTES and there < SHARE_THERE * promised
    if not unknown:
        return SampleChunk(at, promised, min(there, promised), block, sample_format, order, misplaced)
    stream.seek(at)
    if promised <= 0 and stream.read(4) in AFTER_SAMPLES:
        return None  # there are none indeed, and another chunk follows
    return SampleChunk(at, None, there - _trailer(stream, size, at), block, sample_format, order, misplaced)


def _trailer(stream: Any, size: int, start: int) -> int:
    """Bytes of the chunk that ends the file behind samples of unknown number."""
    begin = max(start, size - TAIL_BYTES)
    stream.seek(begin)
    tail = stream.read(TAIL_BYTES)
    for name in AFTER_SAMPLES:
        at = tail.rfind(name)
        if at >= 0 and len(tail) - at >= 8:
            length = struct.unpack("<I", tail[at + 4 : at + 8])[0]
            if begin + at + 8 + length + length % 2 in (size, size + 1):
                return len(tail) - at
    return 0


class MendedWav(io.RawIOBase):
    """A WAV file with a header of the usual form, read as if it had been written so; the samples stay where they are.

    Args:
        stream: the file, which is closed with this one.
        samples: where its samples lie.
    """

    def __init__(self, stream: Any, samples: SampleChunk):
        super().__init__()
        self.stream, self.start = stream, samples.start
        size = min(samples.there // samples.block * samples.block or samples.there, 0xFFFFFF00)
        order = samples.order
        self.header = struct.pack(
            f"{order}4sI4s4sI", b"RIFX" if order == ">" else b"RIFF",
            size + 20 + len(samples.format) + len(samples.format) % 2, b"WAVE", b"fmt ", len(samples.format),
        )  # fmt: skip
        self.header += samples.format + b"\0" * (len(samples.format) % 2)
        self.header += struct.pack(f"{order}4sI", b"data", size)
        self.size, self.position = len(self.header) + size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.position = max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self.size}[whence])
        return self.position

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), self.size - self.position)
        if wanted <= 0:
            return 0
        if self.position < len(self.header):
            content = self.header[self.position : self.position + wanted]
        else:
            self.stream.seek(self.start + self.position - len(self.header))
            content = self.stream.read(wanted)
        buffer[: len(content)] = content
        self.position += len(content)
        return len(content)

    def close(self) -> None:
        self.stream.close()
        super().close()
