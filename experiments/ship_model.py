"""What does the model that comes with carkp hold, and how good is it?

Command:  mlflow run . -P config=configs/shipped.yaml                    (hours on two cores, minutes on a GPU)
          python experiments/ship_model.py --config configs/shipped.yaml
          python experiments/real_cars.py <folder> carkp-car12/weights.safetensors carkp-car12
          python experiments/ship_model.py --config configs/shipped.yaml --real "Real cars=runs/real_cars/figures.json"
Asks:     of the newest float run of the experiment and its newest export for onnxruntime_cpu: the files of the model,
          carkp/models/car12: int8.onnx; weights.safetensors (float16); card.yaml with every figure: of both files on
          generated validation and test cars, of real cars if figures.json is given, data with digests, seeds and
          licences, commands, commit, configuration; and card.md, the page made from it. The folder is replaced as a
          whole at the end; a second call reuses earlier scores.
Expect:   under 16 MiB together; float16 changes the PCK on generated validation cars by less than 0.1 points, else
          nothing is written; int8 within half a point of float.
"""

import sys
from pathlib import Path

from rich.console import Console

from carkp.data.files import expand_path
from carkp.report.model_card import Card, ModelFigures, SetFigures, show_difference, show_figure
from carkp.shipped import DEFAULT_MODEL, FILES, shipped_folder
from carkp.tracking.tracker import Tracker
from carkp.workflow.card_figures import parse_real
from carkp.workflow.cli import Parameter, execute, guarded, parse
from carkp.workflow.references import warn
from carkp.workflow.shipping import render_card, ship
from carkp.workflow.shipping_parts import References, find_parts

STUDY = "ship_model"
PARAMETERS = [
    Parameter("model", "latest", "float run: latest, or runs:/<id>"),
    Parameter("export", "latest", "its int8 program for onnxruntime_cpu: latest, a file, or runs:/<id>"),
    Parameter("data", "latest", "what it was trained on: latest, a directory, or runs:/<id of a data run>"),
    Parameter(
        "real", "", "figures of real cars: [title=]figures.json of experiments/real_cars.py, separated by commas"
    ),
    Parameter("note", "", "a sentence for the card on how the model was made: the machine of its training"),
    Parameter("output", "", "folder of the model, replaced as a whole; empty: where this carkp has its model"),
]
FLAGS = {
    "force": "score generated cars anew",
    "render": "only make card.md anew of the card.yaml that is there: after a change of its template",
}


def show(card: Card, out_dir: Path) -> None:
    console = Console(width=110)
    for found in (*card.real, *card.generated.values()):
        pck = [f"{name} {show_figure(item.total.pck['0.1'])}" for name, item in _files(found)]
        points = show_difference(found.difference["0.1"])
        console.print(f"{found.title}: PCK@0.1 {', '.join(pck)}, int8 - float {points} points", highlight=False)
    size = sum(path.stat().st_size for path in out_dir.iterdir()) / 2**20
    console.print(f"{card.name}: {size:.1f} MiB in {out_dir}", highlight=False)


def _files(found: SetFigures) -> list[tuple[str, ModelFigures]]:
    return [("float", found.float_), ("int8", found.int8)]


def log(card: Card, out_dir: Path, tracker: Tracker) -> None:
    for name in FILES:
        tracker.log_file(out_dir / name, "shipped")
    totals = {
        f"{split}/{name}/pck": item.total.pck["0.1"].value
        for split, found in card.generated.items()
        for name, item in _files(found)
    }
    tracker.log_metrics({name: value for name, value in totals.items() if value is not None})


def main() -> int:
    prog = f"python experiments/{STUDY}.py"
    arguments = parse(STUDY, str(__doc__), PARAMETERS, None, prog=prog, flags=FLAGS)
    values, config = arguments.values, arguments.config
    out_dir = expand_path(values["output"]) if values["output"] else shipped_folder(DEFAULT_MODEL)
    if "render" in arguments.flags:
        show(render_card(out_dir), out_dir)
        return 0
    real = parse_real(values["real"])
    parts = find_parts(config, References(values["model"], values["export"], values["data"]))

    def work(tracker: Tracker, _: Path) -> None:
        card = ship(parts, real, DEFAULT_MODEL, out_dir, "force" in arguments.flags, values["note"])
        log(card, out_dir, tracker)
        show(card, out_dir)
        if card.making.is_dirty:
            warn("the model was trained from a checkout with uncommitted changes: its commit does not make it again")

    execute(STUDY, config, work)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
