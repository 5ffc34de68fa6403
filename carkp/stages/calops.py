"""Entry point ``calops``: parameters and multiply-accumulates of the network, layer by layer."""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from carkp.config.schema import ExperimentConfig
from carkp.model.opcount import LayerOps, TotalOps, count_ops, total_ops
from carkp.tracking.tracker import Tracker
from carkp.workflow.build import build_model
from carkp.workflow.cli import execute, guarded, parse_stage
from carkp.workflow.tables import write_table


@dataclass(frozen=True)
class CalopsResult:
    """Costs of one image."""

    layers: Sequence[LayerOps]
    total: TotalOps


def run(config: ExperimentConfig, out_dir: Path, tracker: Tracker) -> CalopsResult:
    """Count the operations of the network of ``config``; log totals and the layer table. No weights are downloaded."""
    untrained = config.model_copy(update={"model": config.model.model_copy(update={"pretrained": "none"})})
    layers = count_ops(build_model(untrained).net, config.model.input_size)
    result = CalopsResult(layers, total_ops(layers))
    tracker.log_metrics(
        {
            "model/parameters": result.total.parameters,
            "model/macs": result.total.macs,
            "model/flops": result.total.flops,
        }
    )
    path = out_dir / "calops.csv"
    write_table([{**asdict(layer), "output_shape": "x".join(map(str, layer.output_shape))} for layer in layers], path)
    tracker.log_file(path, "tables")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line of the entry point."""

    def work() -> int:
        arguments = parse_stage("calops", argv)
        config = arguments.config
        execute("calops", config, lambda tracker, out_dir: show(run(config, out_dir, tracker), config))
        return 0

    return guarded(work)


def show(result: CalopsResult, config: ExperimentConfig) -> None:
    """Print the table and the totals."""
    height, width = config.model.input_size
    table = Table(title=f"{config.model.backbone}, one image of {height}x{width}")
    for heading in ("layer", "type", "output", "parameters", "MACs"):
        table.add_column(heading, justify="left" if heading in ("layer", "type") else "right", overflow="fold")
    for layer in result.layers:
        if layer.macs or layer.parameters:
            shape = "x".join(map(str, layer.output_shape))
            table.add_row(layer.name, layer.type, shape, f"{layer.parameters:,}", f"{layer.macs:,}")
    console = Console()
    console.print(table)
    total = result.total
    console.print(
        f"total: {total.parameters / 1e6:.3f} M parameters, {total.macs / 1e9:.4f} GMACs, "
        f"{total.flops / 1e9:.4f} GFLOPs with batch norms and activations"
    )


if __name__ == "__main__":
    sys.exit(main())
