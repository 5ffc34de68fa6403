"""What a report shows, read from the artifacts, metrics and tags of runs alone."""

import csv
import json
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from carkp.config.schema import GENERATED_SOURCES
from carkp.data.mixture import MIXTURE_KIND
from carkp.data.summary import DataSummary
from carkp.keypoints.predictions import Predictions, load_predictions
from carkp.report.accuracy_data import (
    CALIBRATED,
    FLOAT,
    ONNXRUNTIME,
    QAT,
    SIMULATED,
    DataCard,
    Family,
    Latency,
    LayerNoise,
    ModelRow,
    RunCard,
    SceneRow,
    Sweep,
)
from carkp.tracking.runs import DATA_TAG, LATEST, STAGE_TAG, FoundRun, fetch_artifact, has_artifact
from carkp.tracking.store import TrackingError
from carkp.workflow.alignment import ALIGNED, describe_differences, parse_comparisons
from carkp.workflow.benchmark import command_that_measures, read_benchmark
from carkp.workflow.report.commands import command_of, masked_paths
from carkp.workflow.report.sources import CHAIN, MODEL_DIGEST_TAG, FamilyRuns
from carkp.workflow.scoring import CROPS_NAME, PREDICTIONS_DIR

SPLITS = ("test", "val")
FLOAT_ONNX, CONFIG_NAME = "onnx/float.onnx", "config.yaml"
KINDS = {
    "raw": "CarFusion's raw layout",
    "coco": "CarFusion's COCO JSON",
    "crops": "a directory of crops",
    MIXTURE_KIND: "several, whose names the scenes begin with",
}

Candidate = tuple[FoundRun | None, str]
"""A run and its folder of predictions."""

ROWS: tuple[tuple[str, str, str, str], ...] = (
    (FLOAT, "float", "float", "float"),
    (CALIBRATED, "calibration", "", "calibration"),
    (QAT, "qat", "", "qat"),
    (SIMULATED, "", "simulated", "int_infer"),
    (ONNXRUNTIME, "", "onnxruntime", "onnxruntime"),
)
"""Row, the stage that logs its predictions, its name in align, its name in evaluate; "" where there is none."""


def read_family(found: FamilyRuns, name: str, split: str) -> Family:
    """Everything that the report says about one family.

    Raises:
        TrackingError: none of its runs has predictions.
    """
    rows = [_alone_row(found, split)] if found.is_alone else _rows(found, split)
    if not rows:
        stage = found.anchor.tags.get(STAGE_TAG, "?")
        raise TrackingError(
            f"runs:/{found.anchor.run_id} ({stage}): neither this run nor its family has "
            f"{PREDICTIONS_DIR}/{split}.npz: run `mlflow run . -e float`, or evaluate"
        )
    calibration = found.runs.get("calibration")
    noise = _noise(calibration) if calibration else ()
    sweep = _sweep(calibration) if calibration else None
    data = _data_card(found)
    benchmark = found.runs.get("benchmark")
    runtimes = read_benchmark(benchmark) if benchmark else None
    missing = _missing(found, rows, bool(noise), sweep is not None, data is not None)
    if runtimes is None:
        float_run = found.runs.get("float")
        missing = {**missing, "runtimes": command_that_measures(f"runs:/{float_run.run_id}" if float_run else LATEST)}
    return Family(
        name=name,
        target=found.target,
        rows=rows,
        missing=missing,
        noise=noise,
        sweep=sweep,
        data=data,
        runs=[_card(run) for run in used_runs(found, rows)],
        crops=_crops(found),
        config_yaml=masked_paths(_config_yaml(found)),
        remarks=_remarks(found),
        runtimes=runtimes,
    )


def common_split(families: Sequence[FamilyRuns]) -> str:
    """``test``, or ``val`` where no family has predictions on the test split."""
    has_test = any(_find_predictions(candidate, "test") for family in families for candidate in _all_candidates(family))
    return SPLITS[0] if has_test else SPLITS[1]


def used_runs(found: FamilyRuns, rows: Sequence[ModelRow]) -> list[FoundRun]:
    """All runs of a family in the order of the stages, and the evaluations that ``rows`` are read from."""
    stages = ("data", *CHAIN, "benchmark")
    chain = [found.runs[stage] for stage in stages if stage in found.runs]
    alone = [found.anchor] if found.is_alone else []
    sources = [row.source for row in rows]
    evaluations = [run for run in found.evaluations.values() if f"runs:/{run.run_id}" in sources]
    return [*chain, *alone, *sorted(evaluations, key=lambda run: sources.index(f"runs:/{run.run_id}"))]


def _rows(found: FamilyRuns, split: str) -> list[ModelRow]:
    rows = []
    for stage, logged_by, in_align, evaluated in ROWS:
        candidates = _candidates(found, logged_by, in_align, evaluated)
        if stage == FLOAT:  # the first one on the data of the others
            candidates.sort(key=lambda item: item[0] is None or item[0].tags.get(DATA_TAG) != found.data_digest)
        for candidate in candidates:
            predictions = _find_predictions(candidate, split)
            if predictions is not None and candidate[0] is not None:
                rows.append(_row(found, stage, candidate[0], predictions))
                break
    return rows


def _row(found: FamilyRuns, stage: str, source: FoundRun, predictions: Predictions) -> ModelRow:
    export = found.runs.get("export")
    detail = "of QAT" if stage in (SIMULATED, ONNXRUNTIME) and _is_of_qat(export) else ""
    return ModelRow(
        stage, f"runs:/{source.run_id}", predictions, _size_bytes(found, stage), _latency(found, stage), detail
    )


def _alone_row(found: FamilyRuns, split: str) -> ModelRow:
    predictions = _find_predictions((found.anchor, PREDICTIONS_DIR), split)
    if predictions is None:
        stage = found.anchor.tags.get(STAGE_TAG, "no stage of carkp")
        raise TrackingError(
            f"runs:/{found.anchor.run_id} ({stage}): the run belongs to no float model and has no "
            f"{PREDICTIONS_DIR}/{split}.npz; give a run of {', '.join(CHAIN)}, evaluate or main"
        )
    return ModelRow(found.anchor.name, f"runs:/{found.anchor.run_id}", predictions)


def _candidates(found: FamilyRuns, logged_by: str, in_align: str, evaluated: str) -> list[Candidate]:
    candidates: list[Candidate] = []
    if logged_by:
        candidates.append((found.runs.get(logged_by), PREDICTIONS_DIR))
    if in_align:
        candidates.append((found.runs.get("align"), f"{PREDICTIONS_DIR}/{in_align}"))
    return [*candidates, (found.evaluations.get(evaluated), PREDICTIONS_DIR)]


def _all_candidates(found: FamilyRuns) -> list[Candidate]:
    alone: list[Candidate] = [(found.anchor, PREDICTIONS_DIR)] if found.is_alone else []
    return alone + [item for _, *names in ROWS for item in _candidates(found, names[0], names[1], names[2])]


def _find_predictions(candidate: Candidate, split: str) -> Predictions | None:
    run, folder = candidate
    path = f"{folder}/{split}.npz"
    if run is None or not has_artifact(run.run_id, path):
        return None
    return load_predictions(fetch_artifact(run.run_id, path))


def _is_of_qat(export: FoundRun | None) -> bool:
    return export is not None and export.tags.get("carkp.exported_stage") == "qat"


def _size_bytes(found: FamilyRuns, stage: str) -> int | None:
    """Of the file that would be shipped: fake quantisation has none of its own."""
    float_run, export = found.runs.get("float"), found.runs.get("export")
    if stage == FLOAT and float_run is not None and has_artifact(float_run.run_id, FLOAT_ONNX):
        return fetch_artifact(float_run.run_id, FLOAT_ONNX).stat().st_size
    if stage in (SIMULATED, ONNXRUNTIME) and export is not None and "int8/onnx_bytes" in export.metrics:
        return int(export.metrics["int8/onnx_bytes"])
    return None


def _latency(found: FamilyRuns, stage: str) -> Latency | None:
    compiled = found.runs.get("compile")
    if compiled is None:
        return None
    metrics = compiled.metrics
    if stage == SIMULATED and "perf/predicted_us" in metrics:
        basis = _basis(metrics.get("perf/num_assumed"))
        return Latency(metrics["perf/predicted_us"] / 1e3, f"predicted for {found.target}{basis}")
    cpu = compiled.tags.get("carkp.cpu", "an unknown CPU")
    measured = f"measured on {cpu}, one thread"
    name = {FLOAT: "host/float_ms", ONNXRUNTIME: "host/int8_ms"}.get(stage, "")
    if name in metrics:
        return Latency(metrics[name], measured)
    if stage == ONNXRUNTIME and "host/run_us" in metrics:
        return Latency(metrics["host/run_us"] / 1e3, measured)
    return None


def _basis(num_assumed: float | None) -> str:
    """What a prediction rests on."""
    if num_assumed is None:
        return ", the number of assumed values was not logged"
    return f", {num_assumed:.0f} numbers of its hardware assumed" if num_assumed else ""


def _noise(calibration: FoundRun) -> list[LayerNoise]:
    return [
        LayerNoise(
            row["name"], row["kind"], float(row["activations_db"]), float(row["weights_db"]), float(row["total_db"])
        )
        for row in _table(calibration, "sqnr.csv")
    ]


def _sweep(calibration: FoundRun) -> Sweep | None:
    rows = _table(calibration, "percentile_sweep.csv")
    if not rows:
        return None
    pck = {float(row["percentile"]): float(row["val_pck"]) for row in rows}
    params = calibration.params
    is_percentile = params.get("config.quant.observer") == "percentile"
    chosen = float(params["config.quant.percentile"]) if is_percentile else None
    return Sweep(pck, swept_float_pck(rows), chosen, int(rows[0].get("num_crops", 0)))


def swept_float_pck(swept: Sequence[Mapping[str, str]]) -> float | None:
    """The float model's PCK, out of the first row of a sweep that kept some of it; None where none did."""
    scores = ((float(row["val_pck"]), float(row["val_retention"])) for row in swept)
    return next((pck / retention for pck, retention in scores if retention > 0), None)


def _table(run: FoundRun, path: str) -> list[dict[str, str]]:
    """Rows of a CSV artifact; empty where the run has none."""
    if not has_artifact(run.run_id, path):
        return []
    return list(csv.DictReader(fetch_artifact(run.run_id, path).read_text(encoding="utf-8").splitlines()))


def _data_card(found: FamilyRuns) -> DataCard | None:
    run = found.runs.get("data")
    if run is None or not has_artifact(run.run_id, "data/summary.json"):
        return None
    try:
        summary = DataSummary.from_json(fetch_artifact(run.run_id, "data/summary.json").read_text(encoding="utf-8"))
    except (ValueError, TypeError, KeyError):
        return None  # of another version
    scenes = [
        SceneRow(split, scene, counts.num_frames, counts.num_cars, counts.num_visible, counts.num_occluded,
                 counts.num_missing)
        for split, of_split in summary.scenes.items()
        for scene, counts in of_split.items()
    ]  # fmt: skip
    is_generated = summary.kind != MIXTURE_KIND and run.params.get("config.data.source") in GENERATED_SOURCES
    kind = f"{'generated cars in ' if is_generated else ''}{KINDS.get(summary.kind, summary.kind)}"
    tallies = {"Left out": summary.skipped, "Repaired": summary.corrected}
    remarks = [f"{verb}: {tally.count} × {reason}." for verb, of in tallies.items() for reason, tally in of.items()]
    sheet = "data/contact_sheet.jpg"
    picture = fetch_artifact(run.run_id, sheet).read_bytes() if has_artifact(run.run_id, sheet) else None
    return DataCard(found.data_digest, kind, scenes, [*remarks, *summary.warnings], picture)


def _crops(found: FamilyRuns) -> dict[str, bytes]:
    """``crop_key`` -> JPEG out of all archives of the family on the same data."""
    by_stage = [found.runs.get(stage) for stage in ("align", "calibration", "qat", "float")]
    runs = [*by_stage, *found.evaluations.values(), found.anchor if found.is_alone else None]
    kept: dict[str, bytes] = {}
    for run in runs:
        path = f"{PREDICTIONS_DIR}/{CROPS_NAME}"
        if run is None or run.tags.get(DATA_TAG, found.data_digest) != found.data_digest:
            continue
        if not has_artifact(run.run_id, path):
            continue
        with zipfile.ZipFile(fetch_artifact(run.run_id, path)) as archive:
            for name in archive.namelist():
                stem = name.rpartition("/")[2].removesuffix(".jpg").partition("__")[2]
                kept.setdefault(stem, archive.read(name))
    return kept


def _card(run: FoundRun) -> RunCard:
    tags = run.tags
    commit = tags.get("carkp.git_commit", "unknown")[:10] + ("+" if tags.get("carkp.git_dirty") == "true" else "")
    facts = {
        "started (UTC)": f"{run.started:%Y-%m-%d %H:%M}",
        "commit": commit,
        "data digest": tags.get(DATA_TAG, "")[:12],
        "model digest": tags.get(MODEL_DIGEST_TAG, "")[:12],
        "machine": tags.get("carkp.machine", ""),
        "CPU": tags.get("carkp.cpu", ""),
    }
    versions = json.loads(tags.get("carkp.versions", "{}"))
    config = {key.removeprefix("config."): value for key, value in run.params.items() if key.startswith("config.")}
    stage = tags.get(STAGE_TAG, "?")
    if stage == "evaluate":
        stage = f"evaluate {tags.get('carkp.model', '')}"
    known = {name: value or "–" for name, value in facts.items()}
    return RunCard(stage, run.run_id, run.name, known, versions, command_of(run, _logged_config(run)), config)


def _logged_config(run: FoundRun) -> Mapping[str, Any]:
    """The resolved configuration of a run; empty where it logged none that can be read."""
    if not has_artifact(run.run_id, CONFIG_NAME):
        return {}
    try:
        found = yaml.safe_load(fetch_artifact(run.run_id, CONFIG_NAME).read_text(encoding="utf-8"))
    except yaml.YAMLError:
        return {}
    return found if isinstance(found, dict) else {}


def _config_yaml(found: FamilyRuns) -> str:
    for run in reversed([*(found.runs[stage] for stage in CHAIN if stage in found.runs), *[found.anchor]]):
        if run.tags.get(STAGE_TAG) != "evaluate" and has_artifact(run.run_id, CONFIG_NAME):
            return fetch_artifact(run.run_id, CONFIG_NAME).read_text(encoding="utf-8")
    return ""


def _remarks(found: FamilyRuns) -> list[str]:
    align, check, compiled = (found.runs.get(stage) for stage in ("align", "check", "compile"))
    remarks = [
        _align_remark(align) if align is not None else "",
        _check_remark(check, found.target) if check is not None else "",
        _speed_remark(compiled) if compiled is not None else "",
    ]
    return [remark for remark in remarks if remark]


def _align_remark(align: FoundRun) -> str:
    """The verdict, and the largest differences that it passed or refused."""
    verdict = align.tags.get("carkp.verdict", "")
    if not verdict:
        return ""
    same = "all executions agree within the tolerances" if verdict == ALIGNED else verdict
    return (
        f"Do fake quantisation, simulator and ONNX Runtime compute the same? `align`: {same}. Largest differences: "
        f"{_differences(align)}."
    )


def _differences(align: FoundRun) -> str:
    """Out of the table of comparisons, which runs of older versions have too."""
    try:
        return describe_differences(parse_comparisons(_table(align, "tables/comparisons.csv"))) or "not logged"
    except (KeyError, ValueError):
        return "not logged"


def _check_remark(check: FoundRun, target: str) -> str:
    verdict = check.tags.get("carkp.verdict", "")
    if not verdict:
        return ""
    unknown = " (how many of its limits are assumed was not logged)" if "check/num_limits" not in check.metrics else ""
    return f"Does the hardware of {target} take every layer? `check`: {verdict}{unknown}."


def _speed_remark(compiled: FoundRun) -> str:
    metrics = compiled.metrics
    ratio = metrics.get("host/latency_ratio")
    if ratio is None:
        return ""
    ends = [metrics.get(f"host/latency_ratio_{end}") for end in ("low", "high")]
    interval = f" ({ends[0]:.2f} to {ends[1]:.2f})" if None not in ends else ""
    return (
        f"Measured in turn on one thread of {compiled.tags.get('carkp.cpu', 'an unknown CPU')}, batch 1, in "
        f"ONNX Runtime: float takes {ratio:.2f}{interval} times as long as int8."
    )


def _missing(
    found: FamilyRuns, rows: Sequence[ModelRow], has_noise: bool, has_sweep: bool, has_data: bool
) -> Mapping[str, str]:
    """Part -> what was not run and the command that would."""
    missing: dict[str, str] = {}
    if not has_data:
        missing["data"] = f"No run on this server prepared these data ({found.data_digest[:12]}): {_call('data')}."
    if found.is_alone:
        return {**missing, "sqnr": "A run of its own: no calibration.", "sweep": "A run of its own: no calibration."}
    target = found.target
    has = {row.stage for row in rows}
    if "calibration" not in found.runs:
        advice = f"not run: {_call('calibration', target)}."
        return {**missing, "calibration": f"Calibration {advice}", "sqnr": f"Calibration {advice}",
                "sweep": f"Calibration {advice}"}  # fmt: skip
    if FLOAT not in has:
        missing["float"] = f"No predictions of the float model: {_call('evaluate', '', 'stage=float')}."
    if QAT not in has:
        missing["qat"] = f"Quantisation-aware training not run: {_call('qat', target)}."
    if "export" not in found.runs:
        missing["export"] = f"Export not run: {_call('export', target)}, then {_call('align', target)}."
    elif not {SIMULATED, ONNXRUNTIME} <= has:
        missing["align"] = f"No predictions of the int8 program: {_call('align', target)}."
    if "compile" not in found.runs:
        missing["compile"] = f"Latency not known, compile not run: {_call('compile', target)}."
    if not has_noise:
        missing["sqnr"] = f"The calibration logged no table of layers: {_call('calibration', target)}."
    if not has_sweep:
        missing["sweep"] = f"The calibration swept no percentiles (`quant.sweep`): {_call('calibration', target)}."
    return missing


def _call(stage: str, target: str = "", more: str = "") -> str:
    words = [f"mlflow run . -e {stage}", f"-P target={target}" if target else "", f"-P {more}" if more else ""]
    return f"`{' '.join(word for word in words if word)}`"
