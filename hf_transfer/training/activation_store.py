"""Activations on disk, by example: written once by any run, in files that are whole or absent."""

import contextlib
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np

UNUSED_DAYS = 30


class ActivationStore:
    """The activations of one model at one place.

    Args:
        key: of both.
    """

    def __init__(self, key: str):
        home = Path(datasets.config.HF_DATASETS_CACHE) / "hf_transfer_activations"
        self.folder = home / key
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.touch()
        _forget_unused(home)

    def free(self) -> int:
        """Bytes that the disk has left."""
        return shutil.disk_usage(self.folder).free

    def _load(self) -> "_Kept":
        indexes = sorted(self.folder.glob("*.npz"))
        digests, places, seconds = [np.zeros(0, np.uint64)], [np.zeros((0, 3), np.int64)], [np.zeros(0)]
        for number, index in enumerate(indexes):
            with np.load(index) as kept:
                counts = kept["counts"]
                digests.append(kept["digests"])
                places.append(np.column_stack([np.full(len(counts), number), kept["starts"], counts]))
                seconds.append(float(kept["seconds"]) * counts / max(1, counts.sum()))
        every = np.concatenate(digests)
        order = np.argsort(every, kind="stable")
        files = [index.with_suffix(".npy") for index in indexes]
        return _Kept(every[order], np.concatenate(places)[order], np.concatenate(seconds)[order], files)

    def missing(self, digests: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """For each split the rows that nothing is kept of; examples that occur twice are named once."""
        known = self._load().digests
        rows = {}
        for name, own in digests.items():
            unlike, first = np.unique(own, return_index=True)
            rows[name] = np.sort(first[~np.isin(unlike, known)])
            known = np.union1d(known, own)
        return rows

    def find(self, digests: Mapping[str, np.ndarray]) -> tuple[list[np.ndarray], dict[str, tuple[np.ndarray, float]]]:
        """All files, memory-mapped, each [positions, width]; and where the examples of each split are in them.

        For each example the number of its file, its first row there and how many there are, [n, 3]; and how many
        seconds it took to compute them all.
        """
        kept = self._load()  # once: other runs add files, and the numbers of all would change
        rows = {name: np.searchsorted(kept.digests, own) for name, own in digests.items()}
        found = {name: (kept.places[own], float(kept.seconds[own].sum())) for name, own in rows.items()}
        return [np.load(file, mmap_mode="r") for file in kept.files], found

    @contextlib.contextmanager
    def shard(self, total: int, width: int) -> Iterator["_Shard"]:
        """A new file, there when the block ends without an error."""
        shard = _Shard(self.folder / uuid.uuid4().hex, total, width)
        try:
            yield shard
            shard.finish()
        finally:
            shard.stream.close()
            shard.partial.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Kept:
    """Digests in ascending order, their places, the seconds that each took, and the files that the places are in."""

    digests: np.ndarray
    places: np.ndarray
    seconds: np.ndarray
    files: list[Path]


class _Shard:
    """A file that grows: rows of float32, as `numpy.load` maps them, and an index beside it."""

    def __init__(self, path: Path, total: int, width: int):
        self.path, self.partial = path, path.with_suffix(".partial")
        self.digests: list[int] = []
        self.counts: list[int] = []
        self.began = time.perf_counter()
        # Written and not mapped: a disk that fills up is an error here, and the end of the process there.
        self.stream = self.partial.open("wb")
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.float32)), "fortran_order": False}
        np.lib.format.write_array_header_1_0(self.stream, header | {"shape": (total, width)})

    def add(self, digest: int, states: np.ndarray) -> None:
        """Add the rows of an example, [positions, width]."""
        self.stream.write(np.ascontiguousarray(states, np.float32).tobytes())
        self.digests.append(digest)
        self.counts.append(len(states))

    def finish(self) -> None:
        self.stream.close()
        self.partial.rename(self.path.with_suffix(".npy"))
        counts = np.array(self.counts, np.int64)
        # The index last: without it the file counts as absent.
        with self.partial.open("wb") as stream:
            np.savez(
                stream, digests=np.array(self.digests, np.uint64), starts=np.cumsum(counts) - counts, counts=counts,
                seconds=time.perf_counter() - self.began,
            )  # fmt: skip
        self.partial.rename(self.path.with_suffix(".npz"))


def _forget_unused(home: Path) -> None:
    """Remove what no run has asked for in a month."""
    for folder in home.iterdir():
        with contextlib.suppress(OSError):  # another run may do the same
            if time.time() - folder.stat().st_mtime > UNUSED_DAYS * 86400:
                shutil.rmtree(folder)
