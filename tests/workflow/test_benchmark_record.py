"""What `benchmark --record` keeps: a line a runtime, and a table a setting."""

from carkp.keypoints.paired import Interval
from carkp.measurements.tables import record_table
from carkp.report.runtime_data import RuntimeContent, RuntimeLatency, RuntimeRow
from carkp.workflow.benchmark import findings

NAN = float("nan")


def row(name: str, numbers: str, made_by: str, loss: Interval, speedup: Interval) -> RuntimeRow:
    latencies = {setting: RuntimeLatency(9.791, speedup) for setting in ("batch1_threads1", "batch16_threads1")}
    pck = Interval(0.9715, 0.96, 0.98)
    return RuntimeRow(name, "LiteRT", numbers, made_by, 2**22, pck, pck, loss, 0.2228, latencies)


def test_the_baseline_has_no_loss_and_losses_are_in_points() -> None:
    base = row("float", "float32", "", Interval(0.0, 0.0, 0.0), Interval(1.0, 1.0, 1.0))
    ours = row("int8", "int8", "carkp", Interval(0.0012, 0.0008, NAN), Interval(1.26, 1.23, 1.28))
    found = findings(RuntimeContent([base, ours], ["OpenVINO is not installed"], "a machine", 0.1, 0.02))
    assert found.note == "Left out: OpenVINO is not installed."
    assert [table.name for table in found.tables] == ["runtimes", "batch1_threads1", "batch16_threads1"]
    assert record_table(found.tables[0]).split("\n") == [
        "| runtime | size (MiB) | PCK at 0.1 | loss at 0.02 (points) | shift (px) | 1 image, 1 thread (ms) | "
        "times as fast as LiteRT float32 |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| LiteRT float32 | 4.00 | 97.15 % |  |  | 9.79 | 1.00 |",
        "| LiteRT int8, carkp | 4.00 | 97.15 % | 0.12 | 0.223 | 9.79 | 1.26 (1.23 to 1.28) |",
    ]
    assert "16 images, 1 thread (ms)" in record_table(found.tables[2])
