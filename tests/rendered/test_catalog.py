import json
from pathlib import Path

import numpy as np
import pytest

from carkp import disk
from carkp.rendered import catalog
from carkp.rendered.catalog import CatalogError, Completion, read_catalog

POINTS = [[0.7 + 0.01 * k, 1.0 + k, 0.3] for k in range(12)]


def entry(**changes: object) -> dict[str, object]:
    return {"points": POINTS, "author": "A. Person", "license": "CC0-1.0", "source": "https://example.org"} | changes


def folder_with(path: Path, **entries: dict[str, object]) -> Path:
    for name in entries:
        (path / f"{name}.glb").write_bytes(name.encode())
    (path / "meshes.json").write_text(json.dumps(entries))
    return path


def complete_with(monkeypatch: pytest.MonkeyPatch, **completions: Completion) -> None:
    monkeypatch.setattr(catalog, "read_completions", lambda: completions)


def test_points_turn_into_the_cars_axes(tmp_path: Path):
    (mesh,) = read_catalog(folder_with(tmp_path, sedan_one=entry()))
    assert mesh.is_known.all()
    # the right front wheel: 1.0 m ahead, 0.7 m to the right
    np.testing.assert_allclose(mesh.points[0], [1.0, -0.7, 0.3])
    np.testing.assert_allclose(catalog.from_car_axes(mesh.points), POINTS)
    assert (mesh.name, mesh.path, mesh.author, mesh.licence) == (
        "sedan_one",
        tmp_path / "sedan_one.glb",
        "A. Person",
        "CC0-1.0",
    )


def test_meshes_come_by_name(tmp_path: Path):
    assert [mesh.name for mesh in read_catalog(folder_with(tmp_path, b=entry(), a=entry()))] == ["a", "b"]


def test_missing_and_null_points_are_not_known(tmp_path: Path):
    points = [*POINTS[:11], None]
    (mesh,) = read_catalog(folder_with(tmp_path, sedan=entry(points=points, missing=[3])))
    assert np.flatnonzero(~mesh.is_known).tolist() == [3, 11]
    assert np.isnan(mesh.points[[3, 11]]).all()
    assert np.isfinite(mesh.points[mesh.is_known]).all()


@pytest.mark.parametrize(
    ("name", "own", "kind"),
    [
        ("sedan_x", None, "car"),
        ("bus_citytransit", None, "bus"),
        ("boxtruck_1", None, "truck"),
        ("Pickup_1", None, "pickup"),
        ("minibus_1", None, "van"),
        ("busy", None, "car"),
        ("sedan_x", "suv", "suv"),
    ],
)
def test_kind_is_the_entrys_or_the_names(tmp_path: Path, name: str, own: str | None, kind: str):
    given = entry() if own is None else entry(kind=own)
    (mesh,) = read_catalog(folder_with(tmp_path, **{name: given}))
    assert mesh.kind == kind


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"points": POINTS[:11]}, "sedan -> points: .*at least 12 items"),
        ({"points": [*POINTS[:11], [1.0, 2.0]]}, "sedan -> points -> 11"),
        ({"points": [*POINTS[:11], [1.0, 2.0, float("nan")]]}, "sedan -> points -> 11 -> 2: .*finite"),
        ({"missing": [12]}, "sedan -> missing -> 0: .*less than 12"),
        ({"kind": "boat"}, "sedan -> kind: .*'truck'"),
        ({"licence": "CC0"}, "sedan -> licence: Extra"),
        ({"author": None}, "sedan -> author"),
    ],
)
def test_an_entry_that_cannot_be_used_is_named(tmp_path: Path, change: dict[str, object], message: str):
    with pytest.raises(CatalogError, match=message):
        read_catalog(folder_with(tmp_path, sedan=entry(**change)))


def test_a_missing_catalogue_says_how_to_make_one(tmp_path: Path):
    with pytest.raises(CatalogError, match=r"meshes\.json: no such file.*carkp\.rendered\.annotate"):
        read_catalog(tmp_path)


def test_a_missing_mesh_is_named(tmp_path: Path):
    folder_with(tmp_path, sedan=entry(), van=entry())
    (tmp_path / "van.glb").unlink()
    with pytest.raises(CatalogError, match=r"names 'van', but .*van\.glb"):
        read_catalog(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{\n"sedan": {,\n}', "line 2: not valid JSON"),
        (b"[]", "the whole: .*dict"),
        (b"{}", "names no mesh"),
        (b'"\xff"', "not UTF-8"),
    ],
)
def test_a_file_that_is_no_catalogue(tmp_path: Path, text: bytes, message: str):
    (tmp_path / "meshes.json").write_bytes(text)
    with pytest.raises(CatalogError, match=message):
        read_catalog(tmp_path)


def test_a_name_does_not_lead_out_of_the_folder(tmp_path: Path):
    (tmp_path / "meshes.json").write_text(json.dumps({"../van": entry()}))
    with pytest.raises(CatalogError, match="not the name of a mesh"):
        read_catalog(tmp_path)


def test_completions_fill_and_correct_the_file_they_belong_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = folder_with(tmp_path, s_x=entry(missing=[2, 3]), s_y=entry(missing=[2, 3]))
    of_x = Completion(
        sha256=disk.file_digest(folder / "s_x.glb"), points={2: (0.9, -1.0, 0.4), 5: (-0.5, 2.0, 0.6)}, kind="suv"
    )
    complete_with(monkeypatch, s_x=of_x, s_y=of_x)  # s_y is another file: its entry stays as it is
    first, second = read_catalog(folder)
    assert np.flatnonzero(~first.is_known).tolist() == [3]
    np.testing.assert_allclose(first.points[[2, 5]], [[-1.0, -0.9, 0.4], [2.0, 0.5, 0.6]])
    np.testing.assert_allclose(first.points[0], [1.0, -0.7, 0.3])
    assert first.kind == "suv"
    assert np.flatnonzero(~second.is_known).tolist() == [2, 3]
    np.testing.assert_allclose(second.points[5], [6.0, -0.75, 0.3])
    assert second.kind == "car"


def test_the_folders_own_kind_wins_over_a_completions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = folder_with(tmp_path, s_x=entry(kind="van"))
    complete_with(monkeypatch, s_x=Completion(sha256=disk.file_digest(folder / "s_x.glb"), points={}, kind="suv"))
    assert read_catalog(folder)[0].kind == "van"


def test_the_packages_completions_keep_their_sides():
    completions = catalog.read_completions()
    assert len(completions["bus_citytransit"].points) == 12
    for name, completion in completions.items():
        points = {k: point for k, point in completion.points.items() if point is not None}
        assert len(completion.sha256) == 64, name
        for k in points:
            if k % 2 == 0 and k + 1 in points:
                assert points[k][0] > points[k + 1][0], f"{name}: right and left of {k}"
            if k % 4 < 2 and k + 2 in points:
                assert points[k][1] > points[k + 2][1], f"{name}: front and rear of {k}"
