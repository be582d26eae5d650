"""Headers of WAV and similar files: how many bytes of samples they declare, how many there are, and their repair.

RIFF (WAV), RIFX (big-endian WAV), RF64, W64 and AIFF are sequences of chunks; one of them holds the samples.
libsndfile reads them all, but takes a declared size of 0 for "no samples", where it means "not known when the header
was written", and does not report that a file is shorter than its header declares.
"""

import dataclasses
import io
import os
import struct
from dataclasses import dataclass
from typing import Any, BinaryIO

# Declared sizes from here on are placeholders of programs that cannot seek back to write the true one: servers, pipes.
PLACEHOLDER_BYTES = 0x7FFFF000
# So are smaller sizes of gigabytes, if less than this share of them is there.
IMPLAUSIBLE_BYTES, IMPLAUSIBLE_SHARE = 1_000_000_000, 0.1
W64_RIFF = b"riff\x2e\x91\xcf\x11"
# Chunks that may follow the samples.
CHUNKS_AFTER_SAMPLES = (b"LIST", b"id3 ", b"ID3 ", b"bext", b"cue ", b"smpl", b"fact", b"iXML", b"_PMX", b"PEAK")
TAIL_BYTES = 1 << 16


@dataclass(frozen=True)
class SampleChunk:
    """Dataclass of the chunk of a WAV, RIFX, RF64, W64 or AIFF file that holds the samples: its place and size.

    Attributes:
        start: position of its first byte in the file.
        declared_bytes: size that the header declares; None if it does not.
        present_bytes: size of what the file holds.
        block_bytes: size of the smallest part that can be decoded: a frame, or a block of compressed frames.
        format: the content of the ``fmt`` chunk; empty in AIFF.
        byte_order: ``<`` or ``>``, as of `struct`.
        follows_unpadded_chunk: whether a chunk before it lacks its padding byte.
    """

    start: int
    declared_bytes: int | None
    present_bytes: int
    block_bytes: int
    format: bytes
    byte_order: str
    follows_unpadded_chunk: bool = False

    @property
    def missing_bytes(self) -> int:
        """Number of bytes that the header declares and the file lacks; 0 if it is less than a block."""
        missing = 0 if self.declared_bytes is None else self.declared_bytes - self.present_bytes
        return missing if missing >= self.block_bytes else 0

    @property
    def needs_repair(self) -> bool:
        """Boolean: whether libsndfile would not find the samples."""
        has_unknown_size = self.declared_bytes is None and self.present_bytes > 0 and bool(self.format)
        return self.follows_unpadded_chunk or has_unknown_size


def find_sample_chunk(stream: BinaryIO) -> SampleChunk | None:
    """Return the chunk of samples of a WAV, RIFX, RF64, W64 or AIFF file, or None if it has no such chunk.

    Args:
        stream: the file, seekable.
    """
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    head = stream.read(12)
    if head.startswith(W64_RIFF):
        return _walk_chunks(stream, size, 40, is_w64=True)
    if head[:4] in (b"RIFF", b"RIFX", b"RF64") and head[8:] == b"WAVE":
        return _walk_chunks(stream, size, 12, byte_order=">" if head[:4] == b"RIFX" else "<")
    if head[:4] == b"FORM" and head[8:] in (b"AIFF", b"AIFC"):
        return _walk_chunks(stream, size, 12, byte_order=">")
    return None


def _walk_chunks(
    stream: BinaryIO, file_size: int, position: int, *, byte_order: str = "<", is_w64: bool = False
) -> SampleChunk | None:
    """Go from chunk to chunk of a file, and return the chunk of samples, or None if there is no such chunk.

    W64 has GUIDs as names and 64-bit sizes.
    """
    header_size, block_bytes, sample_format, follows_unpadded_chunk = (24 if is_w64 else 8), 1, b"", False
    size_in_ds64: int | None = None
    while True:
        stream.seek(position)
        header = stream.read(header_size)
        if len(header) < header_size:
            return None
        name = header[:4]
        size = struct.unpack("<Q", header[16:])[0] - 24 if is_w64 else struct.unpack(f"{byte_order}I", header[4:])[0]
        position += header_size
        if name == b"ds64":
            size_in_ds64 = struct.unpack("<Q", stream.read(16)[8:].ljust(8, b"\0"))[0]
        elif name == b"fmt ":
            sample_format = stream.read(min(size, 1 << 12))
            has_block = len(sample_format) >= 14
            block_bytes = struct.unpack(f"{byte_order}H", sample_format[12:14])[0] if has_block else 1
        elif name in (b"data", b"SSND"):
            declared = size_in_ds64 if size_in_ds64 is not None and size == 0xFFFFFFFF else size
            present = file_size - position
            chunk = SampleChunk(
                position, declared, min(present, declared), max(1, block_bytes), sample_format, byte_order,
                follows_unpadded_chunk,
            )  # fmt: skip
            return _with_unknown_size(chunk, stream, file_size) if _is_placeholder(declared, present) else chunk
        if size < 0:
            return None
        position, padded = position + size, position + size + (-size % 8 if is_w64 else size % 2)
        if padded != position:
            stream.seek(position)
            following = stream.read(5)
            is_unpadded = _is_chunk_name(following[:4]) and not _is_chunk_name(following[1:5])
            follows_unpadded_chunk |= is_unpadded
            position = position if is_unpadded else padded


def _is_chunk_name(four_bytes: bytes) -> bool:
    return len(four_bytes) == 4 and all(0x20 <= byte < 0x7F for byte in four_bytes)


def _is_placeholder(declared: int, present: int) -> bool:
    """Return whether the declared size was written before the true size was known."""
    if declared <= 0 or declared >= PLACEHOLDER_BYTES:
        return True
    return declared >= IMPLAUSIBLE_BYTES and present < IMPLAUSIBLE_SHARE * declared


def _with_unknown_size(chunk: SampleChunk, stream: BinaryIO, file_size: int) -> SampleChunk | None:
    """Return a chunk with the size of what the file holds; None if it is empty and another chunk follows."""
    stream.seek(chunk.start)
    if (chunk.declared_bytes or 0) <= 0 and stream.read(4) in CHUNKS_AFTER_SAMPLES:
        return None
    present = file_size - chunk.start - _size_of_last_chunk(stream, file_size, chunk.start)
    return dataclasses.replace(chunk, declared_bytes=None, present_bytes=present)


def _size_of_last_chunk(stream: BinaryIO, file_size: int, start: int) -> int:
    """Return the size in bytes of a chunk that follows samples of unknown size and ends the file, or 0."""
    tail_start = max(start, file_size - TAIL_BYTES)
    stream.seek(tail_start)
    tail = stream.read(TAIL_BYTES)
    for name in CHUNKS_AFTER_SAMPLES:
        position = tail.rfind(name)
        if position >= 0 and len(tail) - position >= 8:
            size = struct.unpack("<I", tail[position + 4 : position + 8])[0]
            if tail_start + position + 8 + size + size % 2 in (file_size, file_size + 1):
                return len(tail) - position
    return 0


class RepairedWav(io.RawIOBase):
    """Binary stream of a WAV file with a new header that libsndfile can read; samples are read from the file.

    Args:
        stream: the file, which is closed with this one.
        samples: its chunk of samples.
    """

    def __init__(self, stream: BinaryIO, samples: SampleChunk):
        super().__init__()
        self.stream, self.start = stream, samples.start
        whole_blocks = samples.present_bytes // samples.block_bytes * samples.block_bytes
        size = min(whole_blocks or samples.present_bytes, 0xFFFFFF00)
        order = samples.byte_order
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
        count = min(len(buffer), self.size - self.position)
        if count <= 0:
            return 0
        if self.position < len(self.header):
            content = self.header[self.position : self.position + count]
        else:
            self.stream.seek(self.start + self.position - len(self.header))
            content = self.stream.read(count)
        buffer[: len(content)] = content
        self.position += len(content)
        return len(content)

    def close(self) -> None:
        self.stream.close()
        super().close()
