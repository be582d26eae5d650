"""Activations on disk, by example: written once by any run, in files that are whole or absent."""

import contextlib
import re
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import datasets
import numpy as np

from hf_transfer.data.cache_cleanup import CACHE_FILE_NAMES, mark_used_and_clean_up
from hf_transfer.fsync import fsync_path


class ActivationStore:
    """The activations of one model at one place.

    Args:
        key: of both.
    """

    def __init__(self, key: str):
        self.folder = Path(datasets.config.HF_DATASETS_CACHE) / "hf_transfer_activations" / key
        self.folder.mkdir(parents=True, exist_ok=True)
        mark_used_and_clean_up(self.folder)
        _forget_unfinished(self.folder)

    def free(self) -> int:
        """Bytes that the disk has left."""
        return shutil.disk_usage(self.folder).free

    def _load(self) -> "_Kept":
        digests, places, seconds = [np.zeros(0, np.uint64)], [np.zeros((0, 3), np.int64)], [np.zeros(0)]
        files: list[np.ndarray] = []
        for index in sorted(self.folder.glob("*.npz")):
            try:
                # A plain array over the map: slices of a memmap take several times as long, and steps take many.
                file = np.asarray(np.load(index.with_suffix(".npy"), mmap_mode="r"))
                with np.load(index) as kept:
                    own, starts, counts, took = (kept[name] for name in ("digests", "starts", "counts", "seconds"))
            except (OSError, ValueError, EOFError, KeyError, BadZipFile):
                continue  # damaged, as by a machine that lost its power: computed again
            digests.append(own)
            places.append(np.column_stack([np.full(len(counts), len(files)), starts, counts]))
            seconds.append(float(took) * counts / max(1, counts.sum()))
            files.append(file)
        every = np.concatenate(digests)
        order = np.argsort(every, kind="stable")
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

    def find(
        self, digests: Mapping[str, np.ndarray]
    ) -> tuple[list[np.ndarray], dict[str, tuple[np.ndarray, float]]] | None:
        """All files, memory-mapped, each [positions, width]; and where the examples of each split are in them.

        For each example the number of its file, its first row there and how many there are, [n, 3]; and how many
        seconds it took to compute them all. None where one of them is not there (any more).
        """
        kept = self._load()  # once: other runs add files, and the numbers of all would change
        if not all(np.isin(own, kept.digests).all() for own in digests.values()):
            return None
        rows = {name: np.searchsorted(kept.digests, own) for name, own in digests.items()}
        found = {name: (kept.places[own], float(kept.seconds[np.unique(own)].sum())) for name, own in rows.items()}
        return kept.files, found

    @contextlib.contextmanager
    def shard(self, total: int, width: int, sharing: int) -> Iterator["_Shard"]:
        """A new file, there when the block ends without an error.

        Args:
            total: positions that will be in it.
            width: numbers a position.
            sharing: how many processes do this work at the same time, each a part of it.
        """
        shard = _Shard(self.folder / uuid.uuid4().hex, total, width, sharing)
        try:
            yield shard
            shard.finish()
        finally:
            shard.stream.close()
            shard.partial.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Kept:
    """Digests in ascending order, their places, the seconds that each took, and the mapped files that they are in."""

    digests: np.ndarray
    places: np.ndarray
    seconds: np.ndarray
    files: list[np.ndarray]


class _Shard:
    """A file that grows: rows of float32, as `numpy.load` maps them, and an index beside it."""

    def __init__(self, path: Path, total: int, width: int, sharing: int):
        self.path, self.partial = path, path.with_suffix(".partial")
        self.digests: list[int] = []
        self.counts: list[int] = []
        self.began, self.sharing = time.perf_counter(), sharing
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
        fsync_path(self.partial)
        self.partial.rename(self.path.with_suffix(".npy"))
        counts = np.array(self.counts, np.int64)
        # The index last: without it the file counts as absent.
        with self.partial.open("wb") as stream:
            np.savez(
                stream, digests=np.array(self.digests, np.uint64), starts=np.cumsum(counts) - counts, counts=counts,
                seconds=(time.perf_counter() - self.began) / self.sharing,
            )  # fmt: skip
        fsync_path(self.partial)
        self.partial.rename(self.path.with_suffix(".npz"))


def _forget_unfinished(folder: Path) -> None:
    """Remove what runs that were killed have left: files without an index that nothing has been added to for a day."""
    for file in [*folder.glob("*.partial"), *folder.glob("*.npy")]:
        with contextlib.suppress(OSError):  # another run may do the same
            ours = re.fullmatch(CACHE_FILE_NAMES, file.name)
            if ours and not file.with_suffix(".npz").exists() and time.time() - file.stat().st_mtime > 86400:
                file.unlink()
