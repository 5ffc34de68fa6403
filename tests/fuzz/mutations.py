"""Damaged and hostile variants of valid files: bytes changed anywhere, and values changed where a format has them.

Formats with lengths or checksums get right ones again, so that what was changed is read and not just refused.
"""

import base64
import binascii
import io
import json
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

import yaml

Form = Literal["bytes", "text", "json", "yaml", "zip", "image", "safetensors", "glb", "onnx", "request"]

MAX_BYTES = 2**18
"""Of what is made by copying a part: sizes that a file declares are odd numbers, not long files."""

DEEP = 20_000
_DEEP_MARK = "\ue000deep"

NUMBERS = (0, -0.0, 1, -1, 2, 3, 0.5, 255, 256, 65_535, 2**31 - 1, -(2**31), 2**32, 2**53, 2**63, 10**30, 10**400)
FLOATS = (float("nan"), float("inf"), float("-inf"), 1e308, 5e-324, 1e19)
TEXTS = (
    *("", " ", "\0", "\ud800", "\ufeff", "é", "e\u0301", "%s%n", "nan", "1e999", "0x10", "١", "²", "9" * 5000),
    *("..", "../../../../etc/passwd", "/etc/passwd", "C:\\x", "file:///etc/passwd", "#000000", "x#" + "9" * 5000),
    *("a" * 70_000, "__class__", "hf-hub:x/y", "local-dir:/tmp", "$HOME", "~root"),
)
TOKENS = (
    *(b"\0", b"\xff", b"\r", b"\n", b",", b"]", b"[", b" ", b"-", b"nan", b"1e999", b"9" * 5000, b"\xef\xbb\xbf"),
    *(b"\xff\xfe", b"\xd9\xa1", b"1_0", b"0x10", b"inf", b"#", b'"', b"'", b"<", b">", b"&", b":", b"../../"),
)
YAML_LINES = (
    "a: &a [1, 2, 3]\nb: &b [*a, *a, *a, *a]\nc: &c [*b, *b, *b, *b]",
    "&x x: *x",
    "loop: &l [*l]",
    "<<: {name: x}",
    "m: &m {a: 1}\nn: {<<: [*m, *m]}",
    "!!python/object/apply:os.system ['false']",
    "? [a, b]\n: c",
    "when: 2024-02-31",
    "hour: 1:30",
    "octal: 010",
    "=: 1",
    "k: !!binary '*'",
    "k: !!set {a, b}",
    "k: !!float x",
    "k: !!int ''",
    "---",
    "%YAML 9.9",
    "\tk: 1",
    "k: !!timestamp 2001-99-99",
    "k: !!omap [a]",
)


def mutate(data: bytes, rng: random.Random, form: Form, others: Sequence[bytes] = ()) -> bytes:
    """A variant of ``data``, half of them by the rules of ``form``; ``others`` are valid files to take parts from."""
    structured = STRUCTURED.get(form)
    if structured is not None and rng.random() < 0.6:
        try:
            return structured(data, rng)
        except Exception:  # no longer of its format: its bytes are left
            return mutate_bytes(data, rng, others)
    return mutate_bytes(data, rng, others)


def mutate_bytes(data: bytes, rng: random.Random, others: Sequence[bytes] = ()) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 8))):
        rng.choice(_BYTE_CHANGES)(changed, rng)
    if others and rng.random() < 0.1:
        other = rng.choice(others)
        changed[rng.randint(0, len(changed)) :] = other[rng.randint(0, len(other)) :]
    return bytes(changed[: MAX_BYTES + len(data)])


def _flip(data: bytearray, rng: random.Random) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _replace(data: bytearray, rng: random.Random) -> None:
    if data:
        data[rng.randrange(len(data))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))


def _truncate(data: bytearray, rng: random.Random) -> None:
    del data[rng.randint(0, len(data)) :]


def _delete(data: bytearray, rng: random.Random) -> None:
    start = rng.randint(0, len(data))
    del data[start : start + rng.choice((1, 2, 4, 16, 256))]


def _insert(data: bytearray, rng: random.Random) -> None:
    start = rng.randint(0, len(data))
    data[start:start] = rng.choice((rng.choice(TOKENS), rng.randbytes(rng.choice((1, 4, 32)))))


def _repeat(data: bytearray, rng: random.Random) -> None:
    start = rng.randint(0, len(data))
    part = data[start : start + rng.choice((1, 8, 64, 1024))]
    data[start:start] = part * min(rng.choice((1, 2, 16, 256)), 1 + MAX_BYTES // (1 + len(part)))


def _set_number(data: bytearray, rng: random.Random) -> None:
    width = rng.choice((1, 2, 4, 8))
    if len(data) >= width:
        start = rng.randrange(len(data) - width + 1)
        value = rng.choice((0, 1, 2 ** (8 * width) - 1, 2 ** (8 * width - 1), 2 ** (8 * width - 1) - 1, 1 << 20))
        data[start : start + width] = (value % 2 ** (8 * width)).to_bytes(width, rng.choice(("big", "little")))


_BYTE_CHANGES: tuple[Callable[[bytearray, random.Random], None], ...] = (
    *(_flip, _replace, _truncate, _delete, _insert, _repeat, _set_number),
)


def odd_value(rng: random.Random) -> Any:
    """A value as no one expects it."""
    return rng.choice(
        (
            *(None, True, False, [], {}, [[]], {"": None}, _DEEP_MARK, [None] * 1000),
            *(rng.choice(NUMBERS), rng.choice(NUMBERS), rng.choice(FLOATS), rng.choice(TEXTS), rng.choice(TEXTS)),
        )
    )


def mutate_tree(tree: Any, rng: random.Random, odd: Callable[[random.Random], Any] = odd_value) -> Any:
    """A nest of plain data with a value, a key or an element changed, or several."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = list(_places(tree))
        if not places:
            return odd(rng)
        parent, key = rng.choice(places)
        tree = tree if parent is not None else [tree]
        parent, key = (tree, 0) if parent is None else (parent, key)
        _change(parent, key, rng, odd)
    return tree


def _places(tree: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    pending = [tree]
    while pending and len(found) < 20_000:
        item = pending.pop()
        if isinstance(item, dict | list):
            keys = list(item) if isinstance(item, dict) else range(len(item))
            found += [(item, key) for key in keys]
            pending += [item[key] for key in keys]
    return found


def _change(parent: Any, key: Any, rng: random.Random, odd: Callable[[random.Random], Any]) -> None:
    kind = rng.choice(("set", "set", "set", "set", "near", "near", "delete", "add", "twice"))
    if kind == "delete":
        del parent[key]
    elif kind == "near" and isinstance(parent[key], int | float) and not isinstance(parent[key], bool):
        parent[key] = rng.choice((-parent[key], parent[key] + 1, parent[key] - 1, parent[key] * 1000, str(parent[key])))
    elif kind == "add" and isinstance(parent, dict):
        parent[rng.choice(TEXTS)] = odd(rng)
    elif kind in ("add", "twice") and isinstance(parent, list):
        parent.insert(rng.randint(0, len(parent)), parent[key] if kind == "twice" else odd(rng))
    else:
        parent[key] = odd(rng)


def dump_json(tree: Any) -> bytes:
    """With NaN, half letters and lists that are nested thousands deep, which ``json`` itself would not write."""
    text = json.dumps(tree).replace(f'"{json.dumps(_DEEP_MARK)[1:-1]}"', "[" * DEEP + "]" * DEEP)
    return text.encode()


def mutate_json(data: bytes, rng: random.Random) -> bytes:
    mutated = dump_json(mutate_tree(json.loads(data), rng))
    return mutate_bytes(mutated, rng) if rng.random() < 0.1 else mutated


def mutate_yaml(data: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.4:
        lines = data.decode().split("\n")
        lines.insert(rng.randint(0, len(lines)), rng.choice(YAML_LINES))
        return "\n".join(lines).encode()
    tree = mutate_tree(yaml.safe_load(data), rng)
    text = yaml.safe_dump(tree, allow_unicode=True) if rng.random() < 0.5 else dump_json(tree).decode()
    return text.encode(errors="surrogatepass")


def mutate_text(data: bytes, rng: random.Random) -> bytes:
    """Words and lines of a text changed, and its encoding."""
    lines = data.split(b"\n")
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(lines))
        words = lines[at].replace(b",", b" , ").replace(b"]", b" ] ").split(b" ")
        word = rng.choice((*TOKENS, str(rng.choice(NUMBERS)).encode(), str(rng.choice(FLOATS)).encode()))
        words[rng.randrange(len(words))] = word
        lines[at] = b" ".join(words).replace(b" , ", b",").replace(b" ] ", b"]")
    joined = rng.choice((b"\n", b"\n", b"\n", b"\r\n", b"\r", b"\n\n")).join(lines)
    if rng.random() < 0.1:
        return joined.decode("latin-1").encode(rng.choice(("utf-16", "utf-32", "utf-8-sig", "utf-7")))
    return joined


def mutate_zip(data: bytes, rng: random.Random) -> bytes:
    """One member of an archive changed, left out or stored twice; checksums are right again."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice(list(members))
    kind = rng.choice(("change", "change", "change", "change", "delete", "empty", "rename"))
    if kind == "delete":
        del members[name]
    elif kind == "rename":
        members["../" + name] = members.pop(name)
    else:
        members[name] = b"" if kind == "empty" else mutate_bytes(members[name], rng)
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return written.getvalue()


def mutate_image(data: bytes, rng: random.Random) -> bytes:
    """A chunk of a PNG, with its checksum; any other picture's header, which is where sizes stand."""
    if not data.startswith(b"\x89PNG"):
        head = mutate_bytes(data[:64], rng)
        return head + data[64:]
    chunks, position = [], 8
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        chunks.append((kind, data[position + 8 : position + 8 + length]))
        position += 12 + length
    at = rng.randrange(len(chunks))
    kind, content = chunks[at]
    if kind == b"IHDR" and rng.random() < 0.5:
        sizes = [rng.choice((0, 1, 24, 65_535, 2**20, 2**31 - 1)) for _ in range(2)]
        chunks[at] = kind, struct.pack(">II", *sizes) + content[8:]
    elif rng.random() < 0.2:
        chunks.insert(at, (rng.choice((b"zTXt", b"iCCP", b"eXIf", b"acTL", b"PLTE", b"tRNS")), _text_bomb(rng)))
    else:
        chunks[at] = rng.choice((kind, b"IDAT", b"IEND")), mutate_bytes(content, rng)
    return data[:8] + b"".join(map(_png_chunk, *zip(*chunks, strict=True)))


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _text_bomb(rng: random.Random) -> bytes:
    """4 MiB of zeros in a few thousand bytes, as a PNG's texts and profiles are packed."""
    return b"name\0\0" + zlib.compress(bytes(2**22)) if rng.random() < 0.3 else rng.randbytes(rng.choice((0, 3, 40)))


def mutate_safetensors(data: bytes, rng: random.Random) -> bytes:
    length = struct.unpack_from("<Q", data)[0]
    header = mutate_tree(json.loads(data[8 : 8 + length]), rng)
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    if isinstance(metadata, dict) and isinstance(metadata.get("carkp"), str) and rng.random() < 0.5:
        metadata["carkp"] = mutate_json(metadata["carkp"].encode(), rng).decode(errors="surrogateescape")
    encoded = dump_json(header)
    return struct.pack("<Q", len(encoded)) + encoded + data[8 + length :]


def mutate_glb(data: bytes, rng: random.Random) -> bytes:
    length = struct.unpack_from("<I", data, 12)[0]
    tree = json.loads(data[20 : 20 + length])
    if rng.random() < 0.3 and isinstance(tree, dict):
        _disturb_glb(tree, rng)
    encoded = dump_json(mutate_tree(tree, rng))
    encoded += b" " * (-len(encoded) % 4)
    rest = data[20 + length :]
    return data[:8] + struct.pack("<III", 20 + len(encoded) + len(rest), len(encoded), 0x4E4F534A) + encoded + rest


def _disturb_glb(tree: dict[str, Any], rng: random.Random) -> None:
    """What a loader of scenes may follow: other files, accessors without data, nodes within themselves."""
    accessors, nodes = tree.get("accessors") or [{}], tree.get("nodes") or [{}]
    kind = rng.randrange(4)
    if kind == 0:
        tree["images"] = [{"uri": rng.choice(TEXTS)}]
    elif kind == 1:
        tree["buffers"] = [{"uri": rng.choice(TEXTS), "byteLength": 8}, *(tree.get("buffers") or [])]
    elif kind == 2:
        accessor = rng.choice(accessors)
        accessor.pop("bufferView", None)
        accessor["count"] = rng.choice((10**6, 10**9, 10**12))
    else:
        rng.choice(nodes)["children"] = list(range(len(nodes))) * 2


def mutate_onnx(data: bytes, rng: random.Random) -> bytes:
    """The metadata's JSON, an initializer or an attribute of a model changed."""
    import onnx

    model = onnx.load_model_from_string(data)
    kind = rng.choice(("metadata", "metadata", "external", "shape", "node"))
    if kind == "metadata" and model.metadata_props:
        item = rng.choice(list(model.metadata_props))
        item.value = mutate_json(item.value.encode(), rng).decode(errors="replace")
    elif kind == "external" and model.graph.initializer:
        tensor = rng.choice(list(model.graph.initializer))
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", rng.choice(("../x", "/etc/passwd", "fuzzed.onnx", "/dev/zero", ""))
    elif kind == "shape" and model.graph.initializer:
        tensor = rng.choice(list(model.graph.initializer))
        tensor.dims[:] = [rng.choice((0, 1, 3, 2**20, 2**31, 2**40, -1)) for _ in range(rng.randint(0, 5))]
    elif model.graph.node:
        node = rng.choice(list(model.graph.node))
        node.op_type = rng.choice(("Loop", "If", "ConstantOfShape", "Reshape", "Tile", "Expand", node.op_type))
        for attribute in node.attribute:
            attribute.ints[:] = [rng.choice((0, -1, 1, 2**31, 2**62)) for _ in attribute.ints]
    content: bytes = model.SerializeToString()
    return content


def mutate_request(data: bytes, rng: random.Random) -> bytes:
    """JSON, or the picture that it has in base64."""
    if rng.random() < 0.5:
        return mutate_json(data, rng)
    tree = json.loads(data)
    texts = [(parent, key) for parent, key in _places(tree) if isinstance(parent[key], str) and len(parent[key]) > 40]
    parent, key = rng.choice(texts)
    try:
        picture = base64.b64decode(parent[key], validate=True)
    except binascii.Error:
        return mutate_json(data, rng)
    parent[key] = base64.b64encode(mutate(picture, rng, "image")).decode()
    return dump_json(tree)


STRUCTURED: dict[Form, Callable[[bytes, random.Random], bytes]] = {
    "text": mutate_text,
    "json": mutate_json,
    "yaml": mutate_yaml,
    "zip": mutate_zip,
    "image": mutate_image,
    "safetensors": mutate_safetensors,
    "glb": mutate_glb,
    "onnx": mutate_onnx,
    "request": mutate_request,
}
