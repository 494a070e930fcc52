# SPDX-License-Identifier: Apache-2.0
"""The task file: strict parsing, the order of operations, pairing, batches, and every message for bad input."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgefold.errors import EdgefoldError, UsageError
from edgefold.interface import ModelInterface, Port
from edgefold.scoring.task import load_task

GOOD = """
data: data.npz
inputs: {x: {array: x}}
metric: {name: top1, output: logits, labels: y}
"""


def interface(*inputs: tuple[str, str, tuple[int | str | None, ...]]) -> ModelInterface:
    ports = tuple(Port(name, f"tensor({kind})", shape) for name, kind, shape in inputs)
    return ModelInterface(ports, (Port("logits", "tensor(float)", ("N", 3)),))


def write(folder: Path, text: str, **arrays: Any) -> Path:
    if arrays:
        np.savez(folder / "data.npz", **arrays)
    path = folder / "task.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (GOOD + "batches: 4", ["task.yaml", "unknown key 'batches'", "data, inputs, metric, calibration, batch"]),
        (GOOD.replace("labels", "label"), ["unknown key 'label' in 'metric'", "labels", "reference"]),
        (GOOD.replace("{array: x}", "{arry: x}"), ["unknown key 'arry' in 'inputs.x'", "array, images, size"]),
        (GOOD.replace("{array: x}", "{array: x, mean: [a]}"), ["'inputs.x.mean.0'", "`float`"]),
        (GOOD + "batch: many", ["'batch'", "expected `int`"]),
        (GOOD + "batch: 0", ["'batch'", ">= 1"]),
        (GOOD.replace("top1", "accuracy"), ["'metric.name'", "accuracy"]),
        (GOOD.replace("data: data.npz", ""), ["'data' is missing"]),
        (GOOD + "calibration: {samples: 3}", ["'data' in 'calibration' is missing", "data, samples"]),
        (GOOD + "data: other.npz", ["line 5", "'data' stands twice"]),
        ("[1, 2]", ["a YAML mapping", "a list"]),
        ("", ["a YAML mapping", "empty"]),
        ("a: [", ["not valid YAML"]),
        ("a: !!python/object/apply:os.system [true]", ["not valid YAML"]),
        (GOOD.replace("labels: y", "labels: y, reference: m.onnx"), ["exactly one of 'labels'"]),
        (GOOD.replace(", labels: y", ""), ["exactly one of 'labels'"]),
        (GOOD.replace("top1", "perplexity").replace("labels: y", "reference: m.onnx"), ["perplexity needs 'labels'"]),
        (GOOD.replace("{array: x}", "{array: x, images: z}"), ["input 'x' needs exactly one of"]),
        (GOOD.replace("{array: x}", "{array: x, size: [2, 2]}"), ["'size' resizes images"]),
        (GOOD.replace("{array: x}", "{array: x, std: [1, 0]}"), ["'std' holds a zero"]),
        (GOOD.replace("{x: {array: x}}", "{}"), ["names no input"]),
    ],
)
def test_a_wrong_file_is_one_line_that_names_the_place(tmp_path: Path, text: str, parts: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        load_task(write(tmp_path, text))
    message = str(caught.value)
    assert "\n" not in message
    for part in ["task.yaml", *parts]:
        assert part in message


def test_a_number_with_an_exponent_needs_no_point(tmp_path: Path) -> None:
    task = load_task(write(tmp_path, GOOD.replace("{array: x}", "{array: x, scale: 1e-3, mean: 2E+1}")))
    assert (task.rule.inputs["x"].scale, task.rule.inputs["x"].mean) == (1e-3, 20)


def test_a_missing_task_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.yaml: cannot read the task file"):
        load_task(tmp_path / "none.yaml")


def test_a_model_given_as_task_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"\x08\x0a\xff\xfe\x00")
    with pytest.raises(UsageError, match="not text"):
        load_task(tmp_path / "m.onnx")


def test_operations_come_in_the_order_of_the_format(tmp_path: Path) -> None:
    text = GOOD.replace(
        "{array: x}", "{array: x, layout: nhwc->nchw, std: [2, 2, 2], mean: [3, 2, 1], scale: 2, channels: bgr}"
    )
    pixels = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
    task = load_task(write(tmp_path, text, x=pixels, y=np.zeros(2, np.int64)))
    (first, second) = task.batches(interface(("x", "float", ("N", 3, 4, 5))))
    expected = ((pixels[..., ::-1].astype(np.float32) * 2 - [3, 2, 1]) / 2).transpose(0, 3, 1, 2)
    fed = np.concatenate([first.feeds["x"], second.feeds["x"]])
    assert fed.dtype == np.float32
    assert fed.flags.c_contiguous
    np.testing.assert_array_equal(fed, expected)


def test_data_are_cast_to_the_models_type(tmp_path: Path) -> None:
    task = load_task(write(tmp_path, GOOD, x=np.arange(6, dtype=np.uint8).reshape(2, 3), y=np.zeros(2, np.int64)))
    (batch, _) = task.batches(interface(("x", "int64", ("N", 3))))
    assert batch.feeds["x"].dtype == np.int64


def test_a_scalar_is_one_number_for_the_whole_batch(tmp_path: Path) -> None:
    """As the sampling rate of a speech model; a vector of one entry a sample is fed as it is."""
    text = GOOD.replace("{x: {array: x}}", "{x: {array: x}, r: {array: r}}") + "batch: 3"
    task = load_task(write(tmp_path, text, x=np.ones((5, 2)), r=np.full(5, 16000), y=np.ones(5)))
    wave = ("x", "float", ("N", 2))
    fed = [batch.feeds["r"] for batch in task.batches(interface(wave, ("r", "int64", ())))]
    assert [(one.shape, int(one)) for one in fed] == [((), 16000), ((), 16000)]
    assert [one.feeds["r"].shape for one in task.batches(interface(wave, ("r", "int64", ("N",))))] == [(3,), (2,)]

    differing = load_task(write(tmp_path, text, x=np.ones((5, 2)), r=np.arange(5), y=np.ones(5)))
    with pytest.raises(UsageError, match="'r' is one number for a whole batch, and its rows differ; set 'batch: 1'"):
        list(differing.batches(interface(wave, ("r", "int64", ()))))
    (tmp_path / "task.yaml").write_text(text.replace("batch: 3", "batch: 1"))
    singly = load_task(tmp_path / "task.yaml").batches(interface(wave, ("r", "int64", ())))
    assert [int(batch.feeds["r"]) for batch in singly] == [0, 1, 2, 3, 4]


def test_a_fixed_batch_is_padded_and_cut(tmp_path: Path) -> None:
    task = load_task(write(tmp_path, GOOD + "batch: 2", x=np.arange(10.0).reshape(10, 1), y=np.arange(10)))
    batches = list(task.batches(interface(("x", "float", (4, 1)))))
    assert [batch.count for batch in batches] == [4, 4, 2]
    assert all(batch.rows == 4 for batch in batches)
    np.testing.assert_array_equal(batches[2].feeds["x"][:, 0], [8, 9, 9, 9])
    np.testing.assert_array_equal(batches[2].cut(batches[2].feeds["x"])[:, 0], [8, 9])
    assert batches[2].labels is not None
    np.testing.assert_array_equal(batches[2].labels, [8, 9])


def test_samples_takes_the_first_of_each_split(tmp_path: Path) -> None:
    text = GOOD.replace("labels: y", "labels: y, samples: 3") + "calibration: {data: data.npz, samples: 5}\nbatch: 8"
    task = load_task(write(tmp_path, text, x=np.arange(10.0).reshape(10, 1), y=np.arange(10)))
    model = interface(("x", "float", ("N", 1)))
    assert [batch.count for batch in task.batches(model, "eval")] == [3]
    assert [batch.count for batch in task.batches(model, "calibration")] == [5]
    assert [batch.count for batch in task.batches(model, "calibration", limit=2)] == [2]
    assert task.samples("calibration") == 5


def test_a_single_input_is_paired_whatever_its_name(tmp_path: Path) -> None:
    task = load_task(write(tmp_path, GOOD, x=np.zeros((1, 2)), y=np.zeros(1, np.int64)))
    (batch,) = task.batches(interface(("pixels", "float", ("N", 2))))
    assert list(batch.feeds) == ["pixels"]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((("a", "float", ("N",)), ("b", "float", ("N",))), "names the input 'x'; the model's inputs are a, b"),
        ((("x", "float", ("N",)), ("mask", "float", ("N",))), "says nothing of the model's inputs mask"),
    ],
)
def test_inputs_without_a_partner_are_listed(tmp_path: Path, inputs: Any, message: str) -> None:
    task = load_task(write(tmp_path, GOOD, x=np.zeros((1, 2)), y=np.zeros(1, np.int64)))
    with pytest.raises(UsageError, match=message):
        next(task.batches(interface(*inputs)))


def test_a_missing_array_lists_what_there_is(tmp_path: Path) -> None:
    task = load_task(write(tmp_path, GOOD, z=np.zeros((1, 2)), y=np.zeros(1)))
    with pytest.raises(UsageError, match=r"input 'x' names the array 'x'; .*data\.npz holds z, y"):
        next(task.batches(interface(("x", "float", ("N", 2)))))


def test_labels_of_another_length_are_refused(tmp_path: Path) -> None:
    task = load_task(write(tmp_path, GOOD, x=np.zeros((3, 2)), y=np.zeros(4)))
    with pytest.raises(UsageError, match="same number of rows: x has 3, y has 4"):
        next(task.batches(interface(("x", "float", ("N", 2)))))


def test_calibration_labels_only_where_the_array_exists(tmp_path: Path) -> None:
    np.savez(tmp_path / "calib.npz", x=np.zeros((3, 2)))
    text = GOOD + "calibration: {data: calib.npz}"
    task = load_task(write(tmp_path, text, x=np.zeros((1, 2)), y=np.zeros(1, np.int64)))
    assert not task.has_labels("calibration")
    assert task.has_labels("eval")
    assert next(task.batches(interface(("x", "float", ("N", 2))), "calibration")).labels is None


def test_calibration_must_be_stated(tmp_path: Path) -> None:
    task = load_task(write(tmp_path, GOOD, x=np.zeros((1, 2)), y=np.zeros(1)))
    with pytest.raises(UsageError, match="has no 'calibration'"):
        task.data("calibration")


class Boom:
    def __reduce__(self) -> tuple[Any, ...]:
        raise AssertionError("unpickled")


def archive(path: Path, member: str, content: bytes) -> None:
    with zipfile.ZipFile(path, "w") as stream:
        stream.writestr(member, content)


def header(shape: tuple[int, ...], dtype: str) -> bytes:
    text = io.BytesIO()
    np.lib.format.write_array_header_1_0(text, {"descr": dtype, "fortran_order": False, "shape": shape})
    return text.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (header((1,), "|O") + pickle.dumps([1]), "pickled objects, which are never loaded"),
        (header((1 << 40, 4), "<f4"), "declares .* the file is damaged"),
        (b"not an array", "cannot read the array 'x'"),
    ],
)
def test_a_hostile_member_is_never_loaded(tmp_path: Path, content: bytes, message: str) -> None:
    task = load_task(write(tmp_path, GOOD))
    archive(tmp_path / "data.npz", "x.npy", content)
    with pytest.raises(UsageError, match=message):
        next(task.batches(interface(("x", "float", ("N", 4)))))


def test_a_zip_bomb_is_refused_by_its_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgefold.scoring.task_data.MAX_TOTAL_BYTES", 1000)
    task = load_task(write(tmp_path, GOOD, x=np.zeros((1000, 2)), y=np.zeros(1000)))
    with pytest.raises(UsageError, match="would unpack to"):
        task.data("eval")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("data.npz", b"PK nonsense", "not an .npz file"),
        ("data.csv", b"", "empty CSV"),
        ("data.csv", b"a,b\n1\n", "row 2: 1 fields where the header names 2"),
        ("data.csv", b"a,a\n1,2\n", "two columns have the same name"),
        ("data.csv", b"\xff\xfe\x00", "UTF-8"),
        ("data.pkl", b"", ".npz or a .csv"),
    ],
)
def test_unusable_data_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    task = load_task(write(tmp_path, GOOD.replace("data.npz", name)))
    with pytest.raises(EdgefoldError, match=message):
        task.data("eval")


def test_images_from_a_csv_are_read_resized_and_scaled(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    (tmp_path / "img").mkdir()
    for index in range(2):
        image.new("RGB", (8, 6), (10 * index, 20, 30)).save(tmp_path / "img" / f"{index}.png")
    (tmp_path / "set.csv").write_text("image,label\nimg/0.png,1\nimg/1.png,0\n")
    text = """
data: set.csv
inputs: {x: {images: image, size: [4, 5], channels: bgr, layout: nhwc->nchw}}
metric: {name: top1, output: logits, labels: label}
batch: 2
"""
    task = load_task(write(tmp_path, text))
    (batch,) = task.batches(interface(("x", "float", ("N", 3, 4, 5))))
    assert batch.feeds["x"].shape == (2, 3, 4, 5)
    np.testing.assert_array_equal(batch.feeds["x"][1, :, 0, 0], [30, 20, 10])
    assert batch.labels is not None
    assert batch.labels.tolist() == [1, 0]


def test_a_broken_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"nothing")
    (tmp_path / "set.csv").write_text("image,y\na.png,1\n")
    text = GOOD.replace("data.npz", "set.csv").replace("{array: x}", "{images: image}")
    task = load_task(write(tmp_path, text))
    with pytest.raises(UsageError, match=r"cannot read the image .*a\.png"):
        next(task.batches(interface(("x", "float", ("N", 3, 4, 5)))))
