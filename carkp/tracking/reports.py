"""Reports for the tracking server in a form that can be kept and sent again. A report sent twice counts once.

Each point of a metric has the time of its measurement. MLflow keeps points of equal time, step and value only once.
"""

import secrets
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import mlflow.onnx
import onnx
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import DatasetInput, InputTag, LoggedModelStatus, Metric, Param, RunTag
from mlflow.models import Model, ModelSignature
from mlflow.models.model import ModelInfo
from mlflow.tracking import MlflowClient

from carkp import disk
from carkp.tracking.runs import local_artifacts
from carkp.tracking.spool import Report

_CONTEXT_TAG = "mlflow.data.context"
_NAME_TAG, _NOTE_TAG = "mlflow.runName", "mlflow.note.content"
_TOKEN_TAG = "carkp.report"
"""Tag of a model: the report that created it."""


def metrics_report(points: Mapping[str, float], step: int, time_ms: int) -> Report:
    return Report("metrics", {"points": dict(points), "step": step, "time_ms": time_ms})


def params_report(params: Mapping[str, str]) -> Report:
    return Report("params", dict(params))


def tags_report(tags: Mapping[str, str]) -> Report:
    return Report("tags", dict(tags))


def artifact_report(path: Path, folder: str) -> Report:
    """Return a report of a file that becomes the artifact ``folder``/<its name>."""
    return Report("artifact", {"folder": folder}, (path,), replaces=f"artifact {folder}/{path.name}")


def dataset_report(name: str, digest: str, source: str, context: str) -> Report:
    return Report("dataset", {"name": name, "digest": digest, "source": source, "context": context})


def description_report(note: str, plain_name: str, name: str) -> Report:
    """Return a report of the run's description. It also renames a run from ``plain_name`` to ``name``, if not ""."""
    return Report("description", {"note": note, "plain_name": plain_name, "name": name})


def onnx_model_report(path: Path, name: str, signature: ModelSignature, requirements: Sequence[str]) -> Report:
    """Return a report of an ONNX file that becomes an MLflow model of the run."""
    content = {
        "name": name,
        "signature": signature.to_dict(),
        "requirements": list(requirements),
        "token": secrets.token_hex(8),
    }
    return Report("onnx_model", content, (path,), replaces=f"model {name}")


def end_report(status: str, time_ms: int) -> Report:
    return Report("end", {"status": status, "time_ms": time_ms})


def send(client: MlflowClient, run_id: str, report: Report) -> None:
    """Send a report to the server. Anything that was sent before, wholly or in part, does not count twice."""
    _SENDERS[report.kind](client, run_id, report)


def log_model(client: MlflowClient, run_id: str, name: str, tags: Mapping[str, str], **settings: Any) -> ModelInfo:
    """Log a model of any flavour to this run and its experiment; by default MLflow would use the active run."""
    run = client.get_run(run_id)
    model = client.create_logged_model(
        run.info.experiment_id, name, source_run_id=run_id, params=run.data.params, tags=dict(tags)
    )
    logged: ModelInfo = Model.log(artifact_path=None, name=name, run_id=run_id, model_id=model.model_id, **settings)
    return logged


def _send_metrics(client: MlflowClient, run_id: str, report: Report) -> None:
    time_ms, step = report.content["time_ms"], report.content["step"]
    points = [Metric(name, value, time_ms, step) for name, value in report.content["points"].items()]
    client.log_batch(run_id, metrics=points, synchronous=True)


def _send_params(client: MlflowClient, run_id: str, report: Report) -> None:
    params = [Param(name, value) for name, value in report.content.items()]
    client.log_batch(run_id, params=params, synchronous=True)


def _send_tags(client: MlflowClient, run_id: str, report: Report) -> None:
    tags = [RunTag(name, value) for name, value in report.content.items()]
    client.log_batch(run_id, tags=tags, synchronous=True)


@cache
def folder_of(run_id: str) -> Path | None:
    """Return the folder that keeps a run's files, or None if it is not on this machine; ask the server only once."""
    return local_artifacts(run_id)


def _send_artifact(client: MlflowClient, run_id: str, report: Report) -> None:
    (path,), folder = report.files, report.content["folder"]
    if (kept := folder_of(run_id)) is None:
        client.log_artifact(run_id, str(path), folder or None)
    else:  # MLflow would copy it without flushing it to the disk
        disk.copy_atomic(path, kept / folder / path.name)


def _send_dataset(client: MlflowClient, run_id: str, report: Report) -> None:
    content = report.content
    origin = CodeDatasetSource(tags={"path": content["source"]})
    dataset = MetaDataset(origin, name=content["name"], digest=content["digest"])  # type: ignore[abstract]
    tags = [InputTag(_CONTEXT_TAG, content["context"])]
    client.log_inputs(run_id, [DatasetInput(dataset._to_mlflow_entity(), tags)])


def _send_description(client: MlflowClient, run_id: str, report: Report) -> None:
    content = report.content
    tags = {_NOTE_TAG: content["note"]}
    if content["name"] and client.get_run(run_id).info.run_name == content["plain_name"]:
        tags[_NAME_TAG] = content["name"]
    _send_tags(client, run_id, tags_report(tags))


def _send_onnx_model(client: MlflowClient, run_id: str, report: Report) -> None:
    (path,) = report.files
    content = report.content
    if _is_model_there(client, run_id, content["token"]):
        return
    log_model(
        client,
        run_id,
        content["name"],
        {_TOKEN_TAG: content["token"]},
        flavor=mlflow.onnx,
        onnx_model=onnx.load(str(path)),
        signature=ModelSignature.from_dict(content["signature"]),
        pip_requirements=content["requirements"],
        save_as_external_data=False,
    )


def _is_model_there(client: MlflowClient, run_id: str, token: str) -> bool:
    """Return whether the model of this report exists; delete models that an outage left incomplete."""
    experiment_id = client.get_run(run_id).info.experiment_id
    found = client.search_logged_models([experiment_id], f"tags.`{_TOKEN_TAG}` = '{token}'")
    for model in found:
        if model.status != LoggedModelStatus.READY:
            client.delete_logged_model(model.model_id)
    return any(model.status == LoggedModelStatus.READY for model in found)


def _send_end(client: MlflowClient, run_id: str, report: Report) -> None:
    client.set_terminated(run_id, report.content["status"], report.content["time_ms"])


_SENDERS: Mapping[str, Callable[[MlflowClient, str, Report], None]] = {
    "metrics": _send_metrics,
    "params": _send_params,
    "tags": _send_tags,
    "artifact": _send_artifact,
    "dataset": _send_dataset,
    "description": _send_description,
    "onnx_model": _send_onnx_model,
    "end": _send_end,
}
