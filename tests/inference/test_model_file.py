"""What is saved comes back to the bit; whatever else a file holds ends in one sentence, and runs and takes nothing.

Files that lie are made in three ways: the JSON of a sound model file edited, a sound file's bytes damaged, and zips and
pickles put together by hand, since torch.save would not write them.
"""

import json
import math
import os
import pickle
import random
import struct
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from safetensors.torch import save_file

from hillstart.data.preprocessing import Preprocessing
from hillstart.engine.starts import DIVERGED, VOTERS, Hyperparameters, Start
from hillstart.inference import model_file
from hillstart.inference.classifier import Classifier
from hillstart.inference.model_file import FORMAT
from hillstart.inference.voting import Calibration
from hillstart.network import Network
from hillstart.system.errors import InputError
from hillstart.system.untrusted import MAX_DESCRIPTION_BYTES
from hillstart.training.module import Training
from hillstart.training.stopping import EarlyStopping
from made import trainer, training

ODD_NAMES = ("Löwe 🦁", "鴨", "two\nlines", "", " ", "'\"\\", "\x1b[2J", "\udcff", "../..", "null", "x" * 300)


def made(
    S: int = 3, hidden: tuple[int, ...] = (5,), classes: tuple[str, ...] = ("a", "b", "c"), **more: Any
) -> Classifier:
    how = {"activation": more.pop("activation", "sigmoid"), "cost": more.pop("cost", "quadratic")}
    network = Network.start([36, *hidden, len(classes)], range(S), **how)
    origins = tuple(Start(10**9 + s, Hyperparameters(0.1 * (s + 1), 0.9, 1e-4)) for s in range(S))
    return Classifier(network, origins, classes, Preprocessing(6, 1, 7, (0.1,), (0.7,)), **more)


def whole() -> Classifier:
    """With all that a model may have."""
    on = {"pictures": 103, "files": 0, "sha256": None}
    return made(calibration=Calibration(1.7, (1.1, 0.5, 2.0)), trained_on=on, versions={"torch": "2.14.1"})


def assert_same(one: Classifier, other: Classifier) -> None:
    for name in ("origins", "classes", "preprocessing", "calibration", "trained_on", "versions"):
        assert getattr(one, name) == getattr(other, name), name
    assert (one.network.activation, one.network.cost) == (other.network.activation, other.network.cost)
    for p, q in zip(one.network.parameters, other.network.parameters, strict=True):
        assert p.dtype == q.dtype and torch.equal(p, q)
    assert one.network.w[0].transpose(0, 1).is_contiguous()  # what `Network` multiplies as one wide matrix
    assert all(t.is_contiguous() for t in one.network.parameters[1:])


# ---------------------------------------------------------------- files that are sound


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
def test_what_is_saved_comes_back_to_the_bit(tmp_path: Path, model: Classifier) -> None:
    path = tmp_path / "löwe 鴨.safetensors"
    model_file.save(path, model)
    loaded = model_file.load(path)
    assert_same(loaded, model)
    again = tmp_path / "again.safetensors"
    model_file.save(again, loaded)
    assert again.read_bytes() == path.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([path.name, again.name])


def test_a_loaded_network_computes_and_is_ones_own(tmp_path: Path) -> None:
    path, model, x = tmp_path / "m.safetensors", whole(), torch.rand(4, 36)
    model_file.save(path, model)
    loaded, before = model_file.load(path), path.read_bytes()
    for p in model_file.load(path).network.parameters:
        p.zero_()
    assert path.read_bytes() == before
    with path.open("r+b") as file:  # written over, as cp does, and not replaced
        file.write(bytes(len(before)))
    assert torch.equal(loaded.network.forward(x)[-1], model.network.forward(x)[-1])
    assert_same(loaded, model)


def test_a_model_file_may_be_read_by_whom_other_files_may(tmp_path: Path) -> None:
    (tmp_path / "ordinary").touch()
    model_file.save(tmp_path / "m.safetensors", made())
    assert (tmp_path / "m.safetensors").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


@pytest.mark.parametrize("half", [b"", b"half a file"])
def test_what_was_there_stays_when_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, half: bytes) -> None:
    path = tmp_path / "m.safetensors"
    model_file.save(path, whole())
    before = path.read_bytes()

    def full(tensors: object, file: Path, metadata: object) -> None:
        file.write_bytes(half)
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(model_file, "save_file", full)
        with pytest.raises(OSError, match="No space left"):
            model_file.save(path, made())
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == [path.name]
    with pytest.raises(InputError, match="calibration"):  # no file rather than one that cannot be loaded
        model_file.save(path, made(calibration=Calibration(math.nan, (1.0,) * 3)))
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == [path.name]


def test_loading_knows_no_pickle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model_file.save(tmp_path / "m.safetensors", whole())

    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("a pickle was read")

    for module, name in ((torch, "load"), (pickle, "load"), (pickle, "loads"), (pickle, "Unpickler")):
        monkeypatch.setattr(module, name, never)
    model_file.load(tmp_path / "m.safetensors")


def trained(folder: Path, **how: Any) -> tuple[Path, Training]:
    of = training(**how)
    trainer(folder).fit(of)
    return folder / "checkpoints/last.ckpt", of


@pytest.fixture(scope="module")
def last(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Training]:
    """A checkpoint of three starts."""
    return trained(tmp_path_factory.mktemp("run"))


# ---------------------------------------------------------------- one sentence


def refused(path: Path) -> str:
    """What is said of a file that cannot be loaded, after its name."""
    with pytest.raises(InputError) as error:
        (model_file.load_checkpoint if path.suffix == ".ckpt" else model_file.load)(path)
    return sentence(path, str(error.value))


def sentence(path: Path, message: str) -> str:
    assert message.startswith(str(path))
    said = message.removeprefix(str(path)).removeprefix(":").strip()
    assert said.isprintable() and len(said) < 160, said
    assert said.endswith(".") and ". " not in said and said.count("; ") == 1, said
    return said


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A sound model file."""
    path = tmp_path / "m.safetensors"
    model_file.save(path, whole())
    return path


def parts(path: Path) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    """The header of a model file, the description in it, and the bytes of the tensors."""
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    return header, json.loads(header["__metadata__"]["hillstart"]), data[end:]


def put(path: Path, header: Any, body: bytes, claimed: int | None = None) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if claimed is None else claimed) + text + body)


def describe(path: Path, text: str) -> None:
    """Another description in place of the one that is there."""
    header, _, body = parts(path)
    put(path, header | {"__metadata__": {"hillstart": text}}, body)


KEYS = (
    *("format", "sizes", "activation", "cost", "seeds", "rolls", "classes", "preprocessing"),
    *("calibration", "trained_on", "versions"),
)


@pytest.mark.parametrize("key", KEYS)
def test_a_missing_entry_is_named(path: Path, key: str) -> None:
    _, about, _ = parts(path)
    assert set(about) == set(KEYS)
    describe(path, json.dumps({k: v for k, v in about.items() if k != key}))
    assert refused(path) == f"the entry {key} is missing; give a file as a run wrote it."


ODD = [None, True, 0, -1, 1.5, "", "x", [], [[]], [None], [True], {}, {"a": 1}, [{}], [-1], [1.0], ["x"]]
SOUND: dict[str, list[Any]] = {"calibration": [None], "trained_on": [None, {}, {"a": 1}], "versions": [None, {}]}


@pytest.mark.parametrize("value", ODD, ids=repr)
@pytest.mark.parametrize("key", KEYS)
def test_an_entry_of_another_kind_is_named(path: Path, key: str, value: Any) -> None:
    _, about, _ = parts(path)
    describe(path, json.dumps(about | {key: value}))
    if any(type(value) is type(sound) and value == sound for sound in SOUND.get(key, [])):
        assert getattr(model_file.load(path), key) == value
    else:
        assert refused(path).startswith(f"the entry {key} is not ")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format", 2**64),
        ("format", 10**4000),
        ("sizes", [36]),
        ("sizes", [36, 0, 3]),
        ("sizes", [36, True, 3]),
        ("sizes", [36, 10**30, 3]),
        ("activation", "Sigmoid"),
        ("cost", "hinge"),
        ("seeds", [0, 1, -1]),
        ("seeds", [0, 1, 2**64]),
        ("rolls", [[0.1, 0.9, 0.0]] * 2 + [[0.1, 0.9]]),
        ("rolls", [[0.1, 0.9, 0.0]] * 2 + [[0.1, 0.9, 0.0, 0.0]]),
        ("rolls", [[0.1, 0.9, 0.0]] * 2 + [[0.1, 0.9, False]]),
        ("rolls", [[0.1, 0.9, 0.0]] * 2 + [[0.1, 0.9, 10**400]]),
        ("classes", ["a", "b", "a"]),
        ("classes", ["a", "b", 3]),
        ("classes", ["a"]),
        ("preprocessing", {"size": 0}),
        ("preprocessing", {"size": 6.0}),
        ("preprocessing", {"size": 10**30}),
        ("preprocessing", {"channels": 2}),
        ("preprocessing", {"background": 256}),
        ("preprocessing", {"mean": [0.1, 0.1]}),
        ("preprocessing", {"mean": [10**400]}),
        ("preprocessing", {"mean": 0.1}),
        ("preprocessing", {"std": [0.0]}),
        ("preprocessing", {"std": [1e-50]}),
        ("preprocessing", {"std": []}),
        ("preprocessing", {"more": 1}),
        ("calibration", {"vote": 0, "starts": [1, 1, 1]}),
        ("calibration", {"vote": 1e-50, "starts": [1, 1, 1]}),
        ("calibration", {"vote": 1, "starts": [1, 1, -1]}),
        ("calibration", {"vote": 1, "starts": [1, 1, "1"]}),
        ("calibration", {"vote": 1, "starts": [1, 1, 10**400]}),
        ("calibration", {"vote": 1, "starts": None}),
        ("calibration", {"starts": [1, 1, 1]}),
        ("calibration", {"vote": 1}),
        ("versions", {"torch": 2}),
    ],
)
def test_an_entry_out_of_its_range_is_named(path: Path, key: str, value: Any) -> None:
    _, about, _ = parts(path)
    describe(path, json.dumps(about | {key: about[key] | value if key == "preprocessing" else value}))
    said = refused(path)
    too_long = any(digits in json.dumps(value) for digits in ("0" * 30, str(2**64)))
    assert said.startswith(f"the entry {key} is not ") or (
        too_long and said.startswith("its description is not sound JSON")
    )


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ({"seeds": [1, 2]}, "its seeds, rolls and temperatures are not of the same starts"),
        ({"rolls": [[0.1, 0.9, 0.0]] * 4}, "its seeds, rolls and temperatures are not of the same starts"),
        ({"calibration": {"vote": 1, "starts": [1]}}, "its seeds, rolls and temperatures are not of the same starts"),
        ({"sizes": [36, 5, 4]}, "its sizes do not match its pictures and classes"),
        ({"sizes": [35, 5, 3]}, "its sizes do not match its pictures and classes"),
        ({"sizes": [36, 3]}, "it does not hold two tensors for each of its layers"),
        ({"sizes": [36, 6, 3]}, "tensor w1 is not float32 of shape [3, 36, 6]"),
        ({"sizes": [36, 10**9, 3]}, "tensor w1 is not float32 of shape [3, 36, 1000000000]"),
        ({"classes": ["a", "b"]}, "its sizes do not match its pictures and classes"),
        (
            {"seeds": [1], "rolls": [[0.1, 0.9, 0.0]], "calibration": None},
            "tensor w1 is not float32 of shape [1, 36, 5]",
        ),
        ({"format": FORMAT + 1}, f"has a newer format than {FORMAT}"),
        ({"format": FORMAT + 1, "sizes": "of another kind by then"}, f"has a newer format than {FORMAT}"),
    ],
)  # fmt: skip
def test_entries_that_do_not_go_together(path: Path, edit: dict[str, Any], said: str) -> None:
    _, about, _ = parts(path)
    describe(path, json.dumps(about | edit))
    assert refused(path).startswith(said)


def test_later_entries_are_passed_over(path: Path) -> None:
    _, about, _ = parts(path)
    describe(path, json.dumps(about | {"more": [1, 2, 3]}))
    assert_same(model_file.load(path), whole())


NOT_JSON = {
    "empty": lambda text: "",
    "cut": lambda text: text[:-1],
    "words": lambda text: "hello",
    "nan": lambda text: text.replace('"vote": 1.7', '"vote": NaN'),
    "infinity": lambda text: text.replace('"vote": 1.7', '"vote": Infinity'),
    "minus infinity": lambda text: text.replace('"mean": [0.1]', '"mean": [-Infinity]'),
    "1e999": lambda text: text.replace('"vote": 1.7', '"vote": 1e999'),
    "1e999 that nobody asks for": lambda text: text.replace('"files": 0', '"files": 1e999'),
    "many digits": lambda text: text.replace('"files": 0', '"files": ' + "9" * 4000),
    "too many digits": lambda text: text.replace('"files": 0', '"files": -' + "9" * 100_000),
    "twice": lambda text: text.replace('"cost":', '"cost": "cross_entropy", "cost":'),
    "twice within": lambda text: text.replace('"vote":', '"vote": 1, "vote":'),
    "deep lists": lambda text: text.replace('"files": 0', '"files": ' + "[" * 100_000 + "]" * 100_000),
    "deep names": lambda text: text.replace('"files": 0', '"files": ' + '{"a":' * 100_000 + "0" + "}" * 100_000),
    "control character": lambda text: text.replace('"a"', '"\x01"'),
}


@pytest.mark.parametrize("how", NOT_JSON)
def test_a_description_that_is_not_sound_json(path: Path, how: str) -> None:
    text = parts(path)[0]["__metadata__"]["hillstart"]
    assert NOT_JSON[how](text) != text
    describe(path, NOT_JSON[how](text))
    assert refused(path) == "its description is not sound JSON; give a file as a run wrote it."


@pytest.mark.parametrize("text", ["[]", "1", "null", '"x"', "[[1, 2]]"])
def test_a_description_of_another_kind(path: Path, text: str) -> None:
    describe(path, text)
    assert refused(path) == "the entry format is missing; give a file as a run wrote it."


# ---------------------------------------------------------------- whole files that lie


def described(**edit: Any) -> dict[str, str]:
    """The metadata of a sound file, edited."""
    about = json.loads(SOUND_HEADER["__metadata__"]["hillstart"])
    return {"hillstart": json.dumps(about | edit)}


def headed(header: Any, claimed: int | None = None, body: bytes | None = None) -> Callable[[Path], None]:
    return lambda path: put(path, header, SOUND_BODY if body is None else body, claimed)


def retyped(name: str, **edit: Any) -> dict[str, Any]:
    """A sound header, but for what it says of a tensor."""
    return SOUND_HEADER | {name: SOUND_HEADER[name] | edit}


def weights(value: float) -> bytes:
    """Sound tensors, but for one number in the midst of them."""
    middle = len(SOUND_BODY) // 8 * 4
    return SOUND_BODY[:middle] + struct.pack("<f", value) + SOUND_BODY[middle + 4 :]


def saved_by_others(path: Path) -> None:
    save_file({"weight": torch.zeros(5)}, path, {"format": "pt"})


def filled(path: Path) -> None:
    """Of ten million seeds, as many as are said to be there."""
    put(path, SOUND_HEADER | {"__metadata__": described(seeds=[0] * 10**7)}, SOUND_BODY)


class Bomb:
    """What runs a command when it is unpickled."""

    def __init__(self, fuse: Path):
        self.fuse = fuse

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.fuse),)


def sound() -> tuple[dict[str, Any], bytes]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.safetensors"
        model_file.save(path, whole())
        header, _, body = parts(path)
    return header, body


SOUND_HEADER, SOUND_BODY = sound()
NOT_WHOLE = "is not a whole model file; give one that a run wrote."
NOT_TRUE = "its tensors do not match its description; give a file as a run wrote it."
NOT_JSON_AT_ALL = "its description is not sound JSON; give a file as a run wrote it."
NOT_OURS = "holds tensors, but no networks of hillstart; give a file that a run wrote."
W1 = "tensor w1 is not float32 of shape [3, 36, 5]; give a file as a run wrote it."
NOT_FINITE = "a weight or bias is not a finite number; give a file as a run wrote it."

MODEL_FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "empty": (lambda path: path.touch(), NOT_WHOLE),
    "seven bytes": (lambda path: path.write_bytes(b"\0" * 7), NOT_WHOLE),
    "no header": (lambda path: path.write_bytes(b"\0" * 8), NOT_JSON_AT_ALL),
    "text": (lambda path: path.write_text("# My model\n" * 100), NOT_WHOLE),
    "picture": (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 5000), NOT_WHOLE),
    "pickle": (lambda path: path.write_bytes(pickle.dumps(Bomb(path.with_name("ran")))), NOT_WHOLE),
    "zip": (lambda path: torch.save({"w1": torch.zeros(9)}, path), NOT_WHOLE),
    "of others": (saved_by_others, NOT_OURS),
    "header of 2^60": (headed(SOUND_HEADER, 2**60), NOT_WHOLE),
    "header of 2^64": (headed(SOUND_HEADER, 2**64 - 1), NOT_WHOLE),
    "header past the end": (headed(b"{}", len(SOUND_BODY) + 3), NOT_WHOLE),
    "header too short": (headed(SOUND_HEADER, 100), NOT_JSON_AT_ALL),
    "header too long": (headed(SOUND_HEADER, len(json.dumps(SOUND_HEADER)) + 1), NOT_JSON_AT_ALL),
    "header larger than any": (headed(b" " * (MAX_DESCRIPTION_BYTES + 1)), NOT_WHOLE),
    "header of another kind": (headed([SOUND_HEADER]), NOT_WHOLE),
    "header not in utf-8": (headed(b'{"\xff": 1}'), NOT_JSON_AT_ALL),
    "header in utf-16": (headed(json.dumps(SOUND_HEADER).encode("utf-16")), NOT_JSON_AT_ALL),
    "header of deep lists": (headed(b"[" * 10**6), NOT_JSON_AT_ALL),
    "header with a tensor twice": (
        headed(json.dumps(SOUND_HEADER).replace('"w1"', '"b1": {"dtype": "F32"}, "w1"').encode()),
        NOT_JSON_AT_ALL,
    ),
    "metadata of another kind": (headed(SOUND_HEADER | {"__metadata__": ["hillstart"]}), NOT_OURS),
    "description of another kind": (headed(SOUND_HEADER | {"__metadata__": {"hillstart": {}}}), NOT_OURS),
    "no description": (headed({k: v for k, v in SOUND_HEADER.items() if k != "__metadata__"}), NOT_OURS),
    "a tensor left out": (headed({k: v for k, v in SOUND_HEADER.items() if k != "b2"}), NOT_TRUE),
    "a tensor too many": (
        headed(SOUND_HEADER | {"w3": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}),
        "it does not hold two tensors for each of its layers; give a file as a run wrote it.",
    ),
    "a tensor by another name": (
        headed({{"w2": "w3"}.get(name, name): of for name, of in SOUND_HEADER.items()}), NOT_TRUE
    ),
    "a tensor of 10^12": (headed(retyped("w1", shape=[10**6, 10**6, 1])), NOT_TRUE),
    "a tensor of 10^12 that the file would hold": (
        headed(retyped("w1", shape=[10**12], data_offsets=[0, 4 * 10**12])), NOT_TRUE
    ),
    "a tensor of 2^80": (headed(retyped("w1", shape=[2**40, 2**40])), NOT_TRUE),
    "a tensor of less than nothing": (headed(retyped("w1", shape=[-3, -36, 5])), NOT_TRUE),
    "a tensor past the end": (headed(retyped("w2", data_offsets=[len(SOUND_BODY), len(SOUND_BODY) + 180])), NOT_TRUE),
    "a tensor over another": (headed(retyped("w2", data_offsets=SOUND_HEADER["w1"]["data_offsets"])), NOT_TRUE),
    "a shape of another kind": (headed(retyped("w1", shape="36")), NOT_TRUE),
    "a type of no kind": (headed(retyped("w1", dtype="F\n33")), NOT_TRUE),
    "whole numbers": (headed(retyped("w1", dtype="I32")), W1),
    "double numbers": (headed(retyped("w1", dtype="F64", shape=[3, 18, 5])), W1),
    "half numbers": (headed(retyped("w1", dtype="F16", shape=[3, 36, 10])), W1),
    "quarter bytes": (headed(retyped("w1", dtype="F4", shape=[3, 36, 40])), W1),
    "turned": (headed(retyped("w1", shape=[3, 5, 36])), W1),
    "flat": (headed(retyped("w1", shape=[3 * 36 * 5])), W1),
    "more behind": (headed(SOUND_HEADER, body=SOUND_BODY + b"\0"), NOT_TRUE),
    "nan": (headed(SOUND_HEADER, body=weights(math.nan)), NOT_FINITE),
    "inf": (headed(SOUND_HEADER, body=weights(-math.inf)), NOT_FINITE),
    "nan at the end": (headed(SOUND_HEADER, body=SOUND_BODY[:-4] + struct.pack("<f", math.nan)), NOT_FINITE),
    "10^9 nodes": (
        headed(SOUND_HEADER | {"__metadata__": described(sizes=[36, 10**9, 3])}),
        "tensor w1 is not float32 of shape [3, 36, 1000000000]; give a file as a run wrote it.",
    ),
    "10^5 layers": (
        headed(SOUND_HEADER | {"__metadata__": described(sizes=[36, *[1] * 10**5, 3])}),
        "it does not hold two tensors for each of its layers; give a file as a run wrote it.",
    ),
    "10^5 seeds": (
        headed(SOUND_HEADER | {"__metadata__": described(seeds=[0] * 10**5)}),
        "its seeds, rolls and temperatures are not of the same starts; give a file as a run wrote it.",
    ),
    "10^7 seeds": (filled, NOT_WHOLE),
    "10^5 classes": (
        headed(SOUND_HEADER | {"__metadata__": described(classes=list(map(str, range(10**5))))}),
        "its sizes do not match its pictures and classes; give a file as a run wrote it.",
    ),
    "10^4 tensors": (
        headed(SOUND_HEADER | {str(k): {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for k in range(10**4)}),
        "it does not hold two tensors for each of its layers; give a file as a run wrote it.",
    ),
    "a novel": (
        headed(SOUND_HEADER | {"__metadata__": described(cost="once upon a time\n" * 10**5)}),
        "the entry cost is not one of quadratic, cross_entropy, log_likelihood; give a file as a run wrote it.",
    ),
}  # fmt: skip


# ---------------------------------------------------------------- zips and pickles by hand

# What a bomb unpacks to, in a file that is many times smaller.
LARGE = 100_000_000


def whole_number(n: int) -> bytes:
    digits = n.to_bytes(n.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(digits)]) + digits


def words(given: str) -> bytes:
    return b"X" + struct.pack("<I", len(given)) + given.encode()


def global_name(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def together(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def called(function: bytes, *arguments: bytes) -> bytes:
    return function + together(*arguments) + b"R"


def tensor(key: str, stored: int, shape: Iterable[int], strides: Iterable[int]) -> bytes:
    """As torch pickles one, so many of whose numbers are said to be stored under the key."""
    storage = (
        together(words("storage"), global_name("torch", "FloatStorage"), words(key), words("cpu"), whole_number(stored))
        + b"Q"
    )
    hooks = called(global_name("collections", "OrderedDict"))
    of = (whole_number(0), together(*map(whole_number, shape)), together(*map(whole_number, strides)), b"\x89", hooks)
    return called(global_name("torch._utils", "_rebuild_tensor_v2"), storage, *of)


def pickled(*items: bytes) -> bytes:
    """A checkpoint whose state holds these items."""
    state = b"}(" + b"".join(words(str(k)) + item for k, item in enumerate(items)) + b"u"
    return b"\x80\x02}(" + words("hillstart") + b"}" + words("state_dict") + state + b"u."


def record(name: str, data: bytes, method: int, at: int, comment: int = 0) -> tuple[bytes, bytes]:
    """An entry of a zip, and what its directory says of it."""
    packed = data
    if method == zipfile.ZIP_DEFLATED:
        deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
        packed = deflate.compress(data) + deflate.flush()
    of = struct.pack("<5H3L", 20, 0, method, 0, 0, zlib.crc32(data), len(packed), len(data))
    local = b"PK\3\4" + of + struct.pack("<2H", len(name.encode()), 0) + name.encode() + packed
    listed = b"PK\1\2" + struct.pack("<H", 20) + of + struct.pack("<5H2L", len(name.encode()), 0, comment, 0, 0, 0, at)
    return local, listed + name.encode() + bytes(comment)


def ended(start: int, length: int, count: int, at: int) -> bytes:
    """The end of a zip as torch writes it, which itself lies at `at`."""
    large = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, length, start)
    where = struct.pack("<4sLQL", b"PK\6\7", 0, at, 1)
    return large + where + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, length, start, 0)


def zipped(path: Path, entries: dict[str, bytes], packed: Iterable[str] = ()) -> None:
    """A zip as torch writes it, some entries of it packed."""
    body = directory = b""
    for name, data in entries.items():
        method = zipfile.ZIP_DEFLATED if name in packed else zipfile.ZIP_STORED
        local, listed = record(name, data, method, len(body))
        body, directory = body + local, directory + listed
    path.write_bytes(body + directory + ended(len(body), len(directory), len(entries), len(body) + len(directory)))


def torch_file(*items: bytes, whole: bytes | None = None) -> dict[str, bytes]:
    """Entries of a checkpoint that holds these items and one storage of 45 numbers."""
    return {
        "archive/data.pkl": pickled(*items) if whole is None else whole,
        "archive/byteorder": b"little",
        "archive/data/0": bytes(4 * 45),
        "archive/version": b"3\n",
    }


def of_two_minds(path: Path, form: str) -> None:
    """Two directories: the one right before the end names harmless entries, the one that the end points to a bomb.

    Args:
        form: of the end: `short`, `long` as torch writes it, or `posing` as if it were so, with a wrong sign.
    """
    harmless, packed_bomb = torch_file(), torch_file(whole=b"\x80\x02" + words("a" * LARGE) + b".")
    comment = 76 if form == "posing" else 0
    length = sum(46 + len(name) for name in harmless) + comment
    body, directories = b"", [b"", b""]
    for which, entries in enumerate((packed_bomb, harmless)):
        body += bytes(1000)
        for name, data in entries.items():
            # zipfile takes what lies between the two for something put before the zip, and moves all places by it.
            at, last = len(body) - which * length, list(entries)[-1]
            method = zipfile.ZIP_STORED if which else zipfile.ZIP_DEFLATED
            local, listed = record(name, data, method, at, comment if name == last else 0)
            body, directories[which] = body + local, directories[which] + listed
    body = b"PK\3\4" + body[4:]  # how torch knows a zip
    count, end = len(harmless), len(body) + 2 * length
    if form == "posing":
        posing = ended(len(body) + length, length - 76, count, end - 76)[:76].replace(b"PK\6\7", b"PK\6\0")
        directories[1] = directories[1][:-76] + posing
    tail = ended(len(body), length, count, end)
    path.write_bytes(body + directories[0] + directories[1] + (tail if form == "long" else tail[76:]))


def within_each_other(path: Path) -> None:
    """Entries that hold one another: each takes its time to be read, and no room."""
    local = b""
    for k in range(50):
        local, _ = record(f"archive/data/{k}", local, zipfile.ZIP_STORED, 0)
    inner, directory, base = local, b"", {"archive/data.pkl": pickled(), "archive/version": b"3\n"}
    body = b""
    for name, data in base.items():
        entry, listed = record(name, data, zipfile.ZIP_STORED, len(body))
        body, directory = body + entry, directory + listed
    place = len(body)
    for k in reversed(range(50)):
        head = 30 + len(f"archive/data/{k}")
        _, listed = record(f"archive/data/{k}", inner[head:], zipfile.ZIP_STORED, place)
        inner, place, directory = inner[head:], place + head, directory + listed
    body += local
    path.write_bytes(body + directory + ended(len(body), len(directory), 52, len(body) + len(directory)))


def by_another_name(path: Path) -> None:
    """torch takes names for the same that differ in upper and lower case, and finds the first of them."""
    zipped(path, {"archive/DATA.PKL": BIG} | torch_file())


def by_a_name_that_ends_early(path: Path) -> None:
    """zipfile takes a name to end at a zero, and finds the last of two."""
    zipped(path, torch_file(whole=BIG) | {"archive/data.pkl\0": pickled()})


def other_project(path: Path) -> None:
    torch.save({"state_dict": {"layer.weight": torch.zeros(3)}, "hyper_parameters": {"lr": 0.1}, "epoch": 3}, path)


# It asks for so many bytes at once.
BIG = b"\x80\x02" + called(global_name("builtins", "bytearray"), whole_number(LARGE)) + b"."

BROKEN = "is not a whole checkpoint; give one that a run wrote."
OF_OTHERS = "is a checkpoint, but not from hillstart; give one that a run wrote."


def asks_for(module: str, name: str) -> str:
    return f"asks for '{module} {name}', as no checkpoint does; give one that a run wrote."


def calling(module: str, name: str, *arguments: bytes) -> tuple[Callable[[Path], None], str]:
    return lambda path: zipped(path, torch_file(called(global_name(module, name), *arguments))), asks_for(module, name)


DOUBLED = called(global_name("_codecs", "encode"), words("a" * 1000), words("utf-8"))
for _ in range(16):
    DOUBLED = called(global_name("_codecs", "encode"), DOUBLED, words("hex_codec"))

CHECKPOINTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "empty": (lambda path: path.touch(), BROKEN),
    "text": (lambda path: path.write_text("# My model\n" * 100), BROKEN),
    "model file": (lambda path: model_file.save(path, whole()), BROKEN),
    "pickle": (lambda path: path.write_bytes(pickle.dumps(Bomb(path.with_name("ran")))), BROKEN),
    "bomb": (
        lambda path: torch.save({"state_dict": Bomb(path.with_name("ran"))}, path), asks_for("posix", "mkdir")
    ),
    "bomb as an older torch wrote it": (
        lambda path: torch.save(Bomb(path.with_name("ran")), path, _use_new_zipfile_serialization=False), BROKEN
    ),
    "of others": (other_project, OF_OTHERS),
    "a tensor": (lambda path: torch.save(torch.zeros(3), path), OF_OTHERS),
    "a list": (lambda path: torch.save([1, 2], path), OF_OTHERS),
    "names of another kind": (lambda path: torch.save({"hillstart": 1, "state_dict": {}}, path), OF_OTHERS),
    "state of another kind": (lambda path: torch.save({"hillstart": {}, "state_dict": [1]}, path), OF_OTHERS),
    "nothing in it": (
        lambda path: zipped(path, torch_file()), "the entry sizes is missing; give a file as a run wrote it."
    ),
    "no pickle": (lambda path: zipped(path, {"archive/version": b"3\n"}), BROKEN),
    "no entries": (lambda path: zipped(path, {}), BROKEN),
    "packed": (
        lambda path: zipped(path, torch_file(), packed=["archive/data/0"]),
        "is compressed, as no checkpoint is; give one that a run wrote.",
    ),
    "packed pickle": (
        lambda path: zipped(path, torch_file(whole=bytes(LARGE)), packed=["archive/data.pkl"]),
        "is compressed, as no checkpoint is; give one that a run wrote.",
    ),
    "packed, as torch sees it": (partial(of_two_minds, form="short"), BROKEN),
    "packed, as torch sees it, at length": (partial(of_two_minds, form="long"), BROKEN),
    "packed, as torch sees it, posing": (partial(of_two_minds, form="posing"), BROKEN),
    "two names for one": (by_another_name, BROKEN),
    "a name that ends early": (by_a_name_that_ends_early, BROKEN),
    "a name with an umlaut": (lambda path: zipped(path, torch_file() | {"archive/ü": b""}), BROKEN),
    "entries within each other": (within_each_other, BROKEN),
    "a comment behind": (
        lambda path: (zipped(path, torch_file()), path.write_bytes(path.read_bytes() + b"more")), BROKEN
    ),
    "pickle larger than any": (
        lambda path: zipped(path, torch_file(words("a" * MAX_DESCRIPTION_BYTES))), BROKEN
    ),
    "a later pickle": (
        lambda path: zipped(path, torch_file(whole=pickle.dumps({"hillstart": {}, "state_dict": {}}, 4))),
        "asks for 4, as no checkpoint does; give one that a run wrote.",
    ),
    "bytes": calling("builtins", "bytearray", whole_number(LARGE)),
    "memory": calling("torch.storage", "UntypedStorage", whole_number(10**10)),
    "numbers": calling("torch", "Tensor", whole_number(10**10)),
    "words twice as long": (lambda path: zipped(path, torch_file(DOUBLED)), asks_for("_codecs", "encode")),
    "an odd name": calling("posix\x1b[2J", "system" * 100),
    "a storage of 10^9": (lambda path: zipped(path, torch_file(tensor("0", 10**9, [10**9], [1]))), BROKEN),
    "a tensor of 10^9 in a storage of 45": (
        lambda path: zipped(path, torch_file(tensor("0", 45, [10**9], [1]))), BROKEN
    ),
    "a tensor that ends past its storage": (lambda path: zipped(path, torch_file(tensor("0", 45, [45], [3]))), BROKEN),
    "a storage that is not there": (lambda path: zipped(path, torch_file(tensor("1", 45, [45], [1]))), BROKEN),
    "a pickle without end": (lambda path: zipped(path, torch_file(whole=pickled()[:-1])), BROKEN),
    "a pickle of a stack that is not there": (lambda path: zipped(path, torch_file(whole=b"\x80\x02R.")), BROKEN),
}  # fmt: skip
CHECKPOINTS["an odd name"] = (
    CHECKPOINTS["an odd name"][0],
    "asks for 'posix\\x1b[2J systemsystemsystemsystemsystemsystem, as no checkpoint does; give one that a run wrote.",
)

FILES = {
    **{f"{name}.safetensors": of for name, of in MODEL_FILES.items()},
    **{f"{name}.ckpt": of for name, of in CHECKPOINTS.items()},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All the files that lie."""
    folder = tmp_path_factory.mktemp("lies")
    for name, (write, _) in FILES.items():
        write(folder / name)
    return folder


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_lies_is_refused_in_one_sentence(folder: Path, name: str) -> None:
    assert refused(folder / name) == FILES[name][1]
    assert not (folder / "ran").exists()


def test_torch_is_asked_not_to_run_code_either(last: tuple[Path, Training], monkeypatch: pytest.MonkeyPatch) -> None:
    """Although nothing is given to it that could."""
    load, asked = torch.load, []
    monkeypatch.setattr(torch, "load", lambda path, **how: (asked.append(how), load(path, **how))[1])
    model_file.load_checkpoint(last[0])
    assert [how["weights_only"] for how in asked] == [True]


def test_the_bomb_would_have_gone_off(tmp_path: Path) -> None:
    torch.save(Bomb(tmp_path / "ran"), tmp_path / "bomb.ckpt")
    torch.load(tmp_path / "bomb.ckpt", weights_only=False)
    assert (tmp_path / "ran").is_dir()


@pytest.mark.parametrize(
    "name", [name for name in CHECKPOINTS if name.startswith(("packed, as", "two names", "a name that"))]
)
def test_torch_would_have_seen_another_pickle(folder: Path, name: str) -> None:
    """Else these files would not show that what zipfile sees is not enough."""
    path = folder / f"{name}.ckpt"
    with zipfile.ZipFile(path) as archive:
        assert all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())
        assert archive.testzip() is None and archive.read("archive/data.pkl") == pickled()
    assert len(torch.load(path, weights_only=True, mmap=True)) == LARGE


LOAD_ALL = """
import json, os, sys
from pathlib import Path
import torch
from hillstart.inference import model_file
from hillstart.system.errors import InputError

def now(what):
    return int(next(line for line in open("/proc/self/status") if line.startswith(what)).split()[1]) << 10

torch.set_num_threads(1)
for path in map(Path, sys.argv[1:]):
    if not os.fork():  # the peaks of a new process are its own
        before, resident = now("VmSize"), now("VmRSS")
        try:
            (model_file.load_checkpoint if path.suffix == ".ckpt" else model_file.load)(path)
            said = None
        except InputError as error:
            said = str(error)
        print(json.dumps([path.name, said, now("VmPeak") - before, now("VmHWM") - resident]), flush=True)
        os._exit(0)
    os.wait()
"""


def measured(*paths: Path) -> Iterator[tuple[Path, str | None, int, int]]:
    """Path, sentence, and by how many bytes a process had grown at most after it had loaded the file.

    Counted is all that was asked of the system, whether it was ever used or not; and then only what was.
    """
    if sys.platform != "linux":
        pytest.skip("only Linux says how large a process was")
    run = subprocess.run([sys.executable, "-c", LOAD_ALL, *paths], capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    assert [line[0] for line in lines] == [path.name for path in paths], run.stderr
    return ((path, *line[1:]) for path, line in zip(paths, lines, strict=True))


@pytest.mark.slow
def test_a_file_that_lies_takes_no_memory(folder: Path) -> None:
    for path, said, bytes_, _ in measured(*(folder / name for name in FILES)):
        assert said is not None and sentence(path, said) == FILES[path.name][1]
        assert bytes_ < 20 * path.stat().st_size + (8 << 20), path.name  # for JSON grows as it becomes objects


@pytest.mark.slow
def test_a_large_sound_file_takes_little_more_than_its_size(tmp_path: Path) -> None:
    sizes, S = ([3 * 64**2, 20, 2], 64)
    network = Network([torch.zeros(S, m, n) for m, n in pairwise(sizes)], [torch.zeros(S, n) for n in sizes[1:]])
    origins = tuple(Start(s, Hyperparameters(0.1)) for s in range(S))
    path = tmp_path / "large.safetensors"
    model_file.save(path, Classifier(network, origins, ("a", "b"), Preprocessing(64, 3)))
    ((_, said, bytes_, _),) = measured(path)
    assert said is None
    assert bytes_ < 3.2 * path.stat().st_size  # mapped, copied, and w1 once more in the layout of `Network`


@pytest.mark.parametrize("wrong", [("a", "a"), ("a",)])
def test_what_could_not_be_read_back_is_not_written(tmp_path: Path, wrong: tuple[str, ...]) -> None:
    network, path = Network.start([16, 3, len(wrong)], range(1)), tmp_path / "model.safetensors"
    with pytest.raises(InputError, match="the entry classes"):
        model_file.save(path, Classifier(network, (Start(0, Hyperparameters(0.1)),), wrong, Preprocessing(4, 1)))
    assert not path.exists()


# ---------------------------------------------------------------- what is no file


@pytest.mark.parametrize("name", ["m.safetensors", "last.ckpt"])
def test_what_is_no_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    give = "give a run folder, a model file or a checkpoint."
    assert refused(path) == f"there is no such file; {give}"
    path.symlink_to(tmp_path / "nowhere")
    assert refused(path) == f"there is no such file; {give}"
    path.unlink()
    path.mkdir()
    assert refused(path) == f"is a folder, not a file; {give}"
    path.rmdir()
    os.mkfifo(path)  # to open it would be to wait for whoever writes to it
    assert refused(path) == f"is a pipe or a device, not a file; {give}"
    odd = tmp_path / f"l\udcf6we.{name}"
    odd.touch()
    with pytest.raises(InputError, match=r"is not UTF-8; rename it\.$"):
        (model_file.load_checkpoint if odd.suffix == ".ckpt" else model_file.load)(odd)


@pytest.mark.parametrize("name", ["m.safetensors", "last.ckpt"])
def test_what_may_not_be_read(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch(mode=0)
    user = os.geteuid()
    try:
        if user == 0:  # who may read everything
            os.seteuid(65534)
        assert refused(tmp_path / name).startswith("cannot be read (Permission denied); give")
    finally:
        os.seteuid(user)


# ---------------------------------------------------------------- damage


def outcome(path: Path) -> Classifier | None:
    """A model as whole as any, or one sentence and None."""
    try:
        model = (model_file.load_checkpoint if path.suffix == ".ckpt" else model_file.load)(path)
    except InputError as error:
        sentence(path, str(error))
        return None
    network = model.network
    assert network.sizes == [36, 5, 3] and network.starts == len(model.origins) == 3
    assert all(bool(t.isfinite().all()) for t in network.parameters)
    assert len(set(model.classes)) == 3 and all(isinstance(name, str) for name in model.classes)
    assert bool(model.preprocessing.normalise(torch.zeros(2, 1, 6, 6)).isfinite().all())
    if model.calibration is not None:
        assert len(model.calibration.starts) == 3
        temperatures = torch.tensor([model.calibration.vote, *model.calibration.starts])  # in float32
        assert bool((torch.full((4,), 100.0) / temperatures).isfinite().all()) and bool((temperatures > 0).all())
    return model


def test_a_model_file_cut_at_any_byte(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    model = Classifier(Network.start([1, 2], [0]), (Start(0, Hyperparameters(0.1)),), ("a", "b"), Preprocessing(1, 1))
    model_file.save(path, model)
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        assert refused(path), length


def flipped(data: bytes, end: int, chance: random.Random) -> bytes:
    """A few bits of what lies before `end` turned round."""
    damaged = bytearray(data)
    for _ in range(chance.choice([1, 1, 1, 2, 8])):
        damaged[chance.randrange(end)] ^= 1 << chance.randrange(8)
    return bytes(damaged)


def cut_out(data: bytes, end: int, chance: random.Random) -> bytes:
    """Without some bytes before `end`, or with some of them twice, the header saying so or not."""
    first = chance.randrange(8, end)
    last = min(end, first + chance.choice([1, 2, 8, 30]))
    damaged = data[:first] + (data[first:last] * 2 if chance.random() < 0.5 else b"") + data[last:]
    length = end - 8 + len(damaged) - len(data)
    return struct.pack("<Q", length) + damaged[8:] if chance.random() < 0.8 else damaged


VALUES = [
    *(None, False, 0, 1, -1, 3, 2**31, 2**63, 10**25, 0.5, -0.0, 1e-45, 1e38),
    *("", "a", "sigmoid", [], {}, [0], [[0.1]]),
]


def edited(data: bytes, end: int, chance: random.Random) -> bytes:
    """Values anywhere in the description or in the header replaced, left out or moved."""
    header = json.loads(data[8:end])
    about = json.loads(header["__metadata__"]["hillstart"])
    for _ in range(chance.choice([1, 1, 2, 3])):
        place: Any = about if chance.random() < 0.8 else header
        while keys := list(place) if isinstance(place, dict) else list(range(len(place))):
            key = chance.choice(keys)
            if isinstance(place[key], list | dict) and chance.random() < 0.7:
                place = place[key]
                continue
            if chance.random() < 0.2:
                del place[key]
            elif chance.random() < 0.2:
                other = chance.choice(keys)
                place[key], place[other] = place[other], place[key]
            else:
                place[key] = chance.choice(VALUES)
            break
    if isinstance(header.get("__metadata__"), dict):
        header["__metadata__"]["hillstart"] = json.dumps(about)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[end:]


@pytest.mark.parametrize("how", [flipped, cut_out, edited])
def test_a_damaged_model_file_is_refused_or_whole(
    path: Path, how: Callable[[bytes, int, random.Random], bytes]
) -> None:
    chance, data = random.Random(0), path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    passed = 0
    for k in range(400):
        path.write_bytes(how(data, len(data) if how is flipped and k % 4 == 0 else end, chance))
        passed += outcome(path) is not None
    assert 0 < passed < 200  # a class may have another name, a start another seed


# ---------------------------------------------------------------- checkpoints


@pytest.mark.parametrize(
    ("how", "sound"),
    [
        ({}, 3),
        ({"momentum": 0.9, "starts": 20}, 20),
        ({"optimiser": torch.optim.Adam, "eta": 0.01, "cost": "log_likelihood"}, 3),
        ({"starts": 7, "stopping": EarlyStopping(race=1)}, 7),
        ({"starts": 2, "eta": [1e30, 0.1, 0.5], "cost": "cross_entropy"}, 4),
    ],
    ids=["plain", "more than vote", "an optimiser of torch", "stopped", "diverged"],
)
def test_a_checkpoint_gives_its_best_starts_as_in_their_best_epochs(
    tmp_path: Path, how: dict[str, Any], sound: int
) -> None:
    path, of = trained(tmp_path, **how)
    rows = of.history.rows()
    best = sorted((s for s in range(len(rows)) if not rows[s].diverged), key=lambda s: rows[s].val_cost)[:VOTERS]
    assert len(best) == min(VOTERS, sound)
    network = Network([w[best] for w in of.best.w], [b[best] for b in of.best.b], of.best.activation, of.best.cost)
    origins = tuple(of.history.starts[s] for s in best)
    loaded = model_file.load_checkpoint(path)
    assert_same(loaded, Classifier(network, origins, ("a", "b", "c"), of.data.preprocessing))
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert_same(loaded, Classifier(network, origins, ("a", "b", "c"), of.data.preprocessing))


def test_a_checkpoint_becomes_a_model_file(last: tuple[Path, Training], tmp_path: Path) -> None:
    model = model_file.load_checkpoint(last[0])
    model_file.save(tmp_path / "m.safetensors", model)
    assert_same(model_file.load(tmp_path / "m.safetensors"), model)


NONE_SOUND = "every start diverged or was not validated yet; give the checkpoint of another run."


def test_a_checkpoint_in_which_all_diverged(tmp_path: Path) -> None:
    path, of = trained(tmp_path, eta=1e30, cost="cross_entropy")
    assert all(row.diverged for row in of.history.rows())
    assert refused(path) == NONE_SOUND


def test_a_checkpoint_from_before_the_first_measurement(tmp_path: Path) -> None:
    """What it holds are the starting points: they would answer like any network."""

    class Early(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *rest: object) -> None:
            trainer.save_checkpoint(tmp_path / "early.ckpt")

    trainer(tmp_path, more_callbacks=[Early()], max_epochs=1).fit(training())
    assert len(torch.load(tmp_path / "early.ckpt", weights_only=True)["hillstart"]["history"]) == 0
    assert refused(tmp_path / "early.ckpt") == NONE_SOUND


# What a checkpoint holds, in the hands of someone who changes it; `h` is what training.py wrote, `s` the tensors.
Edit = Callable[[dict[str, Any], dict[str, Any]], object]
EDITS: dict[str, tuple[Edit, str]] = {
    **{
        f"without {key}": (lambda h, s, key=key: h.pop(key), f"the entry {key} is missing; give a file as")
        for key in KEYS
        if key not in ("format", "calibration", "trained_on", "versions")
    },
    "whole numbers too large for a float": (
        lambda h, s: h["rolls"][0].__setitem__(0, 10**400),
        "the entry rolls is not a list of eta, momentum, lmbda of each start",
    ),
    "one of them nan": (lambda h, s: h["rolls"][0].__setitem__(1, math.nan), "the entry rolls is not a list of eta, "),
    "mean too large for a float": (
        lambda h, s: h["preprocessing"].update(mean=[10**400]), "the entry preprocessing is not one with"
    ),
    "names of another kind": (lambda h, s: h["preprocessing"].update({1: 2}), "the entry preprocessing is not "),
    "names beside": (lambda h, s: (h.update({1: 2}), s.update({1: 2})), ""),
    "another pack": (lambda h, s: h.update(pack=9, optimiser="none"), ""),
    "a tensor as a list": (lambda h, s: h.update(seeds=torch.arange(3)), "the entry seeds is not a list of"),
    "without history": (lambda h, s: h.pop("history"), "tensor history is not float64 of shape [0, 3, 3]"),
    "history as a list": (lambda h, s: h.update(history=[[[0.0] * 3]]), "tensor history is not float64 of"),
    "history of one number": (lambda h, s: h.update(history=torch.tensor(1.0)), "tensor history is not float64 of"),
    "history of others": (
        lambda h, s: h.update(history=h["history"][:, :2]), "tensor history is not float64 of shape [3, 3, 3]"
    ),
    "history in float32": (lambda h, s: h.update(history=h["history"].float()), "tensor history is not float64"),
    "a history that claims 10^7 epochs": (
        lambda h, s: h.update(history=h["history"][:1].clone().expand(10**7, 3, 3)), "its tensors claim to be larger"
    ),
    "costs nan": (lambda h, s: h["history"].fill_(math.nan), NONE_SOUND),
    "costs -inf": (lambda h, s: h["history"].fill_(-math.inf), NONE_SOUND),
    "without epochs": (lambda h, s: h.pop("epochs"), "tensor epochs is not int64 of shape [3]"),
    "without status": (lambda h, s: h.pop("status"), "tensor status is not int64 of shape [3]"),
    "a later status": (lambda h, s: h["status"].fill_(3), "status holds"),
    "a status from behind": (lambda h, s: h["status"].fill_(-1), "status holds"),
    "all diverged": (lambda h, s: h["status"].fill_(DIVERGED), NONE_SOUND),
    "without a tensor": (lambda h, s: s.pop("best.w2"), "it does not hold two tensors for each of its layers"),
    "a tensor by another name": (
        lambda h, s: s.update({"best.w3": s.pop("best.w2")}), "tensor w2 is not float32 of shape [3, 5, 3]"
    ),
    "without the others": (lambda h, s: [s.pop(key) for key in list(s) if not key.startswith("best.")], ""),
    "a tensor turned": (
        lambda h, s: s.update({"best.w1": s["best.w1"].transpose(1, 2)}), "tensor w1 is not float32 of shape [3, 36, 5]"
    ),
    "a tensor in float64": (
        lambda h, s: s.update({"best.w1": s["best.w1"].double()}), "tensor w1 is not float32 of shape [3, 36, 5]"
    ),
    "a tensor to be trained": (
        lambda h, s: s["best.w1"].requires_grad_(), "tensor w1 is not float32 of shape [3, 36, 5]"
    ),
    "a weight nan": (lambda h, s: s["best.w1"][1, 35].fill_(math.nan), "a weight or bias is not a finite"),
    "a bias inf": (lambda h, s: s["best.b2"][2].fill_(math.inf), "a weight or bias is not a finite number"),
    "a diverged start nan": (lambda h, s: (h["status"][0].fill_(DIVERGED), s["best.w1"][0].fill_(math.nan)), ""),
    "10^6 nodes from one": (
        lambda h, s: (
            h.update(sizes=[36, 10**6, 3]),
            s.update({"best.w1": torch.zeros(1).expand(3, 36, 10**6), "best.b1": torch.zeros(1).expand(3, 10**6)}),
            s.update({"best.w2": torch.zeros(1).expand(3, 10**6, 3)}),
        ),
        "its tensors claim to be larger than the file",
    ),
    "lists within lists without end": (
        lambda h, s: h.update(cost=halls(22)), "it holds the same list or dict in two places"
    ),
}  # fmt: skip


def halls(depth: int) -> list[Any]:
    """A list of 2^depth lists, in little memory."""
    found: list[Any] = []
    for _ in range(depth):
        found = [found, found]
    return found


@pytest.mark.parametrize("name", EDITS)
def test_a_checkpoint_that_was_changed(last: tuple[Path, Training], tmp_path: Path, name: str) -> None:
    edit, said = EDITS[name]
    checkpoint, path = torch.load(last[0], weights_only=True), tmp_path / "changed.ckpt"
    edit(checkpoint["hillstart"], checkpoint["state_dict"])
    torch.save(checkpoint, path)
    if said:
        assert refused(path).startswith(said)
    else:
        assert model_file.load_checkpoint(path).network.sizes == [36, 5, 3]


@pytest.mark.slow
def test_a_checkpoint_that_was_changed_takes_no_memory(last: tuple[Path, Training], tmp_path: Path) -> None:
    names = ["10^6 nodes from one", "a history that claims 10^7 epochs", "lists within lists without end"]
    for k, name in enumerate(names):
        checkpoint = torch.load(last[0], weights_only=True)
        EDITS[name][0](checkpoint["hillstart"], checkpoint["state_dict"])
        torch.save(checkpoint, tmp_path / f"{k}.ckpt")
    for path, said, bytes_, _ in measured(last[0], *(tmp_path / f"{k}.ckpt" for k in range(len(names)))):
        assert (said is None) == (path == last[0])
        assert bytes_ < 8 << 20, said


@pytest.mark.slow
def test_what_nobody_asks_for_takes_no_memory(last: tuple[Path, Training], tmp_path: Path) -> None:
    checkpoint, path = torch.load(last[0], weights_only=True), tmp_path / "large.ckpt"
    checkpoint["state_dict"]["velocity.w1"] = torch.zeros(10**7)
    torch.save(checkpoint, path)
    ((_, said, _, used),) = measured(path)
    assert said is None and used < path.stat().st_size / 2


def test_a_checkpoint_cut_at_any_byte(last: tuple[Path, Training], tmp_path: Path) -> None:
    data, path = last[0].read_bytes(), tmp_path / "cut.ckpt"
    for length in [*range(0, len(data) - 2000, 97), *range(len(data) - 2000, len(data))]:
        path.write_bytes(data[:length])
        assert refused(path) == BROKEN, length


def test_a_damaged_checkpoint_is_refused_or_the_same(last: tuple[Path, Training], tmp_path: Path) -> None:
    """Checksums tell what is damaged; a date, say, has none."""
    whole, data, path = model_file.load_checkpoint(last[0]), last[0].read_bytes(), tmp_path / "damaged.ckpt"
    chance, passed = random.Random(0), 0
    with zipfile.ZipFile(last[0]) as archive:
        directory = archive.start_dir
    for k in range(400):
        first = directory if k % 2 else 0
        path.write_bytes(data[:first] + flipped(data[first:], len(data) - first, chance))
        model = outcome(path)
        if model is not None:
            assert_same(model, whole)
            passed += 1
    assert 0 < passed < 200


def test_every_flip_in_the_pickle_and_in_the_weights_is_noticed(last: tuple[Path, Training], tmp_path: Path) -> None:
    data, path, chance = last[0].read_bytes(), tmp_path / "flipped.ckpt", random.Random(0)
    with zipfile.ZipFile(last[0]) as archive:
        entries = [e for e in archive.infolist() if e.filename.endswith("data.pkl") or "/data/" in e.filename]
    for entry in entries:
        names = data[entry.header_offset + 26 : entry.header_offset + 30]
        first = entry.header_offset + 30 + sum(struct.unpack("<2H", names))
        for at in chance.sample(range(first, first + entry.file_size), min(20, entry.file_size)):
            path.write_bytes(data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :])
            assert refused(path) == BROKEN, (entry.filename, at)
