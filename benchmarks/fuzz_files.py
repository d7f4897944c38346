"""Files from strangers, damaged at random: each must be accepted or refused in our words, and nothing else.

    python -m benchmarks.fuzz_files [--inputs 700] [--first 0] [--kinds NAME …] [--append]

Every input is drawn from its kind and its number, so a fault that is printed is repeated with ``--kinds KIND --first
NUMBER --inputs 1``. ``--append`` writes the table to ``benchmarks/results/fuzz.md``.
"""

import argparse
import copy
import io
import json
import shlex
import shutil
import struct
import sys
import tarfile
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers.utils import logging

import lora_mm
from benchmarks.measure import append, table
from lora_mm.artifact.files import CARD, CONFIG, LIMITS, PREPROCESSING, RECIPE, SCORES, WEIGHTS
from lora_mm.artifact.folder import load_adapter, save_adapter
from lora_mm.artifact.packing import pack_adapter, unpack_adapter
from lora_mm.artifact.summary import format_summary, summarize_adapter
from lora_mm.data.example import open_image, read_size
from lora_mm.errors import LoraMMError
from lora_mm.models.loading import Base, load_base
from lora_mm.recipe.load import load_recipe
from tests.helpers import tiny

ADAPTERS: dict[str, list[Any]] = {
    "routed": [{"method": "mma", "rank": 4}, {"method": "visual_expert", "rank": 2}],
    "lora": [{"method": "lora", "rank": 2}, {"method": "lora", "part": "vision", "rank": 4, "alpha": 3}],
}

ODD_VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 3, 2**31, -(2**63), 10**30, 0.5, 1e-300, float("nan"), float("inf"), "", "x", "../..",
    "\0", "\ud800", "é" * 1000, "\x1b[31m", "(a+)+$", [], {}, [[]], [0], ["x"], {"a": {}}, [None] * 50, "float32",
]  # fmt: skip
ODD_TEXTS = [
    b"", b"null", b"[]", b"3", b"{", b"[" * 50_000, b"\xff\xfe\0", b"\0" * 100, b"---\n", b"a: &a [*a]\n",
    b"- " * 2_000, b"a: 2001-13-45\n", b'{"a": 1, "a": 2}', b"? {a: b}\n: c\n", b"!!python/object:os.system x",
]  # fmt: skip


@dataclass(frozen=True)
class Materials:
    """What is damaged: whole files, made once.

    Attributes:
        base: a tiny base, and ``base_folder``, its files.
        adapters: folders of adapters on it.
        packed: a packed adapter.
        pictures: encoded pictures.
    """

    base: Base
    base_folder: Path
    adapters: list[Path]
    packed: bytes
    pictures: list[bytes]


@dataclass
class Count:
    """Results of one kind: inputs that were accepted and refused, and a line for each fault."""

    accepted: int
    refused: int
    faults: list[str]


def make_materials(folder: Path) -> Materials:
    """Make the files to damage in an empty folder."""
    base_folder = tiny.make_base(folder / "base")
    data = tiny.make_scienceqa(folder / "data")
    recipe = load_recipe(str(tiny.make_recipe(folder / "recipe.yaml", base_folder, data))).to_yaml()
    adapters = []
    for name, placements in ADAPTERS.items():
        base = load_base(str(base_folder))
        model = lora_mm.attach(base.model, placements, train=["connector"])
        save_adapter(model, folder / name, base=base, recipe=recipe)
        (folder / name / CARD).write_text("---\nlicense: mit\n---\n\n# An adapter\n")
        (folder / name / SCORES).write_text(json.dumps({"scores": {"adapter": {"columns": {"AVG": {"value": 50.0}}}}}))
        adapters.append(folder / name)
    pack_adapter(adapters[0], folder / "packed.tar")
    packed = (folder / "packed.tar").read_bytes()
    return Materials(load_base(str(base_folder)), base_folder, adapters, packed, list(make_pictures()))


def make_pictures() -> Iterator[bytes]:
    """Pictures in all formats that are read, and in some that are not, in many modes."""
    noise = Image.effect_noise((40, 30), 80)
    colour = Image.merge("RGB", (noise, noise.rotate(90), noise.rotate(180)))
    exif = Image.Exif()
    exif[0x0112] = 6
    forms: list[tuple[Image.Image, str, dict[str, Any]]] = [
        (colour, "JPEG", {"exif": exif}),
        (colour.convert("CMYK"), "JPEG", {}),
        (colour, "PNG", {}),
        (noise.convert("I;16"), "PNG", {}),
        (colour.convert("P"), "PNG", {"transparency": 0}),
        (colour.convert("RGBA"), "PNG", {}),
        (colour.convert("1"), "PNG", {}),
        (colour, "GIF", {"save_all": True, "append_images": [colour.rotate(90)] * 3}),
        (colour, "PNG", {"save_all": True, "append_images": [colour.rotate(90)] * 3}),
        (colour, "WEBP", {"save_all": True, "append_images": [colour.rotate(90)] * 3}),
        (colour, "TIFF", {"compression": "tiff_lzw"}),
        (noise.convert("F"), "TIFF", {}),
        (colour.convert("LAB"), "TIFF", {}),
        (colour, "BMP", {}),
        (colour, "PPM", {}),
        (colour, "MPO", {"save_all": True, "append_images": [colour]}),
        (colour, "EPS", {}),
        (colour, "PDF", {}),
        (colour, "ICO", {}),
        (colour, "TGA", {}),
        (Image.new("RGB", (1, 3000)), "PNG", {}),
        (Image.new("1", (20_000, 20_000)), "PNG", {}),  # 400 million pixels in 50 KB
    ]
    for picture, form, options in forms:
        buffer = io.BytesIO()
        picture.save(buffer, form, **options)
        yield buffer.getvalue()
    yield b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="9" height="9"/></svg>'


def damage_bytes(random: Random, content: bytes, head: int = 4096) -> bytes:
    """Flip, cut, insert, repeat or overwrite bytes, most often near the beginning."""
    damaged = bytearray(content)
    for _ in range(random.choice([1, 1, 1, 2, 5, 30])):
        place = random.randrange(max(1, min(len(damaged), random.choice([64, head, len(damaged) + 1]))))
        size = random.choice([1, 1, 2, 4, 8, 300])
        part = damaged[place : place + size]
        forms = [
            bytes(byte ^ (1 << random.randrange(8)) for byte in part),
            b"",
            random.randbytes(size),
            bytes(part) * 2,
            b"\0" * size,
            b"\xff" * size,
            struct.pack(">I", random.choice([0, 1, 2**31, 2**32 - 1])),
        ]
        new = random.choice(forms)
        damaged[place : place + size] = new
    return bytes(damaged[: random.randrange(len(damaged) + 1)] if random.random() < 0.15 else damaged)


def damage_json(random: Random, value: Any) -> Any:
    """Change one to three values, keys or types anywhere in a JSON value."""
    value = copy.deepcopy(value)
    for _ in range(random.choice([1, 1, 1, 2, 3])):
        places = list(_list_places(value))
        if not places:
            return random.choice(ODD_VALUES)
        container, key = random.choice(places)
        match random.randrange(5):
            case 0:
                del container[key]
            case 1 if isinstance(container, dict):
                container[random.choice(["x", "r", "rank", "auto_map", "use_dora", str(key).upper()])] = container.pop(
                    key
                )
            case 2 if isinstance(container[key], int | float):
                container[key] = random.choice(
                    [str(container[key]), [container[key]], -container[key], container[key] + 1]
                )
            case _:
                container[key] = random.choice(ODD_VALUES)
    return value


def _list_places(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield value, key
        yield from _list_places(item)


def damage_file(random: Random, file: Path) -> None:
    """Damage a text file, as JSON if it is JSON."""
    if file.suffix == ".json" and random.random() < 0.8:
        file.write_text(json.dumps(damage_json(random, json.loads(file.read_text()))))
    elif random.random() < 0.3:
        file.write_bytes(random.choice(ODD_TEXTS))
    else:
        file.write_bytes(damage_bytes(random, file.read_bytes()))


def damage_weights(random: Random, file: Path) -> None:
    """Damage the bytes, the header, or single tensors of a safetensors file."""
    content = file.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + size])
    if random.random() < 0.3:
        file.write_bytes(damage_bytes(random, content))
    elif random.random() < 0.5:
        changed = json.dumps(damage_json(random, header)).encode()
        file.write_bytes(struct.pack("<Q", len(changed)) + changed + content[8 + size :])
    else:
        tensors = load_file(file)
        name = random.choice(sorted(tensors))
        tensor = tensors.pop(name)
        forms: list[Callable[[], Any]] = [
            lambda: None,
            lambda: {f"{name}x": tensor},
            lambda: {name: tensor.to(random.choice([torch.int8, torch.bool, torch.float8_e4m3fn, torch.float64]))},
            lambda: {name: tensor.to(random.choice([torch.float16, torch.bfloat16]))},
            lambda: {name: torch.full_like(tensor, random.choice([float("nan"), float("inf"), 1e38]))},
            lambda: {name: tensor.reshape(-1)},
            lambda: {name: tensor[:0]},
            lambda: {name: torch.stack([tensor, tensor])},
        ]
        save_file({**tensors, **(random.choice(forms)() or {})}, file, metadata={"format": "pt"})


def try_config(random: Random, materials: Materials, folder: Path) -> None:
    """An adapter with a damaged PEFT config."""
    adapter = shutil.copytree(random.choice(materials.adapters), folder / "adapter")
    damage_file(random, adapter / CONFIG)
    _use_adapter(materials, adapter)


def try_weights(random: Random, materials: Materials, folder: Path) -> None:
    """An adapter with damaged weights."""
    adapter = shutil.copytree(random.choice(materials.adapters), folder / "adapter")
    damage_weights(random, adapter / WEIGHTS)
    _use_adapter(materials, adapter)


def try_texts(random: Random, materials: Materials, folder: Path) -> None:
    """An adapter with damaged texts: shown, packed, its recipe read, and put on its base."""
    adapter = shutil.copytree(random.choice(materials.adapters), folder / "adapter")
    for name in random.sample([RECIPE, PREPROCESSING, SCORES, CARD, CONFIG], random.choice([1, 1, 2])):
        damage_file(random, adapter / name)
    steps: list[Callable[[], object]] = [
        lambda: [line.encode() for line in format_summary(summarize_adapter(adapter))],
        lambda: pack_adapter(adapter, folder / "a.tar"),
        lambda: load_recipe(str(adapter / RECIPE)),
        lambda: _use_adapter(materials, adapter),
    ]
    refused = None
    for step in steps:  # each, whatever the others say
        try:
            step()
        except LoraMMError as error:
            refused = error
    if refused is not None:
        raise refused


def _use_adapter(materials: Materials, adapter: Path) -> None:
    model = load_adapter(replace(materials.base, model=copy.deepcopy(materials.base.model)), adapter)
    with torch.no_grad():
        model(**tiny.tiny_batch())


def try_packed(random: Random, materials: Materials, folder: Path) -> None:
    """A packed adapter with damaged bytes, or with members of any kind."""
    file = folder / "a.tar"
    file.write_bytes(
        damage_bytes(random, materials.packed) if random.random() < 0.5 else _repack(random, materials.packed)
    )
    try:
        unpack_adapter(file, folder / "out")
    finally:
        written = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
        allowed = {"a.tar", "out", *(f"out/{name}" for name in LIMITS)}
        assert written <= allowed, f"wrote {sorted(written - allowed)}"


def _repack(random: Random, packed: bytes) -> bytes:
    buffer = io.BytesIO()
    kinds = [getattr(tarfile, name) for name in dir(tarfile) if name.endswith("TYPE") or name.startswith("GNUTYPE_")]
    names = ["../x", "/x", "a/../../x", "x" * 300, "é", "\n", *LIMITS, *LIMITS]
    form = random.choice([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    with tarfile.open(fileobj=io.BytesIO(packed)) as old, tarfile.open(fileobj=buffer, mode="w", format=form) as new:
        members = [(member, old.extractfile(member).read()) for member in old]  # type: ignore[union-attr]
        for _ in range(random.choice([0, 1, 1, 2])):
            member = tarfile.TarInfo(random.choice(names))
            member.type = random.choice([kind for kind in kinds if isinstance(kind, bytes)])
            member.linkname = random.choice(["", "/etc/passwd", "../../x", "recipe.yaml"])
            member.pax_headers = random.choice(
                [{}, {"GNU.sparse.size": "9999999999"}, {"path": "../x"}, {"size": "-1"}]
            )
            members.insert(random.randrange(len(members) + 1), (member, b"x" * random.choice([0, 1, 600])))
        random.shuffle(members)
        for member, content in members[: random.choice([99, 99, len(members) - 1])]:
            member.size = random.choice([len(content)] * 20 + [0, 1, len(content) + 1, 2**33 - 1])
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    new.addfile(member, io.BytesIO(content.ljust(min(member.size, 2**20), b"\0")))
                except (ValueError, OSError, tarfile.TarError):
                    continue  # this format cannot write it, or a size that was only claimed
    return buffer.getvalue()


def try_picture(random: Random, materials: Materials, folder: Path) -> None:
    """A damaged or unusual picture: measured, opened, and prepared by the base's processor."""
    content = random.choice(materials.pictures)
    file = folder / random.choice(["a.jpg", "a.png", "a"])
    file.write_bytes(damage_bytes(random, content, head=400) if random.random() < 0.9 else content)
    read_size(file)
    picture = open_image(file)
    assert picture.mode == "RGB"
    materials.base.processor.image_processor(picture, return_tensors="pt")


def try_base(random: Random, materials: Materials, folder: Path) -> None:
    """A base with one damaged file: loaded, and run on a batch."""
    base = shutil.copytree(materials.base_folder, folder / "base")
    file = random.choice(sorted(base.iterdir()))
    if file.suffix == ".safetensors":
        damage_weights(random, file)
    else:
        damage_file(random, file)
    load_base(str(base))


KINDS: dict[str, Callable[[Random, Materials, Path], None]] = {
    "adapter config": try_config,
    "adapter weights": try_weights,
    "adapter texts": try_texts,
    "packed adapter": try_packed,
    "picture": try_picture,
    "base": try_base,
}
"""Kind → what is done with one input of it; it raises LoraMMError for an input that is refused."""


def fuzz(kind: str, numbers: range, materials: Materials, folder: Path) -> Count:
    """Try inputs of one kind.

    Args:
        kind: key of :data:`KINDS`.
        numbers: numbers of the inputs.
        materials: what is damaged.
        folder: an existing folder for the damaged files, which are deleted.
    """
    count = Count(0, 0, [])
    for number in numbers:
        with tempfile.TemporaryDirectory(dir=folder) as temporary, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                KINDS[kind](Random(f"{kind} {number}"), materials, Path(temporary))
                count.accepted += 1
            except LoraMMError as error:
                str(error).encode(errors="backslashreplace")
                count.refused += 1
            except Exception as error:
                place = traceback.extract_tb(error.__traceback__)[-1]
                where = f"{Path(place.filename).name}:{place.lineno}"
                count.faults.append(f"{kind} {number}: {type(error).__name__} at {where}: {str(error)[:150]!r}")
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=700, help="inputs of each kind")
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--append", action="store_true", help="write the table to benchmarks/results/fuzz.md")
    options = parser.parse_args()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        materials = make_materials(Path(temporary))
        (Path(temporary) / "inputs").mkdir()
        for kind in options.kinds:
            numbers = range(options.first, options.first + options.inputs)
            count = fuzz(kind, numbers, materials, Path(temporary) / "inputs")
            rows.append((kind, len(numbers), count.refused, count.accepted, len(count.faults)))
            for fault in count.faults:
                print(fault, file=sys.stderr, flush=True)
    text = table(("kind", "inputs", "refused", "accepted", "faults"), rows)
    if options.append:
        title = (
            f"Damaged files of strangers, inputs {options.first} to {options.first + options.inputs - 1} of each kind"
        )
        append("fuzz", title, "python -m benchmarks.fuzz_files " + shlex.join(sys.argv[1:]), text)
    else:
        print(text)


if __name__ == "__main__":
    main()
