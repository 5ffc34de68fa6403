"""Boxes as detectors and labelling tools write them: pixel conventions, classes, names, and what is malformed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from carkp.data.box_formats.vehicles import is_vehicle
from carkp.data.boxes import BoxBook, read_boxes, recognise_line
from carkp.data.issues import DataError

WIDTH, HEIGHT = 200, 100
IMAGE = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
WHOLE = [0, 0, WIDTH, HEIGHT]
"""Every format's way to say this box ties it to the convention that boxes count pixels."""

KITTI_TAIL = "1.5 1.6 3.7 2.7 1.7 20.1 -1.5"


def write(folder: Path, files: Mapping[str, Any]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def voc(
    *objects: tuple[str, str, str, str, str], size: tuple[int, int] | None = (HEIGHT, WIDTH), name: str = ""
) -> str:
    corners = ("xmin", "ymin", "xmax", "ymax")
    boxes = "".join(
        f"<object><name>{kind}</name><part><name>wheel</name><bndbox><xmin>7</xmin></bndbox></part><bndbox>"
        + "".join(f"<{corner}>{value}</{corner}>" for corner, value in zip(corners, values, strict=True))
        + "</bndbox></object>"
        for kind, *values in objects
    )
    stated = f"<size><width>{size[1]}</width><height>{size[0]}</height><depth>3</depth></size>" if size else ""
    return f"<annotation><filename>{name}</filename>{stated}{boxes}</annotation>"


def detection(image_id: Any, box: Any, category: Any = 3, **more: Any) -> dict[str, Any]:
    return {"image_id": image_id, "category_id": category, "bbox": box, "score": 0.5, **more}


def find(path: Path, name: str = "a.jpg", pictures: tuple[str, ...] = ()) -> Any:
    book = read_boxes(path)
    return (book.for_pictures(pictures) if pictures else book).find(name, IMAGE)


WHOLE_PICTURES: dict[str, dict[str, Any]] = {
    "yolo": {"a.txt": "2 0.5 0.5 1 1\n"},
    "kitti": {"a.txt": f"Car 0 0 0 0 0 {WIDTH - 1} {HEIGHT - 1} {KITTI_TAIL}\n"},
    "voc": {"a.xml": voc(("car", "1", "1", str(WIDTH), str(HEIGHT)))},
    "bb": {"a.txt": f"[0 0 {WIDTH} {HEIGHT}],car\n"},
    "coco": {"results.json": [detection("a", WHOLE)]},
    "annotations": {
        "coco.json": {
            "images": [{"id": 0, "file_name": "a.jpg"}],
            "annotations": [{"image_id": 0, "category_id": 3, "bbox": WHOLE}],
        }
    },
    "mot": {"clip.txt": f"1,-1,1,1,{WIDTH},{HEIGHT},0.9,-1,-1,-1\n"},
}


@pytest.mark.parametrize("form", WHOLE_PICTURES)
def test_the_whole_picture_is_the_same_box_in_every_format(tmp_path: Path, form: str) -> None:
    folder = write(tmp_path, WHOLE_PICTURES[form])
    (file,) = folder.iterdir()
    name = "clip.mp4#000000" if form == "mot" else "a.jpg"
    assert find(file, name) == [WHOLE]
    if file.suffix != ".json":
        assert find(folder, name) == [WHOLE]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"a.txt": "2 0.25 0.5 0.1 0.2 0.87 12"}, [40, 40, 20, 20]),
        ({"a.txt": f"Truck 0.1 1 -1.5 10.5 20.25 30.5 40.25 {KITTI_TAIL} 0.93"}, [10.5, 20.25, 21, 21]),
        ({"a.xml": voc(("bus", "11", "21", "30", "40"))}, [10, 20, 20, 20]),
        ({"a.xml": voc(("car", "10.5", "20.5", "30.5", "40.5"), size=None)}, [9.5, 19.5, 21, 21]),
    ],
)
def test_pixels_of_a_box_inside(tmp_path: Path, files: dict[str, str], expected: list[float]) -> None:
    assert find(write(tmp_path, files)) == [pytest.approx(expected)]


def test_classes_of_yolo_are_cocos_unless_they_are_named(tmp_path: Path) -> None:
    lines = "\n".join(f"{number} 0.5 0.5 0.{number + 1} 0.5" for number in range(8))
    folder = write(tmp_path / "run", {"labels/a.txt": lines, "labels/b.txt": ""})
    assert [box[2] for box in find(folder / "labels")] == pytest.approx([60, 120, 160])
    book = read_boxes(folder / "labels")
    assert book.find("b.jpg", IMAGE) == []
    assert book.notes[0].startswith("read as YOLO labels, boxes of vehicles: 3; left out: 1 x person (class 0)")
    assert book.notes[-1] == "the classes come from COCO's numbers"
    for name, text in (
        ("data.yaml", "path: ../../elsewhere\ntrain: /etc\nnames: [a, van, c, d, e, f, g, h]\n"),
        ("data.yaml", "names: {0: a, 1: Pickup-Truck, 2: c, 3: d, 4: e, 5: f, 6: g, 7: h}\n"),
        ("classes.txt", "a\nCars\nc\nd\ne\nf\ng\nh\n"),
        ("labels/classes.txt", "a\nmotor vehicle\nnon-motor vehicle\nlicence plate of a car, front\ne\nf\ng\nh\n"),
    ):
        (folder / name).write_text(text)
        assert [box[2] for box in find(folder / "labels")] == pytest.approx([40]), name
        assert find(folder / "labels" / "a.txt") == find(folder / "labels")


@pytest.mark.parametrize(
    ("name", "is_known"),
    [
        *(
            (name, True)
            for name in ("Car", "cars", "Van", "Truck", "bus", "buses vans", "vehicle.car", "pick-up_truck", "SUV")
        ),
        *(
            (name, False)
            for name in ("DontCare", "Tram", "Pedestrian", "carpet", "non-motorized vehicle", "car wheel", "", "7")
        ),
    ],
)
def test_which_names_are_vehicles(name: str, is_known: bool) -> None:
    assert is_vehicle(name) is is_known


def test_kitti_leaves_out_what_is_no_vehicle(tmp_path: Path) -> None:
    dont_care = "DontCare -1 -1 -10 5 5 50 50 -1 -1 -1 -1000 -1000 -1000 -10"
    car = f"Car 0 0 0 10 10 59 39 {KITTI_TAIL}"
    folder = write(tmp_path / "label_2", {"000000.txt": f"{dont_care}\n{car}\n", "000001.txt": f"{dont_care}\n"})
    assert find(folder, "/x/000000.png") == [[10, 10, 50, 30]]
    assert find(folder, "000001.png") == []
    with pytest.raises(DataError, match="label_2 has no boxes for it"):
        find(folder, "000002.png")
    assert read_boxes(folder).notes == ("read as KITTI label_2, boxes of vehicles: 1; left out: 2 x DontCare",)
    assert "is it " in error_of(tmp_path)


def test_confidences_are_told_and_not_used(tmp_path: Path) -> None:
    write(tmp_path, {"a.txt": "2 0.5 0.5 0.5 0.5 0.01\n2 0.5 0.5 0.4 0.4 0.97\n7 0.5 0.5 0.1 0.1 0.5 44\n"})
    book = read_boxes(tmp_path)
    assert len(book.find("a.jpg", IMAGE)) == 3
    assert book.notes[1].startswith("their confidences, 0.01 to 0.97, are not used: every box is kept")


def test_voc_of_another_size_and_names(tmp_path: Path) -> None:
    car = ("car", "1", "1", "9", "9")
    write(
        tmp_path,
        {
            "a.xml": voc(car, size=(50, 100)),
            "b.xml": voc(car, size=(WIDTH, HEIGHT), name="b.jpg"),
            "c.xml": voc(car, ("person", "x", "", "", ""), name="C:\\x\\other.jpg"),
            "d.xml": voc(("car", "0", "1", "9", "9")),
            "e.xml": voc(),
        },
    )
    with pytest.raises(
        DataError, match=r"a\.xml: its boxes are for a picture of 100x50 pixels, this one has 200x100; scale"
    ):
        find(tmp_path)
    with pytest.raises(DataError, match="it was labelled turned: orientation=apply"):
        find(tmp_path, "b.jpg")
    assert find(tmp_path, "c.png") == [[0, 0, 9, 9]]
    assert find(tmp_path, "d.png") == [[-1, 0, 10, 9]]
    assert find(tmp_path, "e.png") == []
    notes = read_boxes(tmp_path).notes
    assert notes[0] == "read as Pascal VOC, boxes of vehicles: 4; left out: 1 x person"
    assert "1 x <filename> differs from the name of the .xml file, which is used" in notes
    assert any(note.startswith("1 x a box begins at 0, but Pascal VOC counts from 1") for note in notes)


BOMB = (
    '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><annotation><object><name>&b;</name></object></annotation>'
)
THIEF = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><annotation><filename>&a;</filename></annotation>'


@pytest.mark.parametrize("text", [BOMB, THIEF, '<!DOCTYPE annotation SYSTEM "http://127.0.0.1/x.dtd"><annotation/>'])
def test_xml_with_a_document_type_is_refused(tmp_path: Path, text: str) -> None:
    write(tmp_path, {"a.xml": text, "b.xml": voc(("car", "1", "1", "9", "9"))})
    assert "a.xml: has a <!DOCTYPE>, which is not allowed for safety" in error_of(tmp_path / "a.xml")
    with pytest.raises(DataError, match="DOCTYPE"):
        find(tmp_path)
    assert find(tmp_path, "b.jpg") == [[0, 0, 9, 9]]


def test_coco_results_are_named_by_the_file_beside_them(tmp_path: Path) -> None:
    images = [{"id": 7, "file_name": "../x/a.jpg"}, {"id": 8, "file_name": "b.jpg"}]
    coco = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "person"}, {"id": 0, "name": "Car"}]}
    results = [detection(7, [1, 2, 30, 40], 0), detection(7, [1, 2, 3, 4], 1), detection(7, ["5", 6, 7, 8], 0)]
    write(
        tmp_path, {"results.json": results, "val.json": coco, "settings.json": {"a": 1}, "broken.json": '{"images": ['}
    )
    book = read_boxes(tmp_path / "results.json")
    assert book.find("/pictures/a.jpg") == [[1, 2, 30, 40], [5, 6, 7, 8]]
    assert book.find("b.jpg") == []
    with pytest.raises(DataError, match="has no boxes for it"):
        book.find("c.jpg")
    assert book.notes[0] == "read as COCO detection results, boxes of vehicles: 2; left out: 1 x person"
    assert book.notes[-1].endswith("val.json")
    write(tmp_path, {"more.json": coco})
    assert "more.json and" in error_of(tmp_path / "results.json")
    write(tmp_path, {"more.json": {**coco, "images": images[1:]}})
    assert find(tmp_path / "results.json") == book.find("a.jpg")


def test_coco_results_alone_are_named_by_their_ids(tmp_path: Path) -> None:
    path = write(tmp_path, {"r.json": [detection(139, WHOLE), detection("street", WHOLE, 8)]}) / "r.json"
    names = ("/p/000000000139.jpg", "/p/street.png", "/p/none.jpg")
    assert [find(path, name, names) for name in names] == [[WHOLE], [WHOLE], []]
    with pytest.raises(DataError, match="has no boxes for it"):
        find(path, "/p/none.jpg", ("/p/none.jpg", "/p/also_none.jpg"))
    with pytest.raises(DataError, match="0139 and 139 are the same number"):
        find(path, "/p/0139.jpg", ("/p/0139.jpg", "/p/139.jpg"))
    write(tmp_path, {"r.json": [detection(1, WHOLE, file_name="x/a.jpg")]})
    assert find(path, "/x/a.jpg") == [WHOLE]


def test_coco_annotations_without_crowds(tmp_path: Path) -> None:
    annotations = [
        {"image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4], "iscrowd": 0},
        {"image_id": 1, "category_id": 3, "bbox": [0, 0, 100, 90], "iscrowd": 1},
        {"image_id": 2, "category_id": 3, "bbox": [0, 0, -1, 90]},
    ]
    images = [{"id": index, "file_name": f"{name}.jpg"} for index, name in enumerate("abcd")]
    path = write(tmp_path, {"c.json": {"images": images, "annotations": annotations}}) / "c.json"
    assert [find(path, name) for name in ("a.jpg", "b.jpg", "d.jpg")] == [[], [[1, 2, 3, 4]], []]
    with pytest.raises(DataError, match=r"c\.json: annotation 2: bbox must be x, y, width and height, got \[0, 0, -1"):
        find(path, "c.jpg")


MOT_DETECTIONS = "1,-1,11,21,30,40,0.9,-1,-1,-1\n3,-1,1,1,5,5,0.2,-1,-1,-1\n3,-1,2,2,5,5,0.4,-1,-1,-1\n"


def test_mot_detections_are_of_the_one_video_or_of_numbered_pictures(tmp_path: Path) -> None:
    path = write(tmp_path, {"seq/det/det.txt": MOT_DETECTIONS}) / "seq/det/det.txt"
    expected = [[[10, 20, 30, 40]], [], [[0, 0, 5, 5], [1, 1, 5, 5]], []]
    assert [find(path, f"/v/drive.mp4#{index:06d}") for index in range(4)] == expected
    assert [find(path, f"/v/img1/{number:06d}.jpg") for number in range(1, 5)] == expected
    with pytest.raises(DataError, match="for its frames as pictures that are named by frame number"):
        find(path, "a.jpg")
    book = read_boxes(path)
    book.refuse_several([Path("000001.jpg"), Path("000002.jpg")])
    with pytest.raises(DataError, match="holds the frames of one video, but 2 pictures"):
        book.refuse_several([Path("a.mp4"), Path("b.mp4")])
    assert book.notes[0] == "read as MOT, boxes of vehicles: 3"


def test_mot_folders_are_of_videos_by_name(tmp_path: Path) -> None:
    folder = write(tmp_path, {"one.txt": MOT_DETECTIONS, "two.txt": "2,1,1,1,9,9\n"})
    videos = ("/v/one.mp4", "/v/two.avi", "/v/three.mp4")
    assert find(folder, "/v/one.mp4#000001", videos) == []
    assert [find(folder, f"/v/two.avi#{index:06d}", videos) for index in range(3)] == [[], [[0, 0, 9, 9]], []]
    with pytest.raises(DataError, match="has no boxes for it"):
        find(folder, "/v/three.mp4#000000", videos)


def test_classes_of_mot_ground_truth(tmp_path: Path) -> None:
    path = write(tmp_path, {"gt.txt": "1,1,1,1,9,9,0,3,0.5\n1,2,1,1,8,8,1,1,1\n2,2,1,1,8,8,1,1,1\n"}) / "gt.txt"
    assert [find(path, f"v.mp4#00000{index}") for index in range(2)] == [[[0, 0, 9, 9]], []]
    book = read_boxes(path)
    assert book.notes[0] == "read as MOT, boxes of vehicles: 1; left out: 2 x class 1"
    assert book.notes[-1] == "the classes come from MOT16"
    write(tmp_path, {"labels.txt": "car\nperson\nvan\n"})
    assert [find(path, f"v.mp4#00000{index}") for index in range(2)] == [[[0, 0, 9, 9], [0, 0, 8, 8]], [[0, 0, 8, 8]]]
    write(tmp_path, {"labels.txt": "person\ncar\n"})
    assert "class 3 is not one of the 2 of labels.txt, which start at 1" in error_of(path)


def test_ultralytics_writes_frames_of_videos_from_1(tmp_path: Path) -> None:
    folder = write(tmp_path, {"clip_1.txt": "2 .5 .5 1 1", "clip_3.txt": "0 .5 .5 1 1", "img_2.txt": "2 .5 .5 1 .5"})
    names = ("/v/clip.mp4", "/v/img_2.jpg", "/v/empty.jpg")
    assert [find(folder, f"/v/clip.mp4#{index:06d}", names) for index in range(4)] == [[WHOLE], [], [], []]
    assert find(folder, "/v/img_2.jpg", names) == [[0, 25, WIDTH, 50]]
    assert find(folder, "/v/empty.jpg", names) == []  # no file is written where nothing is found
    with pytest.raises(DataError, match="has no boxes for it"):
        find(folder, "/v/empty.jpg", ("/v/empty.jpg", "/v/other.jpg"))


def error_of(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_boxes(path)
    return str(caught.value)


MALFORMED: list[tuple[str, dict[str, Any], str, str]] = [
    ("a file of another kind", {"a.pkl": ""}, "a.pkl", "give boxes as .json, .csv, .tsv, .txt, .xml"),
    (
        "a text of nothing known",
        {"a.txt": "\nhello world\n"},
        "a.txt",
        "a.txt: its first line is not a box: expected [x y",
    ),
    (
        "a folder of nothing known",
        {"a.txt": "hello", "b.txt": "1 2"},
        "",
        "a.txt begins with 'hello', which is not a box",
    ),
    (
        "two formats",
        {"a.txt": "2 .5 .5 1 1", "b.txt": "[1 2 3 4],car"},
        "",
        "a.txt has the format YOLO labels, b.txt has CarFusion",
    ),
    ("texts and XML", {"a.txt": "2 .5 .5 1 1", "b.xml": voc()}, "", "has .xml and .txt files (b.xml, a.txt)"),
    ("an empty folder", {"labels/a.txt": ""}, "", "it has no .txt or .xml files"),
    ("pixels in YOLO", {"a.txt": "2 320 240 100 50"}, "a.txt", "a.txt:1: x, y, width and height must be relative to"),
    (
        "a YOLO polygon",
        {"a.txt": "2 .1 .1 .2 .2 .3 .3 .4 .4"},
        "a.txt",
        "a.txt:1: expected class x y width height and",
    ),
    (
        "YOLO without height",
        {"a.txt": "2 .5 .5 1 1\n2 .1 .1 .2\n"},
        "a.txt",
        "a.txt:2: expected class x y width height",
    ),
    (
        "YOLO of persons",
        {"a.txt": "0 .5 .5 1 1"},
        "a.txt",
        "it has no box of a car, truck or bus, only 1 x person",
    ),
    ("a class without name", {"a.txt": "9 .5 .5 1 1", "classes.txt": "car"}, "a.txt", "a.txt:1: class 9 is not in"),
    (
        "no names in YAML",
        {"a.txt": "2 .5 .5 1 1", "data.yaml": "nc: 3"},
        "a.txt",
        "data.yaml: has no names: write a list",
    ),
    ("broken YAML", {"a.txt": "2 .5 .5 1 1", "data.yaml": "names: ["}, "a.txt", "data.yaml: cannot be read: "),
    ("an empty list of classes", {"a.txt": "2 .5 .5 1 1", "classes.txt": "\n"}, "a.txt", "classes.txt: names no class"),
    (
        "KITTI cut short",
        {"a.txt": "Car 0 0 0 1 2 3 4 5"},
        "a.txt",
        "a.txt:1: expected a type, the 14 numbers of KITTI",
    ),
    (
        "KITTI backwards",
        {"a.txt": f"Car 0 0 0 9 9 1 1 {KITTI_TAIL}"},
        "a.txt",
        "a.txt:1: right and bottom must not be smaller",
    ),
    ("KITTI of trams", {"a.txt": f"Tram 0 0 0 1 1 9 9 {KITTI_TAIL}"}, "", "only 1 x Tram; KITTI calls them Car, Van"),
    ("no XML", {"a.xml": "<annotation>"}, "a.xml", "a.xml: not XML: no element found"),
    ("empty XML", {"a.xml": ""}, "a.xml", "a.xml: not XML"),
    ("other XML", {"a.xml": "<svg/>"}, "a.xml", "a.xml: expected <annotation> of Pascal VOC, got <svg>"),
    (
        "VOC without numbers",
        {"a.xml": voc(("car", "1", "", "x", "4"))},
        "a.xml",
        "got xmin '1', ymin '', xmax 'x', ymax",
    ),
    ("VOC backwards", {"a.xml": voc(("car", "9", "9", "1", "1"))}, "a.xml", "ends before it begins: 9, 9, 1, 1"),
    ("VOC of cats", {"a.xml": voc(("cat", "1", "1", "9", "9"))}, "", "only 1 x cat; Pascal VOC calls them car and bus"),
    ("MOT of words", {"a.txt": "1,1,1,1,9,9\n1,1,one,1,9,9"}, "a.txt", "a.txt:2: expected frame,track,left,top,width"),
    ("MOT from 0", {"a.txt": "0,1,1,1,9,9"}, "a.txt", "a.txt:1: frame numbers start at 1, got '0,1,1,1,9,9'"),
    ("MOT without extent", {"a.txt": "1,1,1,1,0,9"}, "a.txt", "a.txt:1: width and height must be positive"),
    ("MOT of persons", {"a.txt": "1,1,1,1,9,9,1,1,1"}, "a.txt", "only 1 x class 1; put labels.txt beside it"),
    ("results without box", {"r.json": [{"image_id": 1, "category_id": 3}]}, "r.json", "entry 0: lacks bbox, got"),
    (
        "results of a list",
        {"r.json": [detection([1], WHOLE)]},
        "r.json",
        "entry 0: image_id must be a number or a name",
    ),
    (
        "results of persons",
        {"r.json": [detection(1, WHOLE, 1)]},
        "r.json",
        "only 1 x person; put the COCO file with the",
    ),
    (
        "results of other images",
        {"r.json": [detection(5, WHOLE)], "c.json": {"images": [{"id": 1, "file_name": "a.jpg"}]}},
        "r.json",
        "image_id 5 is not in the images of",
    ),
    ("no images", {"c.json": {"images": [], "annotations": []}}, "c.json", "its list of images is empty"),
    (
        "an image without name",
        {"c.json": {"images": [{"id": 1}], "annotations": []}},
        "c.json",
        "image 0 must have an id",
    ),
    (
        "images alone",
        {"c.json": {"images": [{"id": 1, "file_name": "a"}]}},
        "c.json",
        "a COCO file without annotations",
    ),
]


@pytest.mark.parametrize(("files", "name", "message"), [case[1:] for case in MALFORMED], ids=[c[0] for c in MALFORMED])
def test_what_is_malformed_is_named(tmp_path: Path, files: dict[str, Any], name: str, message: str) -> None:
    assert message in error_of(write(tmp_path, files) / name)


def test_a_malformed_file_in_a_folder_costs_its_picture_alone(tmp_path: Path) -> None:
    write(tmp_path, {"a.txt": "2 .5 .5 1 1", "b.txt": "2 .5 .5 1", "c.txt": "2 5 5 1 1", "readme.txt": "hello"})
    (tmp_path / "gone.txt").symlink_to("nowhere")
    book = read_boxes(tmp_path)
    assert book.find("a.jpg", IMAGE) == [WHOLE]
    for name, message in (
        ("b.jpg", r"b\.txt:1: expected class"),
        ("c.jpg", "relative to"),
        ("gone.jpg", "cannot be read"),
    ):
        with pytest.raises(DataError, match=message):
            book.find(name, IMAGE)


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("[1 2 3 4],car", "bb"),
        ("1, 2, 3, 4],car", "bb"),
        ("", "bb"),
        ("2 0.5 0.5 0.1 0.1", "yolo"),
        ("1,-1,5,5,9,9", "mot"),
        ("1, 1, 5, 5, 9, 9, 1, -1, -1, -1", "mot"),
        (f"Car 0 0 0 1 1 9 9 {KITTI_TAIL}", "kitti"),
        ("/data/a.jpg 1,2,3,4,0", None),
        ("car", None),
    ],
)
def test_a_line_tells_its_format(line: str, kind: str | None) -> None:
    assert recognise_line(line) == kind


def test_no_file_is_opened_by_a_name_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = write(tmp_path, {"secret.jpg": "x", "secret.txt": "2 .5 .5 1 1"})
    images = [{"id": 1, "file_name": "../secret.jpg"}, {"id": 2, "file_name": str(outside / "secret.txt")}]
    folder = write(
        tmp_path / "in",
        {
            "labels/a.txt": "1 .5 .5 1 1",
            "labels/data.yaml": "path: ..\ntrain: ../secret.jpg\nnames: [x, car]\n",
            "xml/a.xml": voc(("car", "1", "1", "9", "9"), name="../../secret.jpg"),
            "c.json": {"images": images, "annotations": [{"image_id": 1, "category_id": 3, "bbox": WHOLE}]},
        },
    )
    opened = list[str]()
    read_bytes, open_file = Path.read_bytes, Path.open
    monkeypatch.setattr(Path, "read_bytes", lambda path: (opened.append(str(path)), read_bytes(path))[1])
    monkeypatch.setattr(Path, "open", lambda path, *a, **k: (opened.append(str(path)), open_file(path, *a, **k))[1])
    books: list[BoxBook] = [read_boxes(folder / name) for name in ("labels", "xml", "c.json")]
    assert [book.find("a.jpg", IMAGE)[0] for book in books[:1]] == [WHOLE]
    assert opened
    assert not [name for name in opened if "secret" in name]
