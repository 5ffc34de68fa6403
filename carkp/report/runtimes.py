"""Comparison of runtimes: the table and the chart of ``benchmark``, for the report and the page of ``compile``."""

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from carkp.keypoints.paired import Interval
from carkp.report.comparison_figures import MARKERS
from carkp.report.parts import Chart, PageTable, Paragraph, Part
from carkp.report.runtime_data import FASTEST, SETTINGS, RuntimeContent, RuntimeLatency, RuntimeRow
from carkp.report.style import LABEL_SIZE, new_figure, series_style, style_axes
from carkp.report.tables import DASH, MEBIBYTE, percent_interval, signed


def runtime_parts(content: RuntimeContent, chart_name: str = "runtimes") -> list[Part]:
    """Return the section of a page, without its heading; ``chart_name`` must be unique on the page."""
    baseline = content.rows[0].label
    return [
        Paragraph(
            f"The same network in other programs, on {content.machine}. In a round every program runs once, in "
            f"random order; speed is the median over rounds of the time of {baseline} divided by its own time, with "
            "the 95 % interval of a bootstrap over rounds. Use the ratios: milliseconds depend on this machine."
        ),
        runtime_table(content),
        *(Paragraph(f"Left out: {reason}", "note") for reason in content.left_out),
        Chart(
            runtime_figure(content),
            chart_name,
            f"Right is faster, down is better. One image, one thread: the time of {baseline} divided by that of the "
            f"runtime. The loss is at alpha {content.loss_alpha:g}, where even small shifts matter. Bars are 95 % "
            "intervals.",
            "PCK loss of every runtime over its speed",
        ),
    ]


def runtime_table(content: RuntimeContent) -> PageTable:
    settings = [name for name in SETTINGS if all(name in row.latencies for row in content.rows)]
    headings = ["runtime", "size (MiB)", f"test pck @ {content.alpha:g}", "less float (points)",
                f"expected loss @ {content.loss_alpha:g} (points)", "shift (px)"]  # fmt: skip
    headings += [_heading(*SETTINGS[name]) for name in settings]
    cells = [
        [
            row.label,
            f"{row.size_bytes / MEBIBYTE:.2f}",
            percent_interval(row.pck),
            *([DASH] * 3 if row is content.rows[0] else _against_float(row)),
            *(_latency(row.latencies[name]) for name in settings),
        ]
        for row in content.rows
    ]
    caption = (
        "The 95 % interval is below each number. Latency: milliseconds of a run; below it, the speed relative to "
        f"{content.rows[0].label}. Less float: the difference of pck, by a paired bootstrap over the same cars. "
        "Expected loss: the same without the chance of single keypoints at a threshold. Shift: mean distance of "
        "labelled keypoints from those of float, in pixels of the network's input."
    )
    return PageTable(headings, cells, frozenset(range(1, len(headings))), caption)


def runtime_figure(content: RuntimeContent) -> Figure:
    """Draw expected loss over speed, at batch 1 with one thread."""
    figure = new_figure(7.2, 4.2)
    axes = figure.add_subplot()
    for place, row in enumerate(content.rows):
        colour, marker = series_style(place)[0], MARKERS[place % len(MARKERS)]
        speed, loss = row.latencies[FASTEST].speedup, row.loss
        axes.plot([speed.low, speed.high], [loss.value] * 2, color=colour, linewidth=1.2, alpha=0.6)
        axes.plot([speed.value] * 2, [loss.low, loss.high], color=colour, linewidth=1.2, alpha=0.6)
        axes.plot(speed.value, loss.value, color=colour, marker=marker, markersize=7, linestyle="", label=row.label)
    style_axes(
        axes,
        "Accuracy over speed",
        f"times as fast as {content.rows[0].label}",
        f"expected loss of pck @ {content.loss_alpha:g}",
    )
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    figure.legend(loc="outside right upper", fontsize=LABEL_SIZE, frameon=False)
    return figure


def _against_float(row: RuntimeRow) -> list[str]:
    return [_points(row.difference), _points(row.loss), f"{row.shift_px:.3f}"]


def _heading(batch: int, num_threads: int) -> str:
    images = "1 image" if batch == 1 else f"{batch} images"
    return f"{images}, {num_threads} thread{'s' if num_threads > 1 else ''} (ms)"


def _latency(latency: RuntimeLatency) -> str:
    speed = latency.speedup
    return f"{latency.median_ms:.2f}\n{speed.value:.2f}x ({speed.low:.2f} to {speed.high:.2f})"


def _points(difference: Interval) -> str:
    ends = " to ".join(signed(100 * end) for end in (difference.low, difference.high))
    return f"{signed(100 * difference.value)}\n{ends}"
