"""Names of output files; no file replaces another one."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from carkp.data.files import fold_name, is_file
from carkp.data.issues import printable
from carkp.data.pictures import is_video

_UNSAFE = re.compile(r"[^\w .()-]")


@dataclass(frozen=True)
class Source:
    """A picture or video, its name in the results, and the path of its drawing without suffix."""

    path: Path
    name: str
    out: Path

    @property
    def place(self) -> str:
        """Its absolute path, by which boxes are found."""
        return str(self.path.absolute())

    def remove_old(self) -> None:
        """Delete the drawings of an earlier run: if this run fails, they would look like its results."""
        for suffix in (".jpg", ".png", ".mp4"):
            old = self.out.with_name(self.out.name + suffix)
            if (suffix == ".mp4") == is_video(self.path) and is_file(old):
                old.unlink()


def list_sources(pictures: Sequence[Path], out_dir: Path) -> list[Source]:
    names, stems = name_pictures(pictures), output_stems(pictures)
    return [Source(path, name, out_dir / stem) for path, name, stem in zip(pictures, names, stems, strict=True)]


def name_pictures(pictures: Sequence[Path]) -> list[str]:
    """Return file names; equal names get as many parent folders as make them different."""
    parts = [path.absolute().parts for path in pictures]
    names = [own[-1] for own in parts]
    for depth in range(2, max(map(len, parts), default=0)):
        counts = Counter(names)
        if len(counts) == len(names):
            break
        names = ["/".join(own[-depth:]) if counts[name] > 1 else name for name, own in zip(names, parts, strict=True)]
    return _numbered([(printable(name), "") for name in names], str)


def output_stems(pictures: Sequence[Path]) -> list[str]:
    """Return names without suffix for the drawings; they also differ on file systems that ignore upper and lower case.

    Names that two files share keep the suffix of the source.
    """
    long_names = name_pictures(pictures)
    names = [
        Path(name.replace("/", "_") if "/" in name else path.name)
        for name, path in zip(long_names, pictures, strict=True)
    ]
    kinds = [str(is_video(path)) for path in pictures]
    counts = Counter((fold_name(name.stem), kind) for name, kind in zip(names, kinds, strict=True))
    stems = [
        name.stem if counts[fold_name(name.stem), kind] == 1 else name.name
        for name, kind in zip(names, kinds, strict=True)
    ]
    return _numbered(list(zip(stems, kinds, strict=True)), fold_name)


def artifact_names(names: Sequence[str]) -> list[str]:
    """Return different file names that are safe in URLs and on every file system."""
    safe = [Path(_UNSAFE.sub("_", printable(name))) for name in names]
    stems = _numbered([(name.stem, name.suffix) for name in safe], fold_name)
    return [stem + name.suffix for stem, name in zip(stems, safe, strict=True)]


def _numbered(names: Sequence[tuple[str, str]], sameness: Callable[[str], str]) -> list[str]:
    """Return the stems of (stem, rest); a repeated stem with the same rest gets a number."""
    taken: set[tuple[str, str]] = set()
    stems = []
    for stem, rest in names:
        number, candidate = 1, stem
        while (sameness(candidate), rest) in taken:
            number += 1
            candidate = f"{stem} ({number})"
        taken.add((sameness(candidate), rest))
        stems.append(candidate)
    return stems
