"""The accuracy report as parts of a page: every section with a sentence on how to read it."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from carkp.keypoints.breakdown import (
    mirrored_cars,
    score_groups,
    score_keypoints,
    side_confusion,
    size_masks,
    source_masks,
    truncation_masks,
    visibility_masks,
)
from carkp.keypoints.paired import difference_curve, is_comparable
from carkp.keypoints.predictions import Predictions
from carkp.keypoints.schema import OCCLUDED
from carkp.report import figures, tables
from carkp.report.accuracy_data import Family, ReportContent, crop_key
from carkp.report.assess import Assessed, assess, at_other_thresholds, between_families, shown, verdict
from carkp.report.cars import car_picture, median_cars, shrunk_jpeg, worst_cars
from carkp.report.comparison_figures import Section, breakdown_figure, difference_figure, dots_figure
from carkp.report.parts import Chart, Gallery, Heading, PageTable, Paragraph, Part, Picture
from carkp.report.provenance import provenance_section
from carkp.report.runtimes import runtime_parts
from carkp.report.style import readable
from carkp.report.wording import (
    axis_note,
    cluster_rule,
    headline_reading,
    interval_warnings,
    over,
    sweep_reading,
    training_data_note,
)

ALPHAS = np.linspace(0.01, 0.3, 30)
MAX_CURVES = 7
NUM_CARS, MIN_CARS = 16, 4
"""Number of worst cars, and also of median cars, divided among the families; and the minimum per family."""

SHEET_WIDTH = 960
CUT = 1
"""Value of ``truncated`` for a car that the frame cuts."""

DETAILED = ("sqnr", "sweep", "data", "runtimes")
"""Parts that have a section of their own, which says if they are missing."""


def accuracy_parts(content: ReportContent) -> list[Part]:
    """Return the parts of the whole report."""
    rows = assess(content)
    detailed = shown(content, rows)
    return [
        *_summary(content, rows),
        *_against_float(content, rows),
        *_curves(content, rows),
        *_keypoints(content, detailed),
        *_breakdown(content, detailed),
        *_sides(content, detailed),
        *_noise(content),
        *_sweeps(content),
        *_runtimes(content),
        *_cars(content),
        *_data(content),
        *provenance_section(content),
    ]


def headline(content: ReportContent) -> PageTable:
    """Return only the headline table."""
    return tables.headline_table(assess(content), content.alpha)


def _summary(content: ReportContent, rows: Sequence[Assessed]) -> list[Part]:
    split = {"test": "test split", "val": "validation split"}.get(content.split, content.split)
    parts: list[Part] = [
        Paragraph(
            f"Accuracy of the models below on the {split}. pck is the share of labelled keypoints that lie within "
            f"{content.alpha:g} of the car's extent of their label, pck_hat the same with the reference length of HAT "
            "(comparable only with its published figures), mean_dist the mean distance in pixels of "
            "the network's input. Higher is better for pck, pck_hat and retention, lower for mean_dist, size and "
            "latency."
        ),
        tables.headline_table(rows, content.alpha),
        *(Paragraph(warning, "note") for warning in interval_warnings(rows)),
        *([Paragraph(rule)] if (rule := cluster_rule(rows)) else []),
    ]
    for family in content.families:
        judged = next(item for item in rows if item.family is family and item.row is family.judged)
        if not judged.is_float:
            parts.append(Paragraph(verdict(judged), "verdict"))
            if others := at_other_thresholds(judged):
                parts.append(Paragraph(others))
        prefix = f"{family.name}: " if len(content.families) > 1 else ""
        parts += [Paragraph(prefix + sentence) for sentence in family.remarks]
        parts += [
            Paragraph(prefix + sentence, "note") for name, sentence in family.missing.items() if name not in DETAILED
        ]
    parts += _comparability(content)
    intervals = {"pck": [item.scores.pck for item in rows]}
    figure = dots_figure([item.label for item in rows], intervals, f"PCK at alpha {content.alpha:g}", "PCK")
    return [*parts, Chart(figure, "headline", headline_reading(rows), "PCK of every model with its interval")]


def _comparability(content: ReportContent) -> list[Part]:
    """Return notes on rows that cannot be paired."""
    digests = {family.name: family.data.digest for family in content.families if family.data}
    parts: list[Part] = []
    if len(set(digests.values())) > 1:
        listed = ", ".join(f"{name}: {digest[:12]}" for name, digest in digests.items())
        parts.append(Paragraph(f"The models were scored on different data ({listed}): do not compare them.", "note"))
    for family in content.families:
        reference = family.reference
        others = [row for row in family.rows if reference is not None and row is not reference]
        odd = [row for row in others if reference and not is_comparable(reference.predictions, row.predictions)]
        if odd:
            named = ", ".join(content.label(family, row) for row in odd)
            parts.append(
                Paragraph(
                    f"These rows have other samples or labels than the float row, so there is no paired test: {named}.",
                    "note",
                )
            )
    return parts


def _against_float(content: ReportContent, rows: Sequence[Assessed]) -> list[Part]:
    tested = [item for item in rows if item.test is not None]
    heading = Heading("Float against int8")
    if not tested:
        return [heading, Paragraph("No row can be paired with a float row.", "note")]
    curves = {
        item.label: difference_curve(item.family.reference.predictions, item.row.predictions, ALPHAS)
        for item in tested
        if item.family.reference is not None and item.row is item.family.judged
    }
    parts: list[Part] = [
        heading,
        Paragraph(
            "Both models see the same cars, so the difficulty of a car cancels out. An interval that contains 0 "
            "shows no difference; its ends say how large a difference is still possible."
        ),
        tables.paired_table(tested),
    ]
    if curves:
        title = "Change of PCK against float, by threshold"
        figure = difference_figure(ALPHAS, curves, title, content.alpha, "row − float (points)")
        caption = (
            f"Below 0 the row is worse than float. Bands: pointwise 95 % intervals of a paired bootstrap over "
            f"{over(tested)}. At small thresholds even small shifts matter; the dotted line is the threshold of the "
            "headline."
        )
        parts.append(Chart(figure, "difference", caption, "Difference of PCK to float over the threshold"))
    return [*parts, *_between(content, rows)]


def _between(content: ReportContent, rows: Sequence[Assessed]) -> list[Part]:
    """Return the comparison of the other families with the first one; empty if there is only one family."""
    if len(content.families) == 1:
        return []
    tested = between_families(content, rows)
    reading = (
        "Is another model better than the first one? Positive points: the model after the arrow finds more keypoints."
    )
    heading: list[Part] = [Heading("Models compared with each other", 3), Paragraph(reading)]
    if not tested:
        return [*heading, Paragraph("The samples differ: no test is possible.", "note")]
    table, caption = tables.paired_table(tested), tables.paired_caption(tested, "the first", "the second")
    return [*heading, replace(table, headings=["models", *table.headings[1:]], caption=caption)]


def _curves(content: ReportContent, rows: Sequence[Assessed]) -> list[Part]:
    drawn = rows if len(rows) <= MAX_CURVES else shown(content, rows)
    curves = {item.label: (ALPHAS, item.row.predictions.pck_curve(ALPHAS)) for item in drawn}
    figure = figures.pck_curve_figure(curves, marked_alpha=content.alpha, decimals=2)
    caption = f"{_counts(drawn)}. The legend quotes the values at the dotted line; equal curves cover each other."
    return [
        Heading("PCK over alpha"),
        Paragraph(
            "A steep curve at the dotted line means that the score depends strongly on the choice of the threshold."
        ),
        Chart(figure, "pck_curve", caption, "PCK over the threshold alpha for every model"),
    ]


def _keypoints(content: ReportContent, rows: Sequence[Assessed]) -> list[Part]:
    groups = {item.label: score_keypoints(item.row.predictions, content.alpha) for item in rows}
    names = readable([group.name for group in next(iter(groups.values()))])
    intervals = {label: [group.pck for group in found] for label, found in groups.items()}
    figure = dots_figure(names, intervals, f"PCK at alpha {content.alpha:g} by keypoint", "PCK")
    caption = f"{_counts(rows)}. Bars: 95 % intervals over {over(rows)}.{axis_note(figure)}"
    pairs = ", and whether int8 loses on some more than on others: look for dots that are further apart than the rest"
    return [
        Heading("Keypoints"),
        Paragraph(
            f"Which keypoints are found worst{pairs if len(rows) > 1 else ''}. Right and left are the car's own."
        ),
        Chart(figure, "keypoints", caption, "PCK of each of the twelve keypoints"),
        tables.keypoint_table(groups),
    ]


def _breakdown(content: ReportContent, rows: Sequence[Assessed]) -> list[Part]:
    kinds = {"visibility": visibility_masks, "crop size": size_masks, "truncation": truncation_masks}
    if source_masks(rows[0].row.predictions):
        kinds["source"] = source_masks
    *others, last = kinds
    by = f"{', '.join(others)} and {last}"
    sections, found_tables = [], []
    for title, masks_of in kinds.items():
        found = {
            item.label: score_groups(item.row.predictions, masks_of(item.row.predictions), content.alpha)
            for item in rows
        }
        first = next(iter(found.values()))
        kept = [index for index, group in enumerate(first) if group.num_points]
        named = {label: [groups[index] for index in kept] for label, groups in found.items()}
        sections.append(
            Section(
                title,
                [f"{first[index].name} ({first[index].num_points:,})" for index in kept],
                {label: [group.pck for group in groups] for label, groups in named.items()},
                {label: [group.mean_dist for group in groups] for label, groups in named.items()},
            )
        )
        found_tables.append(tables.group_table(title, found, rows[0].scores.resampled.unit))
    figure = breakdown_figure(sections, f"Error by {by}")
    caption = (
        f"{_counts(rows)}; the number of keypoints of each group in brackets. Bars: 95 % intervals over {over(rows)}. "
        "Crop size is the larger side of the car's crop in the frame; distances are in pixels of the network's input."
    )
    return [
        Heading("Visibility, size, truncation" + (", source" if "source" in kinds else "")),
        Paragraph(f"Where the error comes from.{_breakdown_reading(rows[0].row.predictions)}"),
        Chart(figure, "breakdown", caption, f"PCK and mean distance by {by}"),
        *found_tables,
    ]


def _breakdown_reading(predictions: Predictions) -> str:
    """Return sentences on the groups that occur in the data."""
    is_labelled = predictions.validity > 0
    has_occluded = bool((predictions.validity == OCCLUDED).any())
    is_cut = (is_labelled & (predictions.truncated == CUT)[:, None]).any()
    occluded = (
        " Occluded keypoints are labelled and count in every score of this report."
        if has_occluded
        else " No keypoint is labelled as occluded."
    )
    return occluded + (" Cars cut by the frame can have keypoints outside the picture." if is_cut else "")


def _sides(content: ReportContent, rows: Sequence[Assessed]) -> list[Part]:
    found = {item.label: side_confusion(item.row.predictions, content.alpha) for item in rows}
    sentences = []
    for item in rows:
        mirrored = mirrored_cars(item.row.predictions, content.alpha)
        share = f" ({tables.percent(mirrored.share)})" if mirrored.num_cars else ", so nothing can be concluded"
        sentences.append(f"{item.label}: {mirrored.num_mirrored} of {mirrored.num_cars} cars{share}")
    return [
        Heading("Left and right"),
        Paragraph(
            "How often the car's other side is found instead. Only keypoints whose partner is labelled too are "
            f"counted: within {content.alpha:g} of the car's extent of their own label, of the partner's (and nearer "
            "to that), "
            "or of neither."
        ),
        tables.confusion_table(found),
        Paragraph(
            "Cars predicted mirrored as a whole (keypoints on average near the partners' labels and not near their "
            f"own; of the cars with at least two labelled pairs). {'; '.join(sentences)}."
        ),
    ]


def _noise(content: ReportContent) -> list[Part]:
    parts: list[Part] = [
        Heading("Quantisation noise by layer"),
        Paragraph(
            "Signal-to-quantisation-noise ratio of fake quantisation, in decibels: 6 dB more is half the noise. A "
            "drop of the first curve shows where precision is lost; the other two show whether activations or "
            "weights cause it."
        ),
    ]
    for family in content.families:
        if not family.noise:
            parts += _missing(family, "sqnr")
            continue
        drawn = family.noise[1:]  # the image is exact
        columns = {
            "whole network so far": [layer.total_db for layer in drawn],
            "its own activations alone": [layer.activations_db for layer in drawn],
            "its own weights alone": [layer.weights_db for layer in drawn],
        }
        title = f"SQNR by layer ({_named(content, family)})"
        figure = figures.layer_figure([layer.name for layer in drawn], columns, title, "SQNR (dB)")
        caption = f"{len(drawn)} layers in order of execution, on training crops."
        name = f"sqnr_{content.families.index(family)}"
        parts += [Chart(figure, name, caption, "SQNR over the layers"), tables.noise_table(family.noise)]
    return parts


def _runtimes(content: ReportContent) -> list[Part]:
    parts: list[Part] = [
        Heading("Runtimes side by side"),
        Paragraph(
            "The same network in other programs: its accuracy and its time in each of them. Read the speed of an "
            "int8 row together with its loss."
        ),
    ]
    for place, family in enumerate(content.families):
        if len(content.families) > 1:
            parts.append(Heading(family.name, 3))
        if family.runtimes is None:
            parts += _missing(family, "runtimes")
        else:
            parts += runtime_parts(family.runtimes, f"runtimes-{place}" if place else "runtimes")
    return parts


def _sweeps(content: ReportContent) -> list[Part]:
    parts: list[Part] = [
        Heading("Percentile sweep"),
        Paragraph(
            "Validation PCK of the calibrated model with its thresholds at other percentiles of |x|. Lower "
            "percentiles clip more values, higher ones make the steps coarser."
        ),
    ]
    for family in content.families:
        if family.sweep is None:
            parts += _missing(family, "sweep")
            continue
        figure = figures.sweep_figure(family.sweep.pck, family.sweep.float_pck)
        line = (
            "the dashed line is the float model" if family.sweep.float_pck is not None else "float's PCK is not known"
        )
        crops = f" on {family.sweep.num_crops} crops" if family.sweep.num_crops else ""
        percentiles = f"{len(family.sweep.pck)} percentiles{crops}"
        caption = f"{_named(content, family)}: {percentiles}; {line}. {sweep_reading(family.sweep)}"
        name = f"sweep_{content.families.index(family)}"
        parts += [Chart(figure, name, caption, "Validation PCK by percentile"), tables.sweep_table(family.sweep)]
    return parts


def _cars(content: ReportContent) -> list[Part]:
    num = max(MIN_CARS, NUM_CARS // len(content.families))
    parts: list[Part] = []
    for family in content.families:
        judged, reference = family.judged, family.reference
        if reference is judged or (reference and not is_comparable(reference.predictions, judged.predictions)):
            reference = None
        pair = f"float beside {judged.stage}" if reference else judged.stage
        chosen = {"Worst": worst_cars(judged.predictions, num), "Median": median_cars(judged.predictions, num)}
        for kind, indices in chosen.items():
            pictures = _pictures(content, family, kind, indices)
            words = f"{kind} cars" if len(content.families) == 1 else f"{kind} cars, {_named(content, family)}"
            reading = (
                f"The {len(indices)} {kind.lower()} cars by mean distance of {judged.stage}: {pair}. White dots are "
                "labels, orange the car's right, blue its left, pink lines the errors; hollow dots are occluded."
            )
            parts += [Heading(words), Paragraph(reading)]
            if len(pictures) < len(indices):
                parts.append(Paragraph(f"{len(indices) - len(pictures)} left out: no run stored their crops.", "note"))
            parts += [Gallery(pictures)] if pictures else []
    return parts


def _pictures(content: ReportContent, family: Family, kind: str, indices: Sequence[int]) -> list[Picture]:
    judged, reference = family.judged, family.reference
    is_paired = reference is not None and reference is not judged
    if reference is None or not is_paired or not is_comparable(reference.predictions, judged.predictions):
        reference = None
    place = content.families.index(family)
    found = []
    for number, index in enumerate(indices):
        crop = family.crops.get(crop_key(str(judged.predictions.sample_ids[index])))
        if crop is not None:
            name = f"{kind.lower()}_{place}_{number:02d}"
            first = None if reference is None else reference.predictions
            found.append(car_picture(crop, first, judged.predictions, index, content.alpha, name, judged.stage))
    return found


def _data(content: ReportContent) -> list[Part]:
    parts: list[Part] = [
        Heading("Data"),
        Paragraph("The data that the models were scored on. Visible and occluded keypoints count."),
    ]
    seen: set[str] = set()
    for family in content.families:
        parts += [Paragraph(note, "note")] if (note := training_data_note(family)) else []
        if family.data is None:
            parts += _missing(family, "data")
            continue
        if family.data.digest in seen:
            continue
        seen.add(family.data.digest)
        card = family.data
        parts += [Paragraph(f"Source: {card.kind}. Digest of the stores: `{card.digest}`."), tables.splits_table(card)]
        parts += [Paragraph(remark) for remark in card.remarks]
        parts.append(tables.scenes_table(card))
        if card.sheet is not None:
            caption = "Samples of the data with their labels: orange the car's right, blue its left, hollow: occluded."
            name = f"samples_{len(seen)}"
            parts.append(Picture(shrunk_jpeg(card.sheet, SHEET_WIDTH), name, caption, "A sheet of samples"))
    return parts


def _missing(family: Family, name: str) -> list[Part]:
    return [Paragraph(family.missing.get(name, f"{family.name}: not run."), "note")]


def _named(content: ReportContent, family: Family) -> str:
    words = [family.name if len(content.families) > 1 else "", family.target]
    return " ".join(dict.fromkeys(word for word in words if word)) or family.name


def _counts(rows: Sequence[Assessed]) -> str:
    sizes = dict.fromkeys((item.scores.num_cars, item.scores.num_points) for item in rows)
    return "; ".join(f"{cars:,} cars and {labelled:,} labelled keypoints" for cars, labelled in sizes)
