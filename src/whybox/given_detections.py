"""Detections in the forms of other libraries, read as boxes and labels: supervision's, ultralytics' and COCO's."""

import sys
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

from whybox.errors import WhyboxError
from whybox.frame import Size

_FORMS = (
    "Detections, a mapping with boxes and labels, supervision.Detections, ultralytics' Results, or a list of COCO's dictionaries "
    "({'bbox': [x, y, width, height], 'category_id': ...})"
)


def boxes_and_labels(given: Any, classes: Sequence[str] | None, image: Size) -> Mapping[str, Any]:
    """Boxes and labels of detections in any form that is known.

    Args:
        given: A mapping with "boxes" (N,4) xyxy in image pixels and maybe "labels", which is returned as it is;
            supervision.Detections; ultralytics' Results, or a list of one; COCO's dictionaries, a list, or {"annotations": [...],
            "categories": [...]}.
        classes: The model's class names, or None.
        image: (height, width).

    Returns:
        "boxes" (N,4) xyxy in image pixels and, where the classes are known, "labels" (N) names or columns.

    Raises:
        WhyboxError: It is none of these, or not of this image.
    """
    # Not imported here: whoever has an object of its class has imported it already.
    supervision = sys.modules.get("supervision")
    if supervision is not None and isinstance(given, supervision.Detections):
        return _from_supervision(given, classes)
    if isinstance(given, (list, tuple)) and given and all(map(_is_results, given)):
        if len(given) > 1:
            raise WhyboxError(f"detections: {len(given)} Results for one image; pass the image's own, results[i]")
        given = given[0]
    if _is_results(given):
        return _from_results(given, classes, image)
    if isinstance(given, Mapping) and "annotations" in given:
        return _from_coco(given["annotations"], given.get("categories"))
    if isinstance(given, (list, tuple)):
        return _from_coco(given, None)
    if not isinstance(given, Mapping):
        raise WhyboxError(f"detections must be {_FORMS}, got {type(given).__name__}")
    if "bbox" in given:
        raise WhyboxError("detections: a COCO dictionary stands in a list, detections=[{'bbox': ..., 'category_id': ...}]")
    return given


def _from_supervision(given: Any, classes: Sequence[str] | None) -> Mapping[str, Any]:
    """Labels by class name where the model has all of these names, else by class_id."""
    names = [str(name) for name in given.data.get("class_name", ())]
    if len(names) == len(given.xyxy) and classes is not None and set(names) <= set(classes):
        return {"boxes": given.xyxy, "labels": names}
    if given.class_id is None:
        return {"boxes": given.xyxy}
    return {"boxes": given.xyxy, "labels": given.class_id.tolist()}


def _is_results(given: Any) -> bool:
    # By what it holds: the package is not imported, and other packages have results of the same form.
    return all(hasattr(given, name) for name in ("boxes", "names", "orig_shape"))


def _from_results(given: Any, classes: Sequence[str] | None, image: Size) -> Mapping[str, Any]:
    """Labels by class name, where the model has class names; turned boxes by the upright ones around them."""
    found = given.boxes if given.boxes is not None else getattr(given, "obb", None)
    if found is None:
        raise WhyboxError(f"detections: this {type(given).__name__} holds no boxes")
    height, width = (int(side) for side in given.orig_shape)
    if (height, width) != tuple(image):
        raise WhyboxError(
            f"detections: this {type(given).__name__} is of an image of {width}x{height} pixels, and this one has "
            f"{image[1]}x{image[0]}"
        )
    numbers = [int(number) for number in found.cls.tolist()]
    labels: list[Any] = numbers if classes is None else [_named(given.names, number) for number in numbers]
    return {"boxes": found.xyxy, "labels": labels}


def _named(names: Any, number: int) -> str:
    """ultralytics' names are a dictionary, or a list."""
    try:
        return str(names[number])
    except (KeyError, IndexError):
        raise WhyboxError(f"detections: class {number} is not among the names of these Results") from None


def _from_coco(entries: Any, categories: Any) -> Mapping[str, Any]:
    """Labels by the categories' names where these are given, else category_id as the score column, as in `to_coco`."""
    if not isinstance(entries, (list, tuple)):
        raise WhyboxError(f"detections: annotations must be a list of COCO's dictionaries, got {type(entries).__name__}")
    if strange := [type(entry).__name__ for entry in entries if not isinstance(entry, Mapping)]:
        raise WhyboxError(f"detections must be {_FORMS}, got a list of {strange[0]}")
    if any("boxes" in entry for entry in entries):
        raise WhyboxError(f"detections of one image are one mapping with boxes and labels, got a list of {len(entries)}")
    images = {entry["image_id"] for entry in entries if "image_id" in entry}
    if len(images) > 1:
        raise WhyboxError(f"detections are of {len(images)} images (image_id); pass those of this image alone")
    boxes = [_corners(number, entry) for number, entry in enumerate(entries)]
    labels = _coco_labels(entries, categories)
    return {"boxes": boxes} if labels is None else {"boxes": boxes, "labels": labels}


def _corners(number: int, entry: Mapping[str, Any]) -> list[float]:
    """xyxy of an entry's bbox."""
    try:
        x, y, width, height = (float(value) for value in entry["bbox"])
    except (KeyError, TypeError, ValueError):
        given = repr(entry["bbox"]) if "bbox" in entry else f"no bbox among {', '.join(map(str, entry)) or 'nothing'}"
        raise WhyboxError(f"detections[{number}]: expected bbox [x, y, width, height] in image pixels, got {given}") from None
    if not (all(map(isfinite, (x, y))) and 0 < width < float("inf") and 0 < height < float("inf")):
        raise WhyboxError(
            f"detections[{number}]: bbox is [x, y, width, height], both sides larger than 0, got {[x, y, width, height]}"
        )
    return [x, y, x + width, y + height]


def _coco_labels(entries: Sequence[Mapping[str, Any]], categories: Any) -> list[Any] | None:
    try:
        names = {category["id"]: category["name"] for category in categories or ()}
    except (KeyError, TypeError):
        raise WhyboxError("detections: categories must be a list of {'id': ..., 'name': ...}") from None
    labels: list[Any] = []
    for number, entry in enumerate(entries):
        known = entry.get("category_id")
        if categories is not None and known not in names:
            raise WhyboxError(f"detections[{number}]: category_id {known!r} is not among the categories")
        # The name is what SAHI writes beside the number.
        labels.append(names.get(known, entry.get("category_name") or known))
    if all(label is None for label in labels):
        return None
    if None in labels:
        raise WhyboxError(f"detections[{labels.index(None)}] has no category_id, and others have one")
    return labels
