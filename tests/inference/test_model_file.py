"""A model file loads bit-equal; any other file is refused in one sentence, runs no code and takes no memory.

`system/test_hostile.py` adds random damage, `test_checkpoint_file.py` does the same for checkpoints.
"""

import json
import math
import os
import pickle
import random
import struct
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save as serialize
from safetensors.torch import save_file

from hillstart.data.preprocessing import Preprocessing
from hillstart.engine.starts import Hyperparameters, Start
from hillstart.inference import model_file
from hillstart.inference.classifier import Classifier
from hillstart.inference.model_file import FORMAT
from hillstart.inference.voting import Calibration
from hillstart.network import Network
from hillstart.system.errors import InputError
from hillstart.system.untrusted import MAX_DESCRIPTION_BYTES
from stored import Bomb, assert_same, flipped, load, made, measured, refused, refused_or_sound, sentence, whole

ODD_NAMES = ("Löwe 🦁", "鴨", "two\nlines", "", " ", "'\"\\", "\x1b[2J", "\udcff", "../..", "null", "x" * 300)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A sound model file."""
    path = tmp_path / "m.safetensors"
    model_file.save(path, whole())
    return path


# ---------------------------------------------------------------- sound files


@pytest.mark.parametrize(
    "model",
    [
        whole(),
        made(),
        made(S=1, hidden=()),
        made(S=20, hidden=(4, 1, 7), activation="relu", cost="log_likelihood"),
        made(activation="tanh", cost="cross_entropy", classes=ODD_NAMES, versions={}, trained_on={}),
    ],
    ids=["whole", "plain", "one start, one layer", "deep", "odd names"],
)
def test_a_saved_model_loads_bit_equal(tmp_path: Path, model: Classifier) -> None:
    path, again = tmp_path / "löwe 鴨.safetensors", tmp_path / "again.safetensors"
    model_file.save(path, model)
    loaded = model_file.load(path)
    assert_same(loaded, model)
    model_file.save(again, loaded)
    assert again.read_bytes() == path.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([path.name, again.name])
    (tmp_path / "ordinary").touch()
    assert path.stat().st_mode == (tmp_path / "ordinary").stat().st_mode  # readable for whom other files are


def test_a_loaded_network_is_independent_of_its_file(path: Path) -> None:
    loaded, before = model_file.load(path), path.read_bytes()
    for p in model_file.load(path).network.parameters:
        p.zero_()
    assert path.read_bytes() == before
    with path.open("r+b") as file:  # overwritten, as cp does, and not replaced
        file.write(bytes(len(before)))
    assert_same(loaded, whole())


class Counted:
    """A file of safetensors that counts the numbers that are read from it."""

    def __init__(self, path: Path, framework: str):
        self.file = safe_open(path, framework)

    def __enter__(self) -> "Counted":
        self.file.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.file.__exit__(*error)

    def keys(self) -> Any:
        return self.file.keys()

    def get_slice(self, name: str) -> Any:
        part = self.file.get_slice(name)

        class Slice:
            get_shape, get_dtype = part.get_shape, part.get_dtype

            def __getitem__(self, rows: slice) -> torch.Tensor:
                found: torch.Tensor = part[rows]
                Counted.numbers += found.numel()
                return found

        return Slice()

    numbers = 0


@pytest.mark.parametrize("model", [whole(), made(S=7), made(S=20, hidden=(4, 1, 7)), made(S=1, hidden=())])
def test_one_start_is_read_without_the_others(
    model: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.safetensors"
    model_file.save(path, model)
    monkeypatch.setattr(model_file, "safe_open", Counted)
    of_one = sum(p[0].numel() for p in model.network.parameters)
    for seed in model.seeds:
        Counted.numbers = 0
        assert_same(model_file.load(path, seed), model.only(seed))
        assert Counted.numbers == of_one
    Counted.numbers = 0
    assert_same(model_file.load(path), model)
    assert Counted.numbers == of_one * model.network.starts
    with pytest.raises(InputError, match=f"start {max(model.seeds) + 1}: was not kept"):
        model_file.load(path, max(model.seeds) + 1)


@pytest.mark.parametrize("name", ["w1", "b2"])
@pytest.mark.parametrize("rest", [slice(1, None), slice(0, 0)])
def test_one_start_of_a_file_with_other_sizes_is_refused(path: Path, name: str, rest: slice) -> None:
    with safe_open(path, "pt") as file:
        metadata, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    tensors[name] = tensors[name][rest].contiguous()
    path.write_bytes(serialize(tensors, metadata))
    with pytest.raises(InputError, match=f"tensor {name} is not float32 of shape"):
        model_file.load(path, whole().seeds[0])


@pytest.mark.parametrize("half", [b"", b"half a file"])
def test_an_earlier_file_stays_when_writing_fails(path: Path, monkeypatch: pytest.MonkeyPatch, half: bytes) -> None:
    before = path.read_bytes()

    def full(self: Path, data: bytes) -> None:
        with self.open("wb") as file:
            file.write(half)
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match="No space left"):
            model_file.save(path, made())
    with pytest.raises(InputError, match="calibration"):  # `load` would refuse it
        model_file.save(path, made(calibration=Calibration(math.nan, (1.0,) * 3)))
    for classes in (("a", "a"), ("a",)):
        with pytest.raises(InputError, match="classes"):
            model_file.save(path, made(classes=classes))
    assert path.read_bytes() == before and [p.name for p in path.parent.iterdir()] == [path.name]


def test_no_pickle_is_loaded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in ((torch, "load"), (pickle, "load"), (pickle, "loads"), (pickle, "Unpickler")):
        monkeypatch.setattr(module, name, None)
    model_file.load(path)


@pytest.mark.slow
def test_a_large_sound_file_takes_little_more_than_its_size(tmp_path: Path) -> None:
    sizes, S = ([3 * 64**2, 20, 2], 64)
    network = Network([torch.zeros(S, m, n) for m, n in pairwise(sizes)], [torch.zeros(S, n) for n in sizes[1:]])
    origins = tuple(Start(s, Hyperparameters(0.1)) for s in range(S))
    path = tmp_path / "large.safetensors"
    model_file.save(path, Classifier(network, origins, ("a", "b"), Preprocessing(64, 3)))
    ((_, message, bytes_, _),) = measured(path)
    assert message is None
    assert bytes_ < 3.2 * path.stat().st_size  # mapped, copied, and w1 once more in the layout of `Network`


# ---------------------------------------------------------------- the description


def put(path: Path, header: Any, body: bytes, claimed: int | None = None) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if claimed is None else claimed) + text + body)


with tempfile.TemporaryDirectory() as _folder:
    model_file.save(Path(_folder, "m.safetensors"), whole())
    _DATA = Path(_folder, "m.safetensors").read_bytes()
_END = 8 + int.from_bytes(_DATA[:8], "little")
HEADER, BODY = json.loads(_DATA[8:_END]), _DATA[_END:]
ABOUT = json.loads(HEADER["__metadata__"]["hillstart"])


def describe(path: Path, description: Any) -> None:
    """A file that is sound but for its description."""
    text = description if isinstance(description, str) else json.dumps(description)
    put(path, HEADER | {"__metadata__": {"hillstart": text}}, BODY)


ODD = [None, True, 0, -1, 1.5, "", "x", [], [[]], [None], [True], {}, {"a": 1}, [{}], [-1], [1.0], ["x"]]
VALID = {"calibration": [None], "trained_on": [None, {}, {"a": 1}], "versions": [None, {}], "val_accuracies": [None]}
POINTS, TEMPERATURES = [[0.1, 0.9, 0.0]] * 2, {"vote": 1, "starts": [1, 1, 1]}
WRONG: dict[str, list[Any]] = {
    "format": [],
    "sizes": [[36], [36, 0, 3], [36, True, 3]],
    "activation": ["Sigmoid"],
    "cost": ["hinge", "once upon a time\n" * 10**5],
    "seeds": [[0, 1, -1]],
    "rolls": [[*POINTS, odd] for odd in ([0.1, 0.9], [0.1, 0.9, 0.0, 0.0], [0.1, 0.9, False])],
    "classes": [["a", "b", "a"], ["a", "b", 3], ["a"]],
    "preprocessing": [
        whole().preprocessing.as_dict() | edit
        for edit in (
            *({"size": 0}, {"size": 6.0}, {"size": 10**6}, {"channels": 2}, {"background": 256}, {"more": 1}),
            *({"mean": [0.1, 0.1]}, {"mean": 0.1}, {"std": [0.0]}, {"std": [1e-50]}, {"std": []}),
        )
    ],
    "calibration": [
        *(TEMPERATURES | edit for edit in ({"vote": 0}, {"vote": 1e-50}, {"starts": [1, 1, -1]}, {"starts": None})),
        *({"vote": 1}, {"starts": [1, 1, 1]}, TEMPERATURES | {"starts": [1, 1, "1"]}),
    ],
    "trained_on": [],
    "versions": [{"torch": 2}],
    "val_accuracies": [[0.5, 0.5, 1.1], [0.5, 0.5, "1"]],
}


@pytest.mark.parametrize("key", WRONG)
def test_a_wrong_or_missing_entry_is_named(path: Path, key: str) -> None:
    assert set(ABOUT) == set(WRONG)
    for value in [*ODD, *WRONG[key]]:
        describe(path, ABOUT | {key: value})
        if value in VALID.get(key, []):
            assert getattr(load(path), key) == value
        elif key == "val_accuracies" and repr(value) == "[1.0]":  # valid, but not one of each start
            assert "accuracies" in refused(path)
        else:
            assert refused(path).startswith(f"the entry {key} is not "), value
    describe(path, {k: v for k, v in ABOUT.items() if k != key})
    if key == "val_accuracies":  # which files of version 0.1 lack
        assert load(path).val_accuracies is None
    else:
        assert refused(path).startswith(f"the entry {key} is missing")


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        ({"seeds": [1, 2]}, "seeds"),
        ({"rolls": [[0.1, 0.9, 0.0]] * 4}, "rolls"),
        ({"calibration": {"vote": 1, "starts": [1]}}, "temperatures"),
        ({"val_accuracies": [0.5, 0.6]}, "accuracies"),
        ({"classes": ["a", "b"]}, "sizes"),
        ({"sizes": [36, 5, 4]}, "sizes"),
        ({"sizes": [35, 5, 3]}, "sizes"),
        ({"sizes": [36, 3]}, "layers"),
        ({"sizes": [36, *[1] * 10**5, 3]}, "layers"),
        ({"sizes": [36, 6, 3]}, "tensor w1"),
        ({"sizes": [36, 10**9, 3]}, "tensor w1"),
        ({"seeds": [1], "rolls": [[0.1, 0.9, 0.0]], "calibration": None, "val_accuracies": None}, "tensor w1"),
        ({"format": FORMAT + 1, "sizes": "of another type by then"}, "newer format"),
    ],
)
def test_entries_that_contradict_each_other(path: Path, edit: dict[str, Any], named: str) -> None:
    describe(path, ABOUT | edit)
    assert named in refused(path)


def test_entries_of_later_versions_are_ignored(path: Path) -> None:
    describe(path, ABOUT | {"more": [1, 2, 3]})
    assert_same(load(path), whole())


NOT_JSON = [
    *(("}", ""), ('"a"', '"\x01"'), ('"cost":', '"cost": "cross_entropy", "cost":'), ('"vote":', '"vote": 1, "vote":')),
    *(('"vote": 1.7', f'"vote": {number}') for number in ("NaN", "Infinity", "1e999", "9" * 4000)),
    *(('"files": 0', f'"files": {value}') for value in ("1e999", 2**64, "-" + "9" * 100_000)),
    *(('"files": 0', f'"files": {value}') for value in ("[" * 100_000 + "]" * 100_000, '{"a":' * 100_000)),
]


def test_a_description_that_is_not_strict_json(path: Path) -> None:
    text = json.dumps(ABOUT)
    for old, new in NOT_JSON:
        assert old in text
        describe(path, text.replace(old, new))
        assert "JSON" in refused(path), new[:40]
    for text in ("", "hello"):
        describe(path, text)
        assert "JSON" in refused(path)
    for text in ("[]", "1", "null", '"x"'):
        describe(path, text)
        assert "format" in refused(path)


# ---------------------------------------------------------------- files made to do harm


def headed(header: Any, claimed: int | None = None, body: bytes = BODY) -> Callable[[Path], None]:
    return lambda path: put(path, header, body, claimed)


def described(**edit: Any) -> Callable[[Path], None]:
    return lambda path: describe(path, ABOUT | edit)


def retyped(name: str, **edit: Any) -> Callable[[Path], None]:
    """A file that is sound but for the description of one tensor."""
    return headed(HEADER | {name: HEADER[name] | edit})


def without(name: str) -> dict[str, Any]:
    return {k: v for k, v in HEADER.items() if k != name}


def number_at(at: int, value: float) -> Callable[[Path], None]:
    """A file that is sound but for one number of a tensor."""
    return headed(HEADER, body=BODY[:at] + struct.pack("<f", value) + BODY[at + 4 :])


EMPTY = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}

# Text that the error message must hold, and the files that cause it.
HARMFUL: dict[str, dict[str, Callable[[Path], Any]]] = {
    "not a whole model file": {
        "empty": lambda path: path.touch(),
        "seven bytes": lambda path: path.write_bytes(b"\0" * 7),
        "text": lambda path: path.write_text("# My model\n" * 100),
        "picture": lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 5000),
        "pickle": lambda path: path.write_bytes(pickle.dumps(Bomb(path.with_name("ran")))),
        "zip": lambda path: torch.save({"w1": torch.zeros(9)}, path),
        "header of 2^60": headed(HEADER, 2**60),
        "header of 2^64": headed(HEADER, 2**64 - 1),
        "header past the end": headed(b"{}", len(BODY) + 3),
        "header larger than any": headed(b" " * (MAX_DESCRIPTION_BYTES + 1)),
        "header of another type": headed([HEADER]),
        "10^7 seeds": described(seeds=[0] * 10**7),
    },
    "JSON": {
        "no header": lambda path: path.write_bytes(b"\0" * 8),
        "header too short": headed(HEADER, 100),
        "header too long": headed(HEADER, len(json.dumps(HEADER)) + 1),
        "header not in utf-8": headed(b'{"\xff": 1}'),
        "header in utf-16": headed(json.dumps(HEADER).encode("utf-16")),
        "header of deep lists": headed(b"[" * 10**6),
        "a tensor twice": headed(json.dumps(HEADER).replace('"w1"', '"b1": {"dtype": "F32"}, "w1"').encode()),
    },
    "no networks of hillstart": {
        "of others": lambda path: save_file({"weight": torch.zeros(5)}, path, {"format": "pt"}),
        "metadata of another type": headed(HEADER | {"__metadata__": ["hillstart"]}),
        "description of another type": headed(HEADER | {"__metadata__": {"hillstart": {}}}),
        "no description": headed(without("__metadata__")),
    },
    "tensors do not match": {
        "a tensor missing": headed(without("b2")),
        "a tensor by another name": headed(without("w2") | {"w3": HEADER["w2"]}),
        "a tensor of 10^12": retyped("w1", shape=[10**6, 10**6, 1]),
        "a tensor of 10^12 that the file would hold": retyped("w1", shape=[10**12], data_offsets=[0, 4 * 10**12]),
        "a tensor of 2^80": retyped("w1", shape=[2**40, 2**40]),
        "a tensor of negative size": retyped("w1", shape=[-3, -36, 5]),
        "a tensor past the end": retyped("w2", data_offsets=[len(BODY), len(BODY) + 180]),
        "a tensor over another": retyped("w2", data_offsets=HEADER["w1"]["data_offsets"]),
        "a shape of another type": retyped("w1", shape="36"),
        "an unknown dtype": retyped("w1", dtype="F\n33"),
        "more behind": headed(HEADER, body=BODY + b"\0"),
    },
    "tensor w1": {
        "integers": retyped("w1", dtype="I32"),
        "float64": retyped("w1", dtype="F64", shape=[3, 18, 5]),
        "float16": retyped("w1", dtype="F16", shape=[3, 36, 10]),
        "float4": retyped("w1", dtype="F4", shape=[3, 36, 40]),
        "transposed": retyped("w1", shape=[3, 5, 36]),
        "flat": retyped("w1", shape=[3 * 36 * 5]),
    },
    "layers": {
        "a tensor too many": headed(HEADER | {"w3": EMPTY}),
        "10^4 tensors": headed(HEADER | {str(k): EMPTY for k in range(10**4)}),
    },
    "not a finite number": {
        "nan": number_at(len(BODY) // 8 * 4, math.nan),
        "inf": number_at(len(BODY) // 8 * 4, -math.inf),
        "nan at the end": number_at(len(BODY) - 4, math.nan),
    },
    "seeds": {"10^5 seeds": described(seeds=[0] * 10**5)},
    "sizes": {"10^5 classes": described(classes=list(map(str, range(10**5))))},
}
FILES = {f"{name}.safetensors": (write, named) for named, of in HARMFUL.items() for name, write in of.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("harmful")
    for name, (write, _) in FILES.items():
        write(folder / name)
    return folder


@pytest.mark.parametrize("name", FILES)
def test_a_harmful_file_is_refused(folder: Path, name: str) -> None:
    assert FILES[name][1] in refused(folder / name)
    assert not (folder / "ran").exists()


@pytest.mark.slow
def test_a_harmful_file_takes_no_memory(folder: Path) -> None:
    for path, message, bytes_, _ in measured(*(folder / name for name in FILES)):
        assert message is not None and FILES[path.name][1] in sentence(path, message)
        assert bytes_ < 20 * path.stat().st_size + (8 << 20), path.name  # JSON grows as it becomes objects


# ---------------------------------------------------------------- no regular file, or a damaged one


@pytest.mark.parametrize("name", ["m.safetensors", "last.ckpt"])
def test_only_a_readable_regular_file_is_opened(tmp_path: Path, name: str) -> None:
    path, odd = tmp_path / name, tmp_path / f"l\udcf6we.{name}"
    assert "no such file" in refused(path)
    path.symlink_to(tmp_path / "nowhere")
    assert "no such file" in refused(path)
    path.unlink()
    path.mkdir()
    assert "is a folder" in refused(path)
    path.rmdir()
    os.mkfifo(path)  # opening it would wait for a writer
    assert "is a pipe" in refused(path)
    path.unlink()
    odd.touch()
    with pytest.raises(InputError, match="not UTF-8"):
        load(odd)
    path.touch(mode=0)
    user = os.geteuid()
    try:
        if user == 0:  # root may read everything
            os.seteuid(65534)
        assert "Permission denied" in refused(path)
    finally:
        os.seteuid(user)


def test_a_model_file_cut_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    model = Classifier(Network.start([1, 2], [0]), (Start(0, Hyperparameters(0.1)),), ("a", "b"), Preprocessing(1, 1))
    model_file.save(path, model)
    data = path.read_bytes()
    for length in [*range(0, len(data) - 20, 7), *range(len(data) - 20, len(data))]:
        path.write_bytes(data[:length])
        assert refused(path), length


def test_a_damaged_model_file_is_refused_or_sound(path: Path) -> None:
    rng, data = random.Random(0), path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    loaded = 0
    for k in range(120):
        path.write_bytes(flipped(data, 0, end if k % 4 else len(data), rng))
        loaded += refused_or_sound(path) is not None
    assert 0 < loaded < 60  # a class may have another name, a start another seed
