"""Photographs that come inside Python packages: where they lie, what they show beyond doubt, and whose they are."""

from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from case_jax._checks import CaseJaxError

PACKAGES = {"sklearn": "scikit-learn", "matplotlib": "matplotlib", "skimage": "scikit-image"}
"""The packages by the names under which they are imported and installed."""
INSTALL = 'pip install "case-jax[photos]"'
_SKIMAGE, _SKLEARN = "skimage/data", "sklearn/datasets/images"
CC0 = "CC0"


class Photograph(NamedTuple):
    """One photograph."""

    name: str
    folder: str
    """The package, and the folder in it."""
    file: str
    credit: str
    licence: str
    """As the package states it."""
    labels: tuple[str, ...] = ()
    """Names of the ImageNet classes that it shows beyond doubt, the main one first; none where the list has no class for what it shows."""
    box: tuple[int, int, int, int] | None = None
    """What must be seen to know the main class, as half-open (top, bottom, left, right) in pixels of the file; where there is a label."""

    @property
    def package(self) -> str:
        """The name under which the package is imported."""
        return self.folder.partition("/")[0]


PHOTOGRAPHS = (
    # a pavilion: palace, monastery or none of the classes
    Photograph("china", _SKLEARN, "china.jpg", "danielbuechele, Flickr", "CC BY 2.0"),
    # a dahlia, which is no class
    Photograph("flower", _SKLEARN, "flower.jpg", "vultilion, Flickr", "CC BY 2.0"),
    Photograph(
        "grace_hopper", "matplotlib/mpl-data/sample_data", "grace_hopper.jpg", "US Navy", "public domain, as a work of the US Navy; said where matplotlib took it up (pull request 1599), not in the package",
        ("military uniform",), (170, 590, 50, 470),
    ),
    # the astronaut herself is no class
    Photograph("astronaut", _SKIMAGE, "astronaut.png", "NASA", "public domain", ("space shuttle",), (0, 290, 355, 462)),
    Photograph("chelsea", _SKIMAGE, "chelsea.png", "Stéfan van der Walt", CC0, ("tabby",), (60, 270, 120, 360)),
    Photograph("coffee", _SKIMAGE, "coffee.png", "Rachel Michetti", CC0, ("espresso", "cup"), (16, 325, 170, 410)),
    # a rocket without a warhead is no missile
    Photograph("rocket", _SKIMAGE, "rocket.jpg", "SpaceX", "public domain"),
    # there are mopeds and motor scooters, but no motorcycles
    Photograph("motorcycle_left", _SKIMAGE, "motorcycle_left.png", "Scharstein et al., Middlebury Stereo 2014", "to be used and published, with a citation, by the data set's page; not stated by the package"),
    Photograph("camera", _SKIMAGE, "camera.png", "Lav Varshney", CC0, ("tripod",), (137, 512, 225, 410)),
    Photograph("coins", _SKIMAGE, "coins.png", "Brooklyn Museum", "no known copyright restrictions"),
)  # fmt: skip
"""All photographs of things in these packages. Textures, charts, scans, the sky, what microscopes see, second views of the same thing and a
clock blurred beyond recognition are left out, and so is all that scikit-image would download."""


def photograph_files(photographs: tuple[Photograph, ...] = PHOTOGRAPHS) -> tuple[Path, ...]:
    """Where these photographs lie; no package is imported.

    Raises:
        CaseJaxError: for packages that are not installed, or are without a photograph; says what to install.
    """
    specs = {package: find_spec(package) for package in {photo.package for photo in photographs}}
    missing = sorted(
        PACKAGES[package] for package, spec in specs.items() if spec is None or not spec.submodule_search_locations
    )
    if missing:
        raise CaseJaxError(
            f"data: photos are read from {', '.join(missing)}, which is not installed; install it: {INSTALL}"
        )
    files = []
    for photo in photographs:
        spec = specs[photo.package]
        assert spec is not None
        assert spec.submodule_search_locations
        file = Path(spec.submodule_search_locations[0]).parent / photo.folder / photo.file
        if not file.is_file():
            raise CaseJaxError(
                f"data: {PACKAGES[photo.package]} is installed without {file}; install it again: {INSTALL}"
            )
        files.append(file)
    return tuple(files)
