"""Activations on disk, which all runs share: each file is complete or absent."""

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
    """Folder on disk with the activations of one model below one of its layers, which all runs share.

    Args:
        key: of model and layer, from `activation_key.activation_key`.
    """

    def __init__(self, key: str):
        self.folder = Path(datasets.config.HF_DATASETS_CACHE) / "hf_transfer_activations" / key
        self.folder.mkdir(parents=True, exist_ok=True)
        mark_used_and_clean_up(self.folder)
        _remove_unfinished(self.folder)

    def free(self) -> int:
        """Return the free space of the folder's disk, in bytes."""
        return shutil.disk_usage(self.folder).free

    def _load_index(self) -> "_Index":
        digests, places, seconds = [np.zeros(0, np.uint64)], [np.zeros((0, 3), np.int64)], [np.zeros(0)]
        files: list[np.ndarray] = []
        for index in sorted(self.folder.glob("*.npz")):
            try:
                # A plain array over the memory map: slices of a memmap object are several times slower.
                file = np.asarray(np.load(index.with_suffix(".npy"), mmap_mode="r"))
                with np.load(index) as arrays:
                    file_digests, starts, counts, file_seconds = (
                        arrays[name] for name in ("digests", "starts", "counts", "seconds")
                    )
            except (OSError, ValueError, EOFError, KeyError, BadZipFile):
                continue  # damaged, as after a power failure: these activations are computed again
            digests.append(file_digests)
            places.append(np.column_stack([np.full(len(counts), len(files)), starts, counts]))
            seconds.append(float(file_seconds) * counts / max(1, counts.sum()))
            files.append(file)
        all_digests = np.concatenate(digests)
        order = np.argsort(all_digests, kind="stable")
        return _Index(all_digests[order], np.concatenate(places)[order], np.concatenate(seconds)[order], files)

    def missing(self, digests: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return for each split the rows of examples without stored activations, equal examples once.

        Args:
            digests: of the examples of each split, [n].
        """
        known = self._load_index().digests
        rows = {}
        for name, split_digests in digests.items():
            unique, first = np.unique(split_digests, return_index=True)
            rows[name] = np.sort(first[~np.isin(unique, known)])
            known = np.union1d(known, split_digests)
        return rows

    def find(
        self, digests: Mapping[str, np.ndarray]
    ) -> tuple[list[np.ndarray], dict[str, tuple[np.ndarray, float]]] | None:
        """Return the stored activations of some examples, or None if those of an example are missing.

        Args:
            digests: of the examples of each split, [n].

        Returns:
            All files, memory-mapped, each [positions, width]; and for each split the examples' places (number of the
            file, first row, number of rows; [n, 3]) and the seconds that it took to compute them. None if an example
            is missing.
        """
        index = self._load_index()  # only once: other runs may add files, which changes the numbers of the files
        if not all(np.isin(split_digests, index.digests).all() for split_digests in digests.values()):
            return None
        rows = {name: np.searchsorted(index.digests, split_digests) for name, split_digests in digests.items()}
        found = {
            name: (index.places[split_rows], float(index.seconds[np.unique(split_rows)].sum()))
            for name, split_rows in rows.items()
        }
        return index.files, found

    @contextlib.contextmanager
    def shard(self, total: int, width: int, sharing: int) -> Iterator["_Shard"]:
        """Context manager: yield a new file for activations, which is only kept if the block raises no error.

        Args:
            total: number of positions that will be written.
            width: number of values of a position.
            sharing: number of processes that compute at the same time, each another part of the activations.
        """
        shard = _Shard(self.folder / uuid.uuid4().hex, total, width, sharing)
        try:
            yield shard
            shard.finish()
        finally:
            shard.stream.close()
            shard.partial.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Index:
    """Dataclass of what an `ActivationStore` holds: the examples, their places in the files, and the files.

    Attributes:
        digests: of all examples, ascending, [n].
        places: the number of each example's file, its first row in that file, and its number of rows, [n, 3].
        seconds: that it took to compute each example, [n].
        files: memory-mapped, each [positions, width].
    """

    digests: np.ndarray
    places: np.ndarray
    seconds: np.ndarray
    files: list[np.ndarray]


class _Shard:
    """File of activations that is being written: rows of float32 in numpy's format, and an index beside it."""

    def __init__(self, path: Path, total: int, width: int, sharing: int):
        self.path, self.partial = path, path.with_suffix(".partial")
        self.digests: list[int] = []
        self.counts: list[int] = []
        self.started, self.sharing = time.perf_counter(), sharing
        # Written, not memory-mapped: a full disk raises an error in a write, but kills the process in a memory map.
        self.stream = self.partial.open("wb")
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.float32)), "fortran_order": False}
        np.lib.format.write_array_header_1_0(self.stream, header | {"shape": (total, width)})

    def add(self, digest: int, states: np.ndarray) -> None:
        """Append the activations of an example, [positions, width], under the hash of its input."""
        self.stream.write(np.ascontiguousarray(states, np.float32).tobytes())
        self.digests.append(digest)
        self.counts.append(len(states))

    def finish(self) -> None:
        """Close the file of activations, rename it to its final name, and write its index."""
        self.stream.close()
        fsync_path(self.partial)
        self.partial.rename(self.path.with_suffix(".npy"))
        counts = np.array(self.counts, np.int64)
        # The index comes last: a file without an index counts as absent.
        with self.partial.open("wb") as stream:
            np.savez(
                stream, digests=np.array(self.digests, np.uint64), starts=np.cumsum(counts) - counts, counts=counts,
                seconds=(time.perf_counter() - self.started) / self.sharing,
            )  # fmt: skip
        fsync_path(self.partial)
        self.partial.rename(self.path.with_suffix(".npz"))


def _remove_unfinished(folder: Path) -> None:
    """Remove a folder's activation files that have no index and have not changed for a day.

    They are left from killed runs.
    """
    for file in [*folder.glob("*.partial"), *folder.glob("*.npy")]:
        with contextlib.suppress(OSError):  # another run may remove it at the same time
            is_of_cache = re.fullmatch(CACHE_FILE_NAMES, file.name)
            if is_of_cache and not file.with_suffix(".npz").exists() and time.time() - file.stat().st_mtime > 86400:
                file.unlink()
