"""Which layers cost accuracy when they are quantised?

Command:  python experiments/int8_loss_by_layer.py     (after `mlflow run . -e float`; minutes)
Asks:     for every layer, how far keypoints move from the float model's keypoints if only this layer is
          quantised, and if all but this one are: mean shift in input pixels on validation cars, and the PCK. A shift
          is a finer measure than a PCK: it sees every keypoint.
Expect:   a few layers stand out; give them another observer (quant.rules). The shift of all layers
          together is below the float model's own mean error.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from tqdm import tqdm

from carkp.config.schema import ExperimentConfig
from carkp.data.dataset import normalise
from carkp.entry_points import TARGET
from carkp.keypoints import metrics
from carkp.measurements.record import Cell, Column, Measurement
from carkp.measurements.record import Table as RecordTable
from carkp.quant.fake_quant import FakeQuantNet
from carkp.quant.graph import IMAGE, MOVING
from carkp.report.figures import layer_figure
from carkp.tracking.tracker import Tracker
from carkp.training.checkpoint import load_checkpoint
from carkp.workflow.build import build_codec, build_eval_dataset, prepare_torch
from carkp.workflow.calibrating import build_calibrator
from carkp.workflow.cli import DATA, MODEL, Parameter, execute, guarded
from carkp.workflow.preparation import PreparedData
from carkp.workflow.quantising import build_target
from carkp.workflow.recording import Findings, parse_study, write_record
from carkp.workflow.references import FLOAT, ModelFile, require_data, resolve_model
from carkp.workflow.tables import write_table

STUDY = "int8_loss_by_layer"
NUM_SHOWN = 12
BATCH = 64
COLUMNS = [
    Column(name="layer", heading="layer"),
    Column(name="only_shift_px", heading="shift, it alone quantised (px)", format=".3f"),
    Column(name="without_shift_px", heading="shift, all but it quantised (px)", format=".3f"),
]

Row = dict[str, str | float]


class Sample:
    """Some validation cars: batches of normalised images, and labels."""

    def __init__(self, config: ExperimentConfig, data: PreparedData, num_cars: int) -> None:
        dataset = build_eval_dataset(config, data.open().val)
        chosen = np.linspace(0, len(dataset) - 1, min(num_cars, len(dataset))).astype(int)
        samples = [dataset[int(index)] for index in chosen]
        images = normalise(torch.stack([sample["image"] for sample in samples]))
        self.batches = torch.split(images.contiguous(memory_format=torch.channels_last), BATCH)
        self.targets = torch.stack([sample["points"] for sample in samples]).double().numpy()
        self.validity = torch.stack([sample["validity"] for sample in samples]).numpy()
        self.codec = build_codec(config.heatmap, config.model.input_size)
        self.alpha = config.eval.alpha

    def points(self, net: torch.nn.Module) -> Tensor:
        with torch.inference_mode():
            return torch.cat([self.codec.decode(net(batch)).points for batch in self.batches])

    def mean_shift_px(self, points: Tensor, reference: Tensor) -> float:
        shift = torch.linalg.norm(points.double() - reference.double(), dim=-1).numpy()
        return float(shift[self.validity > 0].mean())

    def pck(self, points: Tensor) -> float:
        lengths = metrics.labelled_extent(self.targets, self.validity)
        is_scored = (self.validity > 0) & (lengths > 0)[:, None]
        return metrics.pck(metrics.distances(points.double().numpy(), self.targets), lengths, is_scored, self.alpha)


def measure(net: FakeQuantNet, sample: Sample) -> list[Row]:
    """Return a row for all layers, then one for each layer that computes."""
    names = [IMAGE, *(step.name for step, layer in net.graph.items() if not isinstance(layer, MOVING))]
    reference = sample.points(net.graph)

    def shift_and_pck(layers: frozenset[str]) -> tuple[float, float]:
        net.quantised_layers = layers
        points = sample.points(net)
        return sample.mean_shift_px(points, reference), sample.pck(points)

    everything = frozenset(names)
    shift_px, pck = shift_and_pck(everything)
    nothing: Row = {"only_shift_px": 0.0, "only_pck": sample.pck(reference)}
    rows: list[Row] = [{"layer": "all", **nothing, "without_shift_px": shift_px, "without_pck": pck}]
    for name in tqdm(names, "layers"):
        only, without = shift_and_pck(frozenset([name])), shift_and_pck(everything - {name})
        rows.append(
            {
                "layer": name,
                "only_shift_px": only[0],
                "only_pck": only[1],
                "without_shift_px": without[0],
                "without_pck": without[1],
            }
        )
    return rows


def run(
    config: ExperimentConfig,
    data: PreparedData,
    model: ModelFile,
    target: str,
    num_cars: int,
    out_dir: Path,
    tracker: Tracker,
) -> Sequence[Row]:
    prepare_torch(config)
    calibrator = build_calibrator(config, build_target(config, target))
    net = calibrator.prepare(load_checkpoint(model.path))
    calibrator.calibrate(net, data.open().train, calibrator.observers(net))
    rows = measure(net, Sample(config, data, num_cars))
    write_table(rows, out_dir / f"{STUDY}.csv")
    tracker.log_file(out_dir / f"{STUDY}.csv", "tables")
    layers = rows[1:]
    shifts: Mapping[str, list[float]] = {
        "this layer alone quantised": [float(row["only_shift_px"]) for row in layers],
        "all but this layer quantised": [float(row["without_shift_px"]) for row in layers],
    }
    names = [str(row["layer"]) for row in layers]
    figure = layer_figure(names, shifts, "Mean shift of keypoints from the float model's", "shift (input px)")
    tracker.log_figure(figure, f"figures/{STUDY}.png")
    tracker.log_metrics({"all/shift_px": float(rows[0]["without_shift_px"]), "all/pck": float(rows[0]["without_pck"])})
    return rows


def findings(rows: Sequence[Row], target: str) -> Findings:
    """Return the findings for ``--record``: the whole network, and the layers that cost most."""
    everything, *layers = rows
    measurements = [
        Measurement(
            name="all_shift",
            quantity=f"mean shift of keypoints with all layers quantised (`{target}`)",
            value=float(everything["without_shift_px"]),
            unit="px",
            format=".3f",
        ),
        Measurement(
            name="float_pck", quantity="PCK of float on these cars", value=float(everything["only_pck"]), format=".4f"
        ),
        Measurement(
            name="all_pck", quantity="PCK with all quantised", value=float(everything["without_pck"]), format=".4f"
        ),
    ]
    costliest = sorted(layers, key=lambda row: -float(row["only_shift_px"]))[:NUM_SHOWN]
    shown: list[dict[str, Cell]] = [
        {"layer": f"`{row['layer']}`", **{name: row[name] for name in ("only_shift_px", "without_shift_px")}}
        for row in costliest
    ]
    return Findings(measurements, [RecordTable(name="layers", columns=COLUMNS, rows=shown)])


def show(rows: Sequence[Row]) -> None:
    everything, *layers = rows
    table = Table(
        "layer",
        "shift, it alone (px)",
        "shift, all but it (px)",
        "pck, all but it",
        title="The twelve costliest layers",
    )
    table.add_row("(all)", "", f"{everything['without_shift_px']:.3f}", f"{everything['without_pck']:.4f}")
    for row in sorted(layers, key=lambda row: -float(row["only_shift_px"]))[:NUM_SHOWN]:
        shifts = f"{row['only_shift_px']:.3f}", f"{row['without_shift_px']:.3f}"
        table.add_row(str(row["layer"]), *shifts, f"{row['without_pck']:.4f}")
    Console(width=110).print(table)
    Console().print(f"float pck on these cars: {everything['only_pck']:.4f}")


def main() -> int:
    parameters = [DATA, MODEL, TARGET, Parameter("cars", "256", "validation cars to measure on")]
    arguments = parse_study(STUDY, str(__doc__), parameters)
    config, values = arguments.config, arguments.values
    data = require_data(config, values["data"])
    model = resolve_model(values["model"], FLOAT, {"carkp.experiment": config.name, "carkp.data_digest": data.digest})
    num_cars = int(values["cars"])

    def work(tracker: Tracker, out_dir: Path) -> None:
        rows = run(config, data, model, values["target"], num_cars, out_dir, tracker)
        show(rows)
        write_record(arguments, STUDY, findings(rows, values["target"] or config.quant.target))

    execute(STUDY, config, work)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
