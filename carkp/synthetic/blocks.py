"""Drawing of a set of pictures block by block, so that a killed run can resume, and machines can share the work.

While a set is drawn, it is in ``.<name>.unfinished`` beside its final place. There each finished block has its own file
in ``blocks/``. Machines can draw separate shards: shard k of n has every n-th block, starting at the k-th.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from tqdm import tqdm

from carkp import disk
from carkp.synthetic.layout import TEST_SCENES, TRAIN_SCENES, split_of

SHARD_FILE = "shard.json"
_BLOCKS = "blocks"
_IDENTITY = "identity.json"


class Block(Protocol):
    """Some cars of a scene that one process draws at once. A killed run repeats at most the unfinished blocks."""

    @property
    def name(self) -> str:
        """Unique file name of the block within the set."""

    @property
    def scene(self) -> str: ...

    @property
    def num_cars(self) -> int: ...


@dataclass(frozen=True)
class Drawn:
    """The result of a block; ``truth``: a line of JSON for every labelled car."""

    num_cars: int
    num_frames: int
    truth: list[str]


OneBlock = TypeVar("OneBlock", bound=Block)


@dataclass(frozen=True)
class PictureSet(Generic[OneBlock]):
    """A set of pictures to draw.

    Attributes:
        marker: name of the file that marks a complete set.
        identity: values that determine the pictures, as JSON.
        blocks: blocks in the order of the truth.
        draw: function that writes the pictures of a block below a folder; must be picklable.
        prepare: function that runs once before several processes draw.
        work: text for processes that wait, for example ``draws the pictures``.
        title: title of the progress bar.
    """

    marker: str
    identity: Mapping[str, object]
    blocks: Sequence[OneBlock]
    draw: Callable[[Path, OneBlock], Drawn]
    prepare: Callable[[], object]
    work: str
    title: str

    def is_complete(self, out_dir: Path) -> bool:
        """Return whether ``out_dir`` contains this set completely."""
        return _holds(out_dir / self.marker, self.identity)

    def generate(self, out_dir: Path, num_workers: int, show_progress: bool) -> Path:
        """Draw the set into ``out_dir``, which gets its name only when it is complete; an existing equal set is kept.

        If several processes draw the same ``out_dir``, one works and the others wait for it.

        Raises:
            FileExistsError: ``out_dir`` contains something else.
            OSError: the pictures cannot be written; the message says what to do.
        """
        if self.is_complete(out_dir):
            return out_dir
        with _explained(out_dir), disk.exclusive(out_dir, self.work):
            if not self.is_complete(out_dir):
                _require_free(out_dir, self.marker)
                unfinished = self._begin(out_dir, self.identity)
                self._draw_missing(unfinished, self.blocks, num_workers, show_progress)
                self._finish(unfinished, out_dir)
        return out_dir

    def generate_shard(self, out_dir: Path, shard: "Shard", num_workers: int, show_progress: bool) -> Path:
        """Draw the blocks of one shard of the set for ``out_dir``, and return the directory of the shard.

        Raises:
            FileExistsError: the directory of the shard contains something else.
            OSError: the pictures cannot be written; the message says what to do.
        """
        directory = shard.directory(out_dir)
        identity = {**self.identity, **asdict(shard)}
        if _holds(directory / SHARD_FILE, identity):
            return directory
        with _explained(directory), disk.exclusive(directory, self.work):
            if not _holds(directory / SHARD_FILE, identity):
                _require_free(directory, SHARD_FILE)
                unfinished = self._begin(directory, identity)
                own = self.blocks[shard.number - 1 :: shard.num_shards]
                self._draw_missing(unfinished, own, num_workers, show_progress)
                _write_json(unfinished / SHARD_FILE, identity)
                _give_name(unfinished, directory)
        return directory

    def merge_shards(self, out_dir: Path, num_shards: int) -> Path:
        """Make the set in ``out_dir`` from its shards, which are beside it and stay there.

        Raises:
            FileExistsError: ``out_dir`` contains something else.
            OSError: a shard is missing, incomplete or part of another set, or the set cannot be written.
        """
        if self.is_complete(out_dir):
            return out_dir
        shards = [Shard(number, num_shards) for number in range(1, num_shards + 1)]
        for shard in shards:
            self._require_shard(out_dir, shard)
        with _explained(out_dir), disk.exclusive(out_dir, self.work):
            if not self.is_complete(out_dir):
                _require_free(out_dir, self.marker)
                unfinished = self._begin(out_dir, self.identity)
                for shard in shards:
                    _link_files(shard.directory(out_dir), unfinished)
                self._finish(unfinished, out_dir)
        return out_dir

    def _require_shard(self, out_dir: Path, shard: "Shard") -> None:
        directory = shard.directory(out_dir)
        if not _holds(directory / SHARD_FILE, {**self.identity, **asdict(shard)}):
            what = "belongs to another set" if (directory / SHARD_FILE).is_file() else "is missing or incomplete"
            raise FileNotFoundError(f"{directory} {what}: draw shard {shard} with the settings of this experiment")

    def _begin(self, out_dir: Path, identity: Mapping[str, object]) -> Path:
        """Return the folder of unfinished work, with the blocks of an earlier run; needs the lock of ``out_dir``."""
        disk.remove_leftovers(out_dir)
        unfinished = out_dir.with_name(f".{out_dir.name}.unfinished")
        if _holds(unfinished / _BLOCKS / _IDENTITY, identity):
            return unfinished
        disk.remove(unfinished)
        for scene in (*TRAIN_SCENES, *TEST_SCENES):
            for kind in ("images_jpg", "gt", "bb"):
                (unfinished / split_of(scene) / scene / kind).mkdir(parents=True)
        (unfinished / _BLOCKS).mkdir()
        _write_json(unfinished / _BLOCKS / _IDENTITY, identity)
        return unfinished

    def _draw_missing(self, root: Path, blocks: Sequence[OneBlock], num_workers: int, show_progress: bool) -> None:
        left = [block for block in blocks if not _result_file(root, block).is_file()]
        total = sum(block.num_cars for block in blocks)
        done = total - sum(block.num_cars for block in left)
        with tqdm(total=total, initial=done, desc=self.title, unit="car", disable=not show_progress) as progress:
            for num_cars in self._draw(root, left, num_workers):
                progress.update(num_cars)

    def _draw(self, root: Path, blocks: Sequence[OneBlock], num_workers: int) -> Iterator[int]:
        if num_workers <= 1 or len(blocks) <= 1:
            for block in blocks:
                yield _draw_block(self.draw, root, block)
            return
        self.prepare()
        # No fork: the caller may have running threads, and a forked child could inherit their locks.
        with ProcessPoolExecutor(min(num_workers, len(blocks)), mp_context=get_context("spawn")) as pool:
            futures = [pool.submit(_draw_block, self.draw, root, block) for block in blocks]
            try:
                for future in as_completed(futures):
                    yield future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _finish(self, unfinished: Path, out_dir: Path) -> None:
        """Write truth and counts of the scenes, and rename the set to its final name."""
        counts = {}
        for scene in (*TRAIN_SCENES, *TEST_SCENES):
            done = [_read_result(unfinished, block) for block in self.blocks if block.scene == scene]
            truth = "".join(f"{line}\n" for drawn in done for line in drawn.truth)
            (unfinished / split_of(scene) / scene / "truth.jsonl").write_text(truth, encoding="utf-8")
            counts[scene] = {
                "cars": sum(drawn.num_cars for drawn in done),
                "frames": sum(drawn.num_frames for drawn in done),
                "blocks": len(done),
            }
        shutil.rmtree(unfinished / _BLOCKS)
        _write_json(unfinished / self.marker, {**self.identity, "counts": counts})
        _give_name(unfinished, out_dir)


@dataclass(frozen=True)
class Shard:
    """Part ``number``, counted from 1, of ``num_shards`` parts of a set."""

    number: int
    num_shards: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.num_shards:
            raise ValueError(f"a shard is K/N with K from 1 to N, got {self.number}/{self.num_shards}")

    def __str__(self) -> str:
        return f"{self.number}/{self.num_shards}"

    def directory(self, out_dir: Path) -> Path:
        """Return the directory of the shard, which is beside that of the whole set."""
        return out_dir.with_name(f"{out_dir.name}.shard-{self.number}-of-{self.num_shards}")


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Make system errors say what cannot be written and what to do."""
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        raise OSError(disk.describe_write_error(path, error)) from error


def _require_free(directory: Path, marker: str) -> None:
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return
    if (directory / marker).is_file():
        raise FileExistsError(
            f"{directory} contains generated pictures with other settings or from another version of the generator; "
            "another program may read them, so they are kept: choose another directory, or delete this one"
        )
    raise FileExistsError(
        f"{directory} exists but contains no generated set ({marker} is missing): choose another directory, or delete "
        "this one"
    )


def _draw_block(draw: Callable[[Path, OneBlock], Drawn], root: Path, block: OneBlock) -> int:
    """Draw a block, write a file that marks it as done, and return the number of its cars."""
    drawn = draw(root, block)
    _write_json(_result_file(root, block), asdict(drawn))
    return drawn.num_cars


def _give_name(unfinished: Path, final: Path) -> None:
    """Rename a folder after its whole content is on the disk."""
    disk.sync_tree(unfinished)
    unfinished.rename(final)  # replaces an empty directory, but no other one
    disk.sync_directory(final.parent)


def _result_file(root: Path, block: Block) -> Path:
    return root / _BLOCKS / f"{block.name}.json"


def _read_result(root: Path, block: Block) -> Drawn:
    return Drawn(**json.loads(_result_file(root, block).read_text(encoding="utf-8")))


def _link_files(source: Path, target: Path) -> None:
    """Link the files of ``source`` into the folders of ``target``; copy them if links are not possible."""
    for path in source.rglob("*"):
        link = target / path.relative_to(source)
        if path.is_dir() or path.name in (SHARD_FILE, _IDENTITY) or link.exists():
            continue
        try:
            os.link(path, link)
        except OSError:
            shutil.copyfile(path, link)


def _write_json(path: Path, content: object) -> None:
    disk.write_atomic(path, (json.dumps(content, indent=1) + "\n").encode())


def _holds(path: Path, identity: Mapping[str, object]) -> bool:
    """Return whether a JSON file contains all entries of ``identity``."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    wanted = json.loads(json.dumps(identity))
    return isinstance(found, dict) and all(found.get(key) == value for key, value in wanted.items())
