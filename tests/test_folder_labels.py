"""What the names of sub-folders mean, read by hand from ImageNet's list."""

import pytest
from PIL import Image

from case_jax import CaseJaxError
from case_jax.data import ImageFolder
from case_jax.data.folder_labels import are_imagenet, labels_from_folders
from case_jax.data.ilsvrc import imagenet_names, synonyms, wordnet_ids

NAMES = imagenet_names()


@pytest.mark.parametrize(
    ("folder", "label"),
    [
        ("n02123045", 281),
        ("tabby", 281),
        ("Tabby_Cat", 281),
        ("tabby cat", 281),
        ("golden_retriever", 207),
        ("siberian husky", 250),
        ("Tinca_tinca", 0),
        ("crane_(bird)", 134),
        ("MISSILE", 657),  # the usual name of one class and a synonym of another
        ("projectile", 744),
        ("carpenter's_kit", 477),
    ],
)
def test_imagenet_classes_are_found_by_every_name(folder, label):
    # beside a folder that is no class name as written, so that names are read loosely
    assert labels_from_folders([folder, "n01440764"], NAMES) == {folder: label, "n01440764": 0}


def test_every_synset_and_every_class_name_means_its_own_class():
    assert list(labels_from_folders(list(wordnet_ids()), NAMES).values()) == list(range(1000))
    assert list(labels_from_folders(list(NAMES), NAMES).values()) == list(range(1000))
    # the network's own file may call the classes otherwise
    long = tuple(", ".join(names) for names in synonyms())
    for names in (wordnet_ids(), long):
        assert are_imagenet(names)
        assert labels_from_folders(["n02123045", "Tench"], names) == {"n02123045": 281, "Tench": 0}


def test_numbers_are_indices_when_all_are():
    assert labels_from_folders(["281", "7", "0999"], NAMES) == {"281": 281, "7": 7, "0999": 999}
    every = [str(i) for i in range(1000)]
    assert labels_from_folders(every, NAMES) == {name: int(name) for name in every}
    with pytest.raises(CaseJaxError, match=r"'1000' is none from 0 to 999\. Count from 0"):
        labels_from_folders(["1", "1000"], NAMES)
    with pytest.raises(CaseJaxError, match=r"'281' is no class name .* all of them, by index \(281\)"):
        labels_from_folders(["281", "tabby"], NAMES)


def test_as_many_numbers_as_classes_are_read_only_where_order_and_index_agree():
    names = tuple(f"class {i}" for i in range(12))
    padded = [f"{i:02d}" for i in range(12)]
    assert labels_from_folders(padded, names) == {name: int(name) for name in padded}
    from_one = [f"{i:02d}" for i in range(1, 13)]
    assert labels_from_folders(from_one, names) == {name: int(name) - 1 for name in from_one}
    for start, words in (
        (0, "'10' could be class 10 or, in sorted order .*, class 2"),
        (1, "'1' could be class 1 or, .*, class 0"),
    ):
        with pytest.raises(CaseJaxError, match=rf"{words}\. .*\(01, 02\)"):
            labels_from_folders([str(i) for i in range(start, 12 + start)], names)
    digits = ("3", "1", "2")
    assert labels_from_folders(["1", "2", "3"], digits) == {"1": 1, "2": 2, "3": 0}


@pytest.mark.parametrize(
    ("folder", "words"),
    [
        (
            "crane",
            ["class 134 (crane (bird), n02012849)", "class 517 (crane (machine), n03126707)", "for example n02012849"],
        ),
        ("Cardigan", ["class 264 (Cardigan, n02113186)", "class 474 (cardigan, n02963159)"]),
        ("maillot", ["class 638", "class 639"]),
        ("taby", ["'taby' is no class name (nearest: tabby", "n02123045"]),
        ("n02123046", ["'n02123046' is no class name (nearest: n02123045"]),
    ],
)
def test_two_readings_and_none_are_errors_that_say_what_to_do(folder, words):
    with pytest.raises(CaseJaxError) as caught:
        labels_from_folders([folder, "n01440764"], NAMES)
    for word in words:
        assert word in str(caught.value)


def test_names_exactly_as_the_classifier_has_them_have_one_reading():
    assert labels_from_folders(["Cardigan", "cardigan"], NAMES) == {"Cardigan": 264, "cardigan": 474}


def test_other_classifiers_know_their_own_names_only():
    names = ("Big_Cat", "dog", "DOG")
    assert labels_from_folders(["big cat", "dog"], names[:2]) == {"big cat": 0, "dog": 1}
    with pytest.raises(
        CaseJaxError, match=r"'Dog' could mean class 1 \(dog\) or class 2 \(DOG\)\. Name all sub-folders exactly"
    ):
        labels_from_folders(["Dog", "big cat"], names)
    with pytest.raises(CaseJaxError, match="'n02123045' is no class name"):
        labels_from_folders(["n02123045"], names)
    own = tuple(f"species {i}" for i in range(1000))
    assert not are_imagenet(own)
    with pytest.raises(CaseJaxError, match="'tabby' is no class name"):
        labels_from_folders(["tabby", "species_3"], own)


def test_a_folder_of_synsets_is_labelled(tmp_path):
    for name in ("n02123045", "golden_retriever"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (20, 20)).save(tmp_path / name / "a.png")
    source = ImageFolder(tmp_path, NAMES, resize=16, crop=16)
    assert [source[i].label for i in range(2)] == [207, 281]
    assert source.class_names == NAMES
