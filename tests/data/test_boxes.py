"""Files of boxes as people have them: encodings, spreadsheets, and names that are written in many ways."""

import json
import os
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from carkp.data.boxes import BoxBook, read_boxes
from carkp.data.issues import DataError

BOX, OTHER = [20, 10, 80, 50], [1, 2, 30, 40]
CAFE = "Caf\u00e9.jpg"


def book_of(tmp_path: Path, content: Any) -> BoxBook:
    path = tmp_path / "boxes.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_boxes(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("form", ["json", "csv", "semicolons", "tabs"])
def test_every_encoding_and_line_end_reads_the_same(tmp_path: Path, encoding: str, end: str, form: str) -> None:
    rows = [["image", "x", "y", "w", "h"], [CAFE, "20", "10", "80", "50"], ["b.jpg", "1", "2", "30", "40"]]
    separator = {"json": "", "csv": ",", "semicolons": ";", "tabs": "\t"}[form]
    text = end.join(separator.join(row) for row in rows) + end
    if form == "json":
        text = json.dumps({CAFE: [BOX], "b.jpg": [OTHER]}, ensure_ascii=False, indent=1).replace("\n", end)
    path = tmp_path / ("boxes.json" if form == "json" else "boxes.csv")
    path.write_bytes(text.encode(encoding))
    book = read_boxes(path)
    assert book.find(CAFE) == [BOX]
    assert book.find("b.jpg") == [OTHER]


def test_what_spreadsheets_write(tmp_path: Path) -> None:
    path = tmp_path / "boxes.csv"
    path.write_text('sep=;\n"Image";X;Y;"W";H;note\n"a b.jpg"; 20,5 ;1e1;80;50;"x;y"\n;;;;;\n\nb.jpg;nan;1;2;3;\n')
    book = read_boxes(path)
    assert book.find("a b.jpg") == [[20.5, 10, 80, 50]]
    with pytest.raises(DataError, match=r"boxes\.csv:6: x, y, w, h must be numbers, got nan"):
        book.find("b.jpg")
    path.write_text("image,x,y,w,h,x\na.jpg,1,2,3,4,5\n")
    with pytest.raises(DataError, match=r"boxes\.csv:1: the header has x twice"):
        read_boxes(path)
    path.write_text("image,x,y,w,h\na.jpg,1,2,3,4\n,1,2,3,4\n")
    with pytest.raises(DataError, match=r"boxes\.csv:3: no image is named"):
        read_boxes(path)


def test_lines_of_two_encodings(tmp_path: Path) -> None:
    path = tmp_path / "boxes.csv"
    lines = [b"image,x,y,w,h", b"\xc3\xa4.jpg,1,2,30,40", b"\xf6.jpg,20,10,80,50"]
    path.write_bytes(b"\n".join(lines))
    book = read_boxes(path)
    assert (book.find("\u00e4.jpg"), book.find("\u00f6.jpg")) == ([OTHER], [BOX])


def test_numbers_may_be_text_and_one_box_needs_no_list(tmp_path: Path) -> None:
    book = book_of(tmp_path, {"a.jpg": [["20", " 10", "8e1", 50]], "b.jpg": BOX, "c.jpg": [[1, 2, "x", 4]]})
    assert book.find("a.jpg") == [BOX]
    assert book.find("b.jpg") == [BOX]
    assert book.find("c.jpg") == [[1, 2, "x", 4]]  # the predictor refuses it
    assert book_of(tmp_path, BOX).find("any.jpg") == [BOX]


def test_a_name_given_twice_is_no_guess(tmp_path: Path) -> None:
    book = book_of(tmp_path, '{"a.jpg": [[1, 2, 3, 4]], "b.jpg": [[5, 6, 7, 8]], "a.jpg": [[9, 9, 9, 9]]}')
    with pytest.raises(DataError, match=r"'a\.jpg' occurs twice, with different boxes"):
        book.find("a.jpg")
    assert book.find("b.jpg") == [[5, 6, 7, 8]]
    assert book_of(tmp_path, '{"a.jpg": [[1, 2, 3, 4]], "a.jpg": [[1, 2, 3, 4]]}').find("a.jpg") == [[1, 2, 3, 4]]


ODD_NAMES = (
    "car#1.jpg",
    "car.jpg",
    "100%.jpg",
    "%41.jpg",
    "a:b.jpg",
    "what?.jpg",
    "a b.jpg",
    "x.y.jpg",
    "car#000001.jpg",
)


@pytest.mark.parametrize("is_folder", [True, False])
def test_odd_names_get_their_own_boxes(tmp_path: Path, is_folder: bool) -> None:
    boxes = {name: [[index, 1.0, 2.0, 3.0]] for index, name in enumerate(ODD_NAMES)}
    if is_folder:
        for name, (box,) in boxes.items():
            (tmp_path / f"{name.removesuffix('.jpg')}.TXT").write_text("[{:g} {:g} {:g} {:g}],car\r\n".format(*box))
        (tmp_path / "._car.txt").write_bytes(b"\0\5\x16\7")
        (tmp_path / "gone.txt").symlink_to("nowhere")
    book = (read_boxes(tmp_path) if is_folder else book_of(tmp_path, boxes)).for_pictures(ODD_NAMES)
    assert {name: book.find(name) for name in ODD_NAMES} == boxes
    if is_folder:
        with pytest.raises(DataError, match=r"gone\.txt: cannot be read"):
            book.find("gone.jpg")


@pytest.mark.parametrize(
    "entry",
    [
        CAFE,
        unicodedata.normalize("NFD", CAFE),
        CAFE.removesuffix(".jpg"),
        f"./{CAFE}",
        f"photos/{CAFE}",
        f"/home/me/photos/{CAFE}",
        f"C:\\Users\\me\\photos\\{CAFE}",
        f" {CAFE} ",
        CAFE.upper(),
    ],
)
@pytest.mark.parametrize("picture", [CAFE, unicodedata.normalize("NFD", CAFE), f"/elsewhere/{CAFE}", f"photos/{CAFE}"])
def test_a_name_is_found_however_it_is_written(tmp_path: Path, entry: str, picture: str) -> None:
    book = book_of(tmp_path, {entry: [BOX], "b.jpg": [OTHER]})
    assert book.find(picture) == [BOX]


def test_a_name_that_is_no_utf8_is_that_of_latin_1(tmp_path: Path) -> None:
    assert book_of(tmp_path, {CAFE: [BOX]}).find(os.fsdecode(b"Caf\xe9.jpg")) == [BOX]


def test_the_exact_name_wins(tmp_path: Path) -> None:
    names = ["a.jpg", "A.jpg", "a", "x/a.jpg", "a.JPG"]
    boxes = {name: [[index, 1, 2, 3]] for index, name in enumerate(names)}
    book = book_of(tmp_path, boxes)
    assert [book.find(name)[0][0] for name in ("a.jpg", "A.jpg", "/y/x/a.jpg", "/y/a.jpg", "a.JPG")] == [0, 1, 3, 0, 4]
    assert book.find("a.png")[0][0] == 2


def test_names_that_differ_by_folder_alone(tmp_path: Path) -> None:
    book = book_of(tmp_path, {"cars/1.jpg": [BOX], "vans\\1.jpg": [OTHER]})
    assert book.find("/data/cars/1.jpg") == [BOX]
    assert book.find("/data/vans/1.jpg") == [OTHER]
    for name in ("1.jpg", "/data/bikes/1.jpg"):
        with pytest.raises(DataError, match="both match; write the name with its folder, as in the file"):
            book.find(name)


def test_one_entry_is_not_for_two_pictures(tmp_path: Path) -> None:
    book = book_of(tmp_path, {"cars/1.jpg": [BOX], "2": [OTHER], "3.jpg": [BOX]})
    pictures = ["/d/cars/1.jpg", "/d/vans/1.jpg", "/d/cars/2.jpg", "/d/cars/2.png", "/d/cars/3.jpg", "/d/cars/3.png"]
    bound = book.for_pictures(pictures)
    assert bound.find("/d/cars/1.jpg") == [BOX]
    assert bound.find("/d/cars/3.jpg") == [BOX]
    for path in ("/d/vans/1.jpg", "/d/cars/2.jpg", "/d/cars/2.png"):
        with pytest.raises(DataError, match=r"also matches"):
            bound.find(path)
    with pytest.raises(DataError, match=r"has no boxes for it; is it '3\.jpg'\?"):
        bound.find("/d/cars/3.png")
    assert book.find("/d/vans/1.jpg") == [BOX]  # annotated elsewhere, and no other picture is meant


def test_frames_of_videos(tmp_path: Path) -> None:
    entries = {"clip.mp4": [BOX], "clip.mp4#000003": [OTHER], "v/other#0000004": [OTHER], "clip": [[9, 9, 9, 9]]}
    book = book_of(tmp_path, entries).for_pictures(["/d/clip.mp4", "/d/v/other.avi"])
    assert book.find("/d/clip.mp4#000002") == [BOX]
    assert book.find("/d/clip.mp4#000003") == [OTHER]
    assert book.find("/d/v/other.avi#000004") == [OTHER]
    with pytest.raises(DataError, match="has no boxes for it"):
        book.find("/d/v/other.avi#000005")
    assert book.find("/d/clip.mp4") == [BOX]


def test_a_long_video_with_boxes_for_each_frame_is_no_square(tmp_path: Path) -> None:
    names = [f"clip.mp4#{index:06d}" for index in range(20_000)]
    book = BoxBook(tmp_path, named={name: [BOX] for name in names}).for_pictures(["/d/clip.mp4"])
    assert all(book.find(f"/d/{name}") == [BOX] for name in names)


def test_other_json_is_called_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is a COCO file without annotations"):
        book_of(tmp_path, {"images": []})
    with pytest.raises(DataError, match="is a result file of infer"):
        book_of(tmp_path, {"model": "x", "images": {"a.jpg": {}}})
    with pytest.raises(DataError, match="cannot be read"):
        book_of(tmp_path, "[" * 100_000)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"it has no \.txt or \.xml files"):
        read_boxes(tmp_path / "empty")


def test_a_pipe_among_bb_files_costs_itself_alone(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("[1 2 3 4],car\n")
    os.mkfifo(tmp_path / "b.txt")
    book = read_boxes(tmp_path)
    assert book.find("a.jpg") == [[1, 2, 3, 4]]
    with pytest.raises(DataError, match=r"b\.txt: cannot be read: it is a pipe"):
        book.find("b.jpg")


def test_half_a_letter_in_json_costs_no_other_picture(tmp_path: Path) -> None:
    path = tmp_path / "boxes.json"
    path.write_text('{"\\ud800.jpg": [[9, 9, 9, 9]], "a.jpg": [[1, 2, 3, 4]]}')
    assert read_boxes(path).find("a.jpg") == [[1, 2, 3, 4]]
    with pytest.raises(DataError, match="has no boxes"):
        read_boxes(path).find("b.jpg")


def test_null_is_no_list_of_boxes(tmp_path: Path) -> None:
    path = tmp_path / "boxes.json"
    path.write_text('{"a.jpg": null}')
    with pytest.raises(DataError, match="are null"):
        read_boxes(path).find("a.jpg")


def test_names_that_differ_by_composition_alone_get_their_own_boxes(tmp_path: Path) -> None:
    composed, decomposed = "caf\u00e9.jpg", "cafe\u0301.jpg"
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps({composed: [[1, 1, 1, 1]], decomposed: [[2, 2, 2, 2]]}))
    book = read_boxes(path).for_pictures([f"/in/{composed}", f"/in/{decomposed}"])
    assert book.find(f"/in/{composed}") == [[1, 1, 1, 1]]
    assert book.find(f"/in/{decomposed}") == [[2, 2, 2, 2]]
    path.write_text(json.dumps({composed: [[1, 1, 1, 1]]}))
    lone = read_boxes(path).for_pictures([f"/in/{composed}", f"/in/{decomposed}"])
    assert lone.find(f"/in/{composed}") == [[1, 1, 1, 1]]
    with pytest.raises(DataError, match="also matches"):
        lone.find(f"/in/{decomposed}")


@pytest.mark.parametrize(
    ("content", "message"),
    [([{"box": [1, 2, 3, 4]}], "list of objects"), ({"shapes": [], "imagePath": "a.jpg"}, "labelme")],
)
def test_boxes_of_detectors_and_labelme_are_called_by_their_names(
    tmp_path: Path, content: object, message: str
) -> None:
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        read_boxes(path)
