"""What a data set says beside boxes and masks: captions, which classes are stuff, and whether an image is one object."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from whybox.data._checked import innermost
from whybox.data.coco import CocoData
from whybox.data.coco_panoptic import PanopticData
from whybox.data.image_captions import captions_of_images, find_captions, read_captions, read_stuff
from whybox.data.scenes import SceneData, draw_scene
from whybox.errors import WhyboxError
from whybox.truth import DataSet


def captions_of(data: DataSet, file: Path | None, count: int, most: int) -> list[tuple[str, ...]]:
    """The captions of a data set's first images.

    They are those of `file`; else those of the data set itself, if it has an attribute `captions` with a list of texts for each
    image; else those that a COCO data set has in or beside its file, or that scenes are drawn with.

    Args:
        data: The data set.
        file: A file in COCO's caption format; None: what the data set has.
        count: How many images.
        most: Captions of each image, the first ones.

    Returns:
        One entry per image; () for an image without.

    Raises:
        WhyboxError: There are no captions, or none of these images.
    """
    captions = [texts[:most] for texts in _all_captions(data, file, count)]
    if not any(captions):
        raise WhyboxError(f"none of the captions belongs to one of the {count} images of {data.name}: are they of other images?")
    return captions


def _all_captions(data: DataSet, file: Path | None, count: int) -> list[tuple[str, ...]]:
    inner, names = innermost(data), list(data.names)[:count]
    annotations = annotation_file(data)
    if file is not None:
        return captions_of_images(read_captions(file.expanduser(), annotations), names)
    if isinstance(inner, SceneData):
        return [_drawn_captions(inner, index) for index in range(count)]
    if (own := getattr(inner, "captions", None)) is not None:
        return [tuple(texts) for texts in own[:count]]
    found = None if annotations is None else find_captions(annotations)
    if found is None:
        where = f" beside {annotations}" if annotations else f" in {data.name}"
        raise WhyboxError(f"retrieval needs captions, and there are none{where}: give a file of COCO's form (--captions)")
    return captions_of_images(read_captions(found, annotations), names)


def _drawn_captions(data: SceneData, index: int) -> tuple[str, ...]:
    variant = data.variants[index % len(data.variants)]
    return draw_scene(index, seed=data.seed, variant=variant, size=data.size).captions


def annotation_file(data: DataSet) -> Path | None:
    """The file that a COCO data set was read from; None for other data."""
    inner = innermost(data)
    return Path(inner.name.partition(":")[2]) if isinstance(inner, (CocoData, PanopticData)) else None


def stuff_of(data: DataSet) -> tuple[str, ...] | None:
    """The classes that are stuff and no things, by an attribute `stuff` of the data set or by `isthing` of COCO's categories.

    Args:
        data: The data set.

    Returns:
        Their names, as the data set has them now; None where the data do not say.
    """
    told: Any = getattr(innermost(data), "stuff", None)
    if told is None and (file := annotation_file(data)) is not None:
        told = read_stuff(file)
    if told is None:
        return None
    # A data set whose classes were renamed has the old names in its file.
    rename = getattr(data, "rename", {})
    named = {rename.get(name, name) for name in told}
    return tuple(name for name in data.classes if name in named)


def one_object_each(data: DataSet) -> bool:
    """Whether every image is about one object, so that the whole image can be classified: scenes of the variant single."""
    inner = innermost(data)
    return isinstance(inner, SceneData) and inner.variants == ("single",)


def known_classes(data: DataSet) -> Sequence[str]:
    """The data set's classes.

    Raises:
        WhyboxError: It has none.
    """
    if not data.classes:
        raise WhyboxError(f"{data.name} has no class names to make texts of; only retrieval can be scored: --tasks retrieval")
    return data.classes
