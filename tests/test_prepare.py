"""Miniature archives in the organisers' form, prepared, read and evaluated."""

import io
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from archives import cifar_bytes, cifar_files, write_tar
from PIL import Image
from studies import evaluation, localise

from case_jax import tag, tap_function
from case_jax._checks import CaseJaxError
from case_jax.contrast.choice import choose_contrast
from case_jax.data import TfdsImages, preprocess
from case_jax.data.array_records import Split, new_builder, write_splits
from case_jax.data.boxes import BoxCounts
from case_jax.data.cifar100 import prepare_cifar100
from case_jax.data.ilsvrc import validation_labels, validation_number, wordnet_ids
from case_jax.data.imagenet import add_boxes, prepare_imagenet
from case_jax.data.preprocess import box_region, image_size
from case_jax.evaluation import Pixels, run
from case_jax.methods import METHODS
from case_jax.report import write_report
from case_jax.results import RunFolder
from case_jax.source import NOBODY, UnreadableImageError


def picture(seed, height=60, width=80):
    rows, columns = np.mgrid[0:height, 0:width]
    pixels = np.stack([rows * 3 + seed * 40, columns * 2, rows + columns + seed * 7], -1) % 256
    return Image.fromarray(pixels.astype(np.uint8))


def encoded(image, kind="JPEG"):
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def name_of(number, suffix="JPEG"):
    return f"ILSVRC2012_val_{number:08d}.{suffix}"


def annotation(boxes, width=80, height=60):
    """XML of boxes (wnid, xmin, ymin, xmax, ymax)."""
    objects = "".join(
        f"<object><name>{wnid}</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax></bndbox></object>"
        for wnid, a, b, c, d in boxes
    )
    return f"<annotation><size><width>{width}</width><height>{height}</height></size>{objects}</annotation>".encode()


def wnid_of(number):
    return wordnet_ids()[validation_labels()[number - 1]]


NUMBERS = (1, 2, 3, 4, 5, 48_981, 50_000)
CMYK, PNG, TRUNCATED = 3, 4, 5


def image_bytes(number):
    image = picture(number)
    if number == TRUNCATED:
        return encoded(image)[:-400]
    return encoded(image, "PNG") if number == PNG else encoded(image.convert("CMYK") if number == CMYK else image)


@pytest.fixture(scope="module")
def images():
    return {number: image_bytes(number) for number in NUMBERS}


@pytest.fixture(scope="module")
def val_tar(images, tmp_path_factory):
    """Seven of the 50,000, packed from a folder, in no order."""
    files = [(f"./val/{name_of(number)}", images[number]) for number in sorted(NUMBERS, key=lambda n: n % 5)]
    return write_tar(tmp_path_factory.mktemp("tars") / "val.tar", files, folders=("./", "./val"))


@pytest.fixture(scope="module")
def prepared(val_tar, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return folder, prepare_imagenet(val_tar, data_dir=folder)


def read_one(source, index):
    try:
        return source[index]
    except UnreadableImageError:
        return None


def read_all(source):
    found = {}
    for i in range(len(source)):
        try:
            example = source[i]
            found[example.image_id] = example
        except UnreadableImageError as error:
            found[error.name] = error.reason
    return found


def open_validation(folder, **facts):
    return TfdsImages("imagenet2012", "validation", **({"resize": 40, "crop": 32} | facts), data_dir=folder)


def test_a_part_of_the_archive_is_labelled_by_the_numbers_in_its_names(prepared, images):
    folder, done = prepared
    assert (done.images, done.boxes) == ({"validation": 7}, None)
    found = read_all(open_validation(folder))
    # the first labels of the official list, as everybody knows them: sea snake, alp, Shetland sheepdog, soup bowl
    assert [found[n].label for n in (1, 2, 3, 4)] == [65, 970, 230, 809]
    for number in set(NUMBERS) - {TRUNCATED}:
        assert found[number].name == name_of(number)
        np.testing.assert_array_equal(found[number].image, preprocess(images[number], "x", resize=40, crop=32))
        assert found[number].evidence is None
    assert "tensorflow" not in sys.modules


def test_a_truncated_image_is_kept_and_reported(prepared):
    folder, done = prepared
    assert [error.name for error in done.unreadable] == [name_of(TRUNCATED)]
    assert "truncated" in read_all(open_validation(folder))[name_of(TRUNCATED)]


def test_bytes_are_kept_and_records_lie_in_the_order_of_tensorflow_datasets(prepared, images):
    from tensorflow_datasets.core import hashing

    records = open_validation(prepared[0]).records
    names = [records[i]["file_name"].decode() for i in range(len(records))]
    assert names == sorted(map(name_of, NUMBERS), key=hashing.Hasher("validation").hash_key)
    for i, name in enumerate(names):
        assert records[i]["image"] == images[validation_number(name)]


def test_large_splits_are_spread_over_files_without_tensorflow(tmp_path, monkeypatch):
    """Where tensorflow-datasets would shuffle on disk, with TensorFlow; the number of files is that of its own rule."""
    from tensorflow_datasets.core import shuffle

    monkeypatch.setattr(shuffle, "MAX_MEM_BUFFER_SIZE", 100)
    builder = new_builder("imagenet2012", tmp_path)

    def read(i):
        return {"file_name": f"{i}.JPEG", "image": b"x", "label": i % 1000}

    write_splits(builder, {"train": Split([str(i) for i in range(10)], 300 << 20, read)}, finish=lambda _: None)
    source = TfdsImages("imagenet2012", "train", resize=40, crop=32, data_dir=tmp_path)
    assert len(list(source.folder.glob("*.array_record*"))) == 4
    assert sorted(int(source.records[i]["label"]) for i in range(len(source))) == list(range(10))


@pytest.fixture(scope="module")
def train_tar(tmp_path_factory):
    images = {f"n01440764_{i}.JPEG": encoded(picture(i)) for i in (7, 10026)}
    inner = [("n01440764.tar", images)]
    inner += [("n01739381.tar", {"n01739381_1309.JPEG": encoded(picture(1).convert("CMYK"))})]
    inner += [("n02105855.tar", {"n02105855_2933.JPEG": encoded(picture(2), "PNG")})]
    files = [(name, write_tar(io.BytesIO(), found.items()).getvalue()) for name, found in inner]
    return write_tar(tmp_path_factory.mktemp("tars") / "train.tar", files)


def test_training_images_have_their_archives_class_and_the_known_odd_ones_become_jpeg(val_tar, train_tar, tmp_path):
    done = prepare_imagenet(val_tar, train_tar=train_tar, data_dir=tmp_path)
    assert done.images == {"train": 4, "validation": 7}
    source = TfdsImages("imagenet2012", "train", resize=40, crop=32, data_dir=tmp_path)
    records = {r["file_name"].decode(): r for r in source.records}
    assert {name: int(r["label"]) for name, r in records.items()} == {
        "n01440764_7.JPEG": 0,
        "n01440764_10026.JPEG": 0,
        "n01739381_1309.JPEG": wordnet_ids().index("n01739381"),
        "n02105855_2933.JPEG": wordnet_ids().index("n02105855"),
    }
    assert records["n01440764_7.JPEG"]["image"] == encoded(picture(7))
    for name, seed in (("n01739381_1309.JPEG", 1), ("n02105855_2933.JPEG", 2)):
        image = Image.open(io.BytesIO(records[name]["image"]))
        assert (image.format, image.mode) == ("JPEG", "RGB")
        assert abs(np.asarray(image).astype(int) - np.asarray(picture(seed))).mean() < 8
    assert [source[i].image_id for i in range(4)] == [0, 1, 2, 3]


def bad_tars(folder, images, train_tar):
    """Archives that are refused, by what they are, with words that the message must hold."""
    good = [(name_of(n), images[n]) for n in (1, 2)]

    def tar(name, files, **options):
        return write_tar(folder / f"{name}.tar", files, **options)

    (folder / "text.tar").write_text("no archive\n" * 200)
    (folder / "empty.tar").touch()
    whole = tar("whole", good).read_bytes()
    second = whole.index(name_of(2).encode())
    (folder / "cut.tar").write_bytes(whole[: second + 600])
    (folder / "cut_in_header.tar").write_bytes(whole[: second + 200])
    (folder / "damaged.tar").write_bytes(whole[:second] + b"\xff" + whole[second + 1 :])
    return {
        folder / "nowhere.tar": ["no file at", "ILSVRC2012_img_val.tar"],
        folder / "text.tar": ["cannot be read", "text.tar"],
        folder / "empty.tar": ["cannot be read", "empty.tar"],
        folder / "cut.tar": ["cannot be read", "unexpected end of data"],
        folder / "cut_in_header.tar": [f"is cut off or damaged at byte {second}", name_of(1)],
        folder / "damaged.tar": [f"is cut off or damaged at byte {second}", name_of(1)],
        tar("packed", good, mode="w:gz"): ["uncompressed"],
        tar("nothing", []): ["holds no ILSVRC2012_val"],
        tar("boxes", [(name_of(1, "xml"), b"a")]): ["holds no ILSVRC2012_val", name_of(1, "xml")],
        tar("other", [("a.txt", b"a")]): ["holds no ILSVRC2012_val", "'a.txt'"],
        train_tar: ["it is the training archive"],
        tar("stranger", [*good, ("note.txt", b"a")]): ["'note.txt'", "none of its files"],
        tar("number", [*good, (name_of(50_001), b"a")]): [name_of(50_001)],
        tar("twice", [*good, ("again/" + name_of(2), b"a")]): [name_of(2), "more than once"],
        tar("link", good, links=("link.JPEG",)): ["'link.JPEG'", "no plain file"],
    }


def test_archives_that_are_something_else_are_refused_by_name(images, train_tar, tmp_path):
    for path, words in bad_tars(tmp_path, images, train_tar).items():
        with pytest.raises(CaseJaxError, match="val_tar") as caught:
            prepare_imagenet(path, data_dir=tmp_path / "data")
        for word in words:
            assert word in str(caught.value), (path.name, word)
    assert list((tmp_path / "data" / "imagenet2012").iterdir()) == []


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([("note.txt", b"")], ["something else"]),
        ([(name_of(1), b"")], ["the validation archive, which --val-tar takes"]),
        ([("n01440764.tar", "good"), ("n00000000.tar", "good")], ["'n00000000.tar'"]),
        ([("n01440764.tar", "good"), ("n01440764.tar", "good")], ["'n01440764.tar'", "more than once"]),
        ([("n01443537.tar", "good")], ["'n01440764_1.JPEG'"]),
        ([("n01440764.tar", b"no archive" * 100)], ["n01440764.tar in", "cannot be read"]),
        ([("n01440764.tar", "none")], ["are empty"]),
    ],
)
def test_training_archives_that_are_something_else_are_refused_by_name(val_tar, tmp_path, files, words):
    inner = {"good": [("n01440764_1.JPEG", b"x")], "none": []}
    packed = [(n, write_tar(io.BytesIO(), inner[d]).getvalue() if isinstance(d, str) else d) for n, d in files]
    with pytest.raises(CaseJaxError, match="train_tar") as caught:
        prepare_imagenet(val_tar, train_tar=write_tar(tmp_path / "train.tar", packed), data_dir=tmp_path)
    for word in words:
        assert word in str(caught.value)


def test_what_is_prepared_already_is_left_alone(prepared, val_tar):
    folder = prepared[1].folder
    before = {p: p.stat().st_mtime_ns for p in folder.iterdir()}
    with pytest.raises(CaseJaxError, match=rf"{folder} is there already\. .*delete that folder"):
        prepare_imagenet(val_tar, data_dir=prepared[0])
    assert {p: p.stat().st_mtime_ns for p in folder.iterdir()} == before


def test_folders_that_cannot_be_written_are_refused(val_tar, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CaseJaxError, match="data_dir: cannot"):
        prepare_imagenet(val_tar, data_dir=tmp_path / "file" / "data")


def test_a_small_disk_is_refused_before_anything_is_written(val_tar, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(CaseJaxError, match=r"data_dir: .* with 0\.00 GB free"):
        prepare_imagenet(val_tar, data_dir=tmp_path)
    assert list((tmp_path / "imagenet2012").iterdir()) == []


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), RuntimeError("No space left on device")])
def test_nothing_is_left_when_it_is_stopped(val_tar, tmp_path, monkeypatch, stop):
    calls = []

    def third(*given):
        calls.append(given)
        if len(calls) == 3:
            raise stop
        return image_size(*given)

    monkeypatch.setattr("case_jax.data.imagenet.image_size", third)
    with pytest.raises((KeyboardInterrupt, CaseJaxError)) as caught:
        prepare_imagenet(val_tar, data_dir=tmp_path)
    assert isinstance(stop, KeyboardInterrupt) or "No space left" in str(caught.value)
    assert list((tmp_path / "imagenet2012").iterdir()) == []
    monkeypatch.undo()
    assert prepare_imagenet(val_tar, data_dir=tmp_path).images == {"validation": 7}


KILLED = """
import os, signal, sys
from pathlib import Path
from case_jax.data import imagenet
imagenet.write_boxes = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
imagenet.prepare_imagenet(Path(sys.argv[1]), boxes=Path(sys.argv[2]), data_dir=Path(sys.argv[3]))
"""


def test_a_killed_attempt_looks_like_none(val_tar, box_archive, tmp_path):
    """Killed when all records are written, just before the folder gets its name."""
    done = subprocess.run([sys.executable, "-c", KILLED, val_tar, box_archive, tmp_path], capture_output=True)
    assert done.returncode == -9
    assert len(list((tmp_path / "imagenet2012").iterdir())) == 1
    with pytest.raises(CaseJaxError, match="is not prepared: nothing at"):
        open_validation(tmp_path)
    assert prepare_imagenet(val_tar, data_dir=tmp_path).images == {"validation": 7}
    assert len(open_validation(tmp_path)) == 7


def test_labels_by_rank_are_refused(images, tmp_path):
    """What the packaged builder makes of a part of the archive: label number 1 for the first name, and so on."""
    builder = new_builder("imagenet2012", tmp_path)

    def read(i):
        return {"file_name": name_of(i + 2), "image": images[2], "label": validation_labels()[i]}

    write_splits(builder, {"validation": Split(["a", "b"], 1, read)}, finish=lambda _: None)
    with pytest.raises(CaseJaxError, match=r"as class 970, and it is class 230 .*case-jax prepare imagenet"):
        read_all(open_validation(tmp_path))


ANNOTATED = {
    1: annotation([(wnid_of(1), 10, 15, 40, 45), (wnid_of(1), 40, 15, 70, 30)]),
    2: annotation([(wnid_of(2), 40, 30, 0, 0), (wnid_of(3), 0, 0, 80, 60)]),  # corners swapped; another class's
    3: annotation([(wnid_of(3), 0, 0, 8, 60)]),  # outside the central crop
    4: annotation([(wnid_of(4), -5, -5, 90, 70), (wnid_of(4), 90, 0, 95, 60)]),  # larger than the image; beside it
    6: annotation([(wnid_of(6), 0, 0, 80, 60)]),  # no such image here
    48_981: annotation([(wnid_of(48_981), 0, 0, 10, 10)], width=60, height=80),
}
EXPECTED = BoxCounts(
    images=4, boxes=5, without_box=2, without_image=1, other_size=1, other_class=1, outside=1
)  # without a box: 48,981 and 50,000; number 5 cannot be read


@pytest.fixture(scope="module")
def box_archive(tmp_path_factory):
    files = [(f"val/{name_of(number, 'xml')}", data) for number, data in ANNOTATED.items()]
    return write_tar(tmp_path_factory.mktemp("boxes") / "val.tgz", files, mode="w:gz", folders=("val",))


@pytest.fixture(scope="module")
def boxed(val_tar, box_archive, tmp_path_factory):
    folder = tmp_path_factory.mktemp("boxed")
    return folder, prepare_imagenet(val_tar, boxes=box_archive, data_dir=folder)


def test_boxes_are_joined_by_name_and_all_that_is_left_out_is_counted(boxed):
    assert boxed[1].boxes == EXPECTED


def test_boxes_are_evidence_of_the_images_class(boxed):
    found = read_all(open_validation(boxed[0], resize=30, crop=20))  # 80×60 → 40×30, then columns 10–29 and rows 5–24
    regions = {number: found[number].evidence.regions for number in (1, 2, 3, 4, 48_981)}
    expected = np.zeros((1, 20, 20), bool)
    expected[0, 2:17, :10] = True  # columns 5–19 and rows 7.5–22.5 of the resized image; centres decide
    expected[0, 2:10, 10:] = True
    np.testing.assert_array_equal(regions[1], expected)
    np.testing.assert_array_equal(regions[2][0], np.outer(np.arange(20) < 10, np.arange(20) < 10))
    assert regions[4].all()
    assert not regions[3].any()
    assert not regions[48_981].any()
    classes = {number: found[number].evidence.classes.tolist() for number in regions}
    assert classes == {1: [65], 2: [970], 3: [NOBODY], 4: [809], 48_981: [NOBODY]}


def test_boxes_are_the_truth_one_by_one_and_are_not_cut_off(boxed):
    source = open_validation(boxed[0], resize=30, crop=20)
    at = {found.image_id: i for i in range(len(source)) if (found := read_one(source, i)) is not None}
    assert source.truths == ("boxes",)
    found = source.truth(at[1], "boxes")
    np.testing.assert_array_equal(found.boxes, [[2, 17, -5, 10], [2, 10, 10, 25]])  # as above, beyond columns 0 and 19
    assert found.pixels is None
    assert source.truth(at[3], "boxes") is None
    with pytest.raises(CaseJaxError, match="truth: 'masks' is unknown"):
        source.truth(at[1], "masks")


def test_without_boxes_there_is_no_truth(prepared):
    assert open_validation(prepared[0]).truths == ()


def test_the_region_of_a_box_in_closed_form():
    """500×375 becomes 341×256 and is cut from column 58, row 16 on: half of the width ends at 341 / 2 − 58 = 112.5."""
    region = box_region(np.array([[0, 375, 0, 250]]), 500, 375, resize=256, crop=224)
    np.testing.assert_array_equal(region, np.broadcast_to(np.arange(224) < 112, (224, 224)))
    region = box_region(np.array([[100, 150, 0, 375]]), 375, 500, resize=256, crop=224)  # rows 68.2–102.3 less 58
    np.testing.assert_array_equal(region[:, 0], (np.arange(224) >= 10) & (np.arange(224) < 44))
    assert not box_region(np.zeros((0, 4), int), 500, 375, resize=256, crop=224).any()


def test_the_region_of_a_box_is_where_its_pixels_end_up():
    """A white box on black, sent through the pixels' own way."""
    box = np.array([[37, 141, 53, 160]])
    pixels = np.zeros((211, 300, 3), np.uint8)
    pixels[37:141, 53:160] = 255
    shown = preprocess(encoded(Image.fromarray(pixels), "PNG"), "x", resize=96, crop=80)[..., 0] > 127
    assert (shown != box_region(box, 300, 211, resize=96, crop=80)).mean() < 0.01


def test_boxes_change_the_fingerprint_and_nothing_else_of_the_pixels(prepared, boxed):
    plain, with_boxes = open_validation(prepared[0]), open_validation(boxed[0])
    assert plain.fingerprint != with_boxes.fingerprint
    assert with_boxes.fingerprint == open_validation(boxed[0]).fingerprint
    np.testing.assert_array_equal(read_all(plain)[1].image, read_all(with_boxes)[1].image)


def test_boxes_can_be_added_to_what_is_prepared(boxed, val_tar, tmp_path):
    (tmp_path / "xml").mkdir()
    for number, data in ANNOTATED.items():
        (tmp_path / "xml" / name_of(number, "xml")).write_bytes(data)
    prepare_imagenet(val_tar, data_dir=tmp_path)
    folder, counts = add_boxes(tmp_path / "xml", data_dir=tmp_path)
    assert counts == EXPECTED
    assert open_validation(tmp_path).fingerprint == open_validation(boxed[0]).fingerprint
    (folder / "boxes.npz").write_bytes(b"damaged")
    with pytest.raises(CaseJaxError, match=r"boxes: .*boxes\.npz cannot be read"):
        open_validation(tmp_path)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([("val/note.txt", b"a")], ["no XML files"]),
        ([(name_of(1, "xml"), ANNOTATED[1]), ("n01440764_1.xml", b"")], ["'n01440764_1.xml'"]),
        ([(name_of(1, "xml"), ANNOTATED[1])] * 2, ["more than once"]),
        ([(name_of(1, "xml"), ANNOTATED[1][:-40])], [name_of(1, "xml"), "no annotation"]),
        ([(name_of(1, "xml"), b"<annotation/>")], ["no size/width"]),
    ],
)
def test_boxes_that_are_something_else_are_refused_by_name(val_tar, tmp_path, files, words):
    archive = write_tar(tmp_path / "boxes.tgz", files, mode="w:gz")
    with pytest.raises(CaseJaxError, match="boxes") as caught:
        prepare_imagenet(val_tar, boxes=archive, data_dir=tmp_path)
    for word in words:
        assert word in str(caught.value)


def classifier():
    """A thousand classes out of one convolution's channel means."""
    rng = np.random.default_rng(0)
    params = {
        "kernel": jnp.asarray(rng.normal(0, 0.5, (3, 3, 3, 8)), jnp.float32),
        "head": jnp.asarray(rng.normal(0, 1, (8, 1000)), jnp.float32)
        .at[:, 65]
        .set(9.0),  # most images look like a sea snake
    }

    def function(params, x):
        a = jax.lax.conv_general_dilated(
            x[None], params["kernel"], (4, 4), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return tag(jax.nn.relu(a[0]), "features").mean((0, 1)) @ params["head"]

    return tap_function(function, params, "features", jnp.zeros((32, 32, 3)))


def test_an_evaluation_on_boxes_scores_evidence_where_the_class_is_right(boxed, tmp_path):
    model = classifier()
    planned = evaluation(
        open_validation(boxed[0]),
        model,
        choose_contrast("topk_logits:3", model.num_classes),
        pixels=Pixels((0.5,) * 3, (0.25,) * 3),
        methods=("grad_cam", "random"),
        metrics=("sensitivity", "fidelity", "evidence"),
        tile=4,
        part=4,
    )
    folder = run(planned, RunFolder(tmp_path / "run"))
    rows = folder.rows()
    assert sorted(set(rows["image_id"])) == sorted(set(NUMBERS) - {TRUNCATED})
    assert [entry["name"] for entry in folder.excluded()] == [name_of(TRUNCATED)]
    own = rows[(rows["method"] == "random") & (rows["image_id"] == 1)].iloc[0]
    assert own["top1"] == own["label"] == 65
    region = read_all(open_validation(boxed[0]))[1].evidence.regions
    assert own["mass_own"] == pytest.approx(region.mean(), abs=0.1)  # a random map's mass lies evenly
    assert own["mass_shared"] == own["mass_other"] == 0
    wrong = rows[rows["top1"] != rows["label"]]
    assert len(wrong) > 0
    assert wrong[["mass_own", "points_1"]].isna().to_numpy().all()
    assert write_report(folder.path).stat().st_size > 1000


def test_cifar100_is_prepared_and_read(tmp_path):
    archive = write_tar(tmp_path / "c.tar.gz", cifar_files(), mode="w:gz", folders=("cifar-100-binary",))
    done = prepare_cifar100(archive, data_dir=tmp_path, any_archive=True)
    assert (done.images, done.published) == ({"train": 9, "test": 6}, False)
    source = TfdsImages("cifar100", "test", resize=32, crop=32, data_dir=tmp_path)
    assert source.class_names == tuple(f"fine_{i}" for i in range(100))
    rows = cifar_bytes(6, 1)
    for i in range(6):
        example = source[i]
        number = int(example.name.removeprefix("test_"))
        assert (example.image_id, example.label) == (i, rows[number, 1])
        np.testing.assert_array_equal(example.image, rows[number, 2:].reshape(3, 32, 32).transpose(1, 2, 0))
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"test__bin": None, "fine_label_names__txt": None}, ["holds no fine_label_names.txt, test.bin"]),
        ({"test__bin": b"x" * 3075}, ["test.bin", "3075 bytes", "3074"]),
        ({"test__bin": b""}, ["test.bin", "0 bytes"]),
        ({"train__bin": b"\xff" * 3074}, ["coarse_label 255 of 20"]),
        ({"fine_label_names__txt": b"a b c"}, ["fine_label_names.txt", "3 of 100 names"]),
    ],
)
def test_cifar_archives_that_are_something_else_are_refused(tmp_path, changes, words):
    archive = write_tar(tmp_path / "c.tar.gz", cifar_files(**changes), mode="w:gz")
    with pytest.raises(CaseJaxError, match="tar") as caught:
        prepare_cifar100(archive, data_dir=tmp_path, any_archive=True)
    for word in words:
        assert word in str(caught.value)


def test_the_shell_says_what_was_prepared_and_how_it_is_found(shell, val_tar, box_archive, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my data" / "imagenet2012" / "incomplete.ABC_5.1.0").mkdir(parents=True)
    words = ("prepare", "imagenet", "--boxes", box_archive, "--data-dir", "my data")
    status, out, _ = shell(*words, "--val-tar", val_tar)
    assert status == 0
    lines = out.splitlines()
    assert lines[0] == "validation: 7 of 50,000 images: a part of the archive"
    assert lines[1].startswith(f"cannot be decoded: {name_of(TRUNCATED)}: ")
    assert lines[2:4] == [
        "boxes: 5 of 4 images; 2 readable images without a box",
        "boxes left out: 1 annotations without a readable image, 1 annotations of an image of another size, "
        "1 boxes of another class than the image's, 1 boxes outside the image",
    ]
    assert f"TFDS_DATA_DIR='{tmp_path / 'my data'}' case-jax evaluate --model resnet50" in lines[-1]
    assert "that was killed, to be deleted: my data/imagenet2012/incomplete.ABC_5.1.0" in out
    again = shell(*words)
    assert (again[0], again[1].splitlines()[:2]) == (0, lines[2:4])


def test_the_shell_takes_another_cifar_only_when_told(shell, tmp_path):
    archive = write_tar(tmp_path / "c.tar.gz", cifar_files(), mode="w:gz")
    words = ("prepare", "cifar100", "--tar", archive, "--data-dir", tmp_path)
    status, _, err = shell(*words)
    assert status == 2
    assert "is not the published archive" in err
    assert "168,513,733" in err
    status, out, _ = shell(*words, "--any-archive")
    assert status == 0
    assert "is not the published archive; taken as it is" in out
    assert "test: 6 images" in out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("prepare imagenet", ["val_tar", "ILSVRC2012_img_val.tar"]),
        ("prepare imagenet --train-tar x.tar", ["val_tar"]),
        ("prepare imagenet --boxes nowhere.tgz", ["boxes", "nothing at nowhere.tgz"]),
        ("prepare cifar100 --tar nowhere.tar.gz", ["tar: no file at nowhere.tar.gz", "cifar-100-binary.tar.gz"]),
        ("evaluate --data tfds:imagenet2012:validation", [
            "nothing at", "image-net.org", "ILSVRC2012_img_val.tar (6.74 GB; the training images are not needed to evaluate)",
            "\n  case-jax prepare imagenet --val-tar ILSVRC2012_img_val.tar\n", "TFDS_DATA_DIR", "Without it: case-jax evaluate",
        ]),
        ("evaluate --data tfds:cifar100:test", ["nothing at", "case-jax prepare cifar100 --tar cifar-100-binary.tar.gz"]),
        ("evaluate --data tfds:imagenet2012:9.9.9:validation", ["imagenet2012", "9.9.9"]),
    ],
)  # fmt: skip
def test_what_is_missing_explains_itself(shell, tmp_path, monkeypatch, words, expected):
    monkeypatch.setattr("tensorflow_datasets.core.constants.DATA_DIR", str(tmp_path / "none"))
    status, _, err = shell(*words.split())
    assert status == 2
    assert err.splitlines()[-1].startswith("case-jax: error: ") or "\n" in err
    for word in expected:
        assert word in err


def test_maps_are_localised_on_boxes_and_images_without_one_are_counted(boxed, tmp_path):
    model, source = classifier(), open_validation(boxed[0])
    contrast = choose_contrast("topk_logits:3", model.num_classes)
    folder, methods = tmp_path / "run", {"random": METHODS["random"].maps}
    found = localise(source, model, contrast, methods, folder, pixels=Pixels((0.5,) * 3, (0.25,) * 3), tile=4)
    assert set(found.rows["image_id"]) == {1, 2, 4}
    assert found.counts["images left out: could not be read"] == 1
    assert found.counts["images left out: no truth is known"] == 3  # outside the crop; of another size; not annotated
    assert found.overall["pxap"].isna().all()
    assert (found.rows.loc[found.rows["method"] == "truth_box", "f1"] > 0).all()
