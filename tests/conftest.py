"""One torch thread: the networks of the tests are too small for more, and threads that wait for each other stall."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine

from carkp import shipped
from tests.tiny_models import TinyModels, build_tiny_models, ship


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> TinyModels:
    """One untrained network as float checkpoint, float ONNX and int8 ONNX."""
    return build_tiny_models(tmp_path_factory.mktemp("tiny_models"))


@pytest.fixture(scope="session", autouse=True)
def quick_databases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """MLflow's migrations take seconds to make a database: they run once, and other SQLite files get copies of it."""
    import mlflow.store.db.utils as module

    template = tmp_path_factory.mktemp("template") / "mlflow.db"
    really = module._initialize_tables

    def copy_tables(engine: Engine) -> None:
        path = engine.url.database
        if engine.url.get_backend_name() != "sqlite" or path in (None, "", ":memory:"):
            really(engine)
            return
        if not template.is_file():
            first = create_engine(f"sqlite:///{template}")
            really(first)
            first.dispose()
        engine.dispose()
        shutil.copyfile(template, str(path))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_initialize_tables", copy_tables)
        yield


@pytest.fixture
def shipped_folder(tiny_models: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of ``carkp-car12``, in an installation that has a tiny untrained network in its place."""
    monkeypatch.setattr(shipped, "ROOT", tmp_path / "models")
    return ship(tiny_models, tmp_path / "models")
