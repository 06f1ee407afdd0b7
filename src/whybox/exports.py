"""Export explanations to plain numbers and text, COCO's results format, supervision.Detections and FiftyOne's labels."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from torch import Tensor

from whybox.errors import WhyboxError
from whybox.explained import Explained
from whybox.report.overlay import value_range
from whybox.types import Detections


def to_dict(explained: Explained) -> dict[str, Any]:
    """Everything but images and maps, as plain numbers and text: the contents of the manifest."""
    return {
        "name": explained.name,
        "height": explained.image.shape[-2],
        "width": explained.image.shape[-1],
        "model": explained.model,
        "method": explained.maps.method,
        "target": explained.maps.target,
        "options": {name: plain(value) for name, value in explained.maps.options.items()},
        "seconds": dict(explained.seconds),
        "detections": _rows(explained),
        **({"keypoints": list(explained.keypoints)} if explained.keypoints else {}),
    }


def _rows(explained: Explained) -> list[dict[str, Any]]:
    columns: dict[str, Sequence[Any]] = {"peak": explained.peak} if explained.whole_image else {}
    columns |= {"text": [asdict(text) for text in explained.texts]} if explained.texts else {}
    columns |= {"tokens": explained.tokens, "words": explained.words} if explained.token_maps is not None else {}
    rows = [_row(explained, i, name) for i, name in enumerate(explained.names)]
    return [row | {name: column[i] for name, column in columns.items()} for i, row in enumerate(rows)]


def _row(explained: Explained, index: int, name: str) -> dict[str, Any]:
    detections, maps = explained.detections, explained.maps
    native = maps.native[index]
    low, high = value_range([native])
    beside = {"keypoints": detections.keypoints, "corners": detections.corners}
    return {
        "name": name,
        "label": int(detections.labels[index]),
        "score": float(detections.scores[index]),
        "box": detections.boxes[index].tolist(),
        "source": int(detections.source[index]),
        "note": explained.notes[index] if explained.notes else "",
        "route": maps.routes[index] if maps.routes else "",
        "layer": maps.layers[index] if maps.layers else "",
        "map": {"height": native.shape[0], "width": native.shape[1], "low": low, "high": high},
        **{part: values[index].tolist() for part, values in beside.items() if values is not None},
    }


def plain(value: Any) -> Any:
    """An option as a JSON value."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    return str(value)


def to_coco(explained: Explained, image_id: int = 0) -> list[dict[str, Any]]:
    """COCO's results format, one dict per detection: bbox is x, y, width, height; category_id is the label; with the mask as
    run lengths, and keypoints as x, y and score, where there are such."""
    detections = explained.detections
    rows = zip(detections.boxes.tolist(), detections.labels.tolist(), detections.scores.tolist(), strict=True)
    return [
        {
            "image_id": image_id,
            "category_id": label,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": score,
            **_beside_box(explained, index),
        }
        for index, ((x1, y1, x2, y2), label, score) in enumerate(rows)
    ]


def _beside_box(explained: Explained, index: int) -> dict[str, Any]:
    masks, keypoints = explained.detections.masks, explained.detections.keypoints
    entries: dict[str, Any] = {}
    if masks is not None:
        from pycocotools.mask import encode

        lengths = encode(masks[index].cpu().numpy().astype("uint8", order="F"))
        entries["segmentation"] = {"size": list(lengths["size"]), "counts": lengths["counts"].decode("ascii")}
    if keypoints is not None:
        entries["keypoints"] = keypoints[index].flatten().tolist()
    return entries


def to_supervision(explained: Explained) -> Any:
    """supervision.Detections, with masks where there are any; in `data` the class names, the candidates' rows, and turned boxes'
    corners, under the name by which its OrientedBoxAnnotator finds them."""
    try:
        import supervision
    except ImportError:
        raise WhyboxError("to_supervision needs the package supervision: pip install supervision") from None
    import numpy as np

    detections = explained.detections
    masks, corners = _masks(detections), detections.corners
    turned = {} if corners is None else {"xyxyxyxy": corners.detach().cpu().float().numpy()}
    return supervision.Detections(
        # float(), because NumPy has no bfloat16.
        xyxy=detections.boxes.detach().cpu().float().numpy(),
        confidence=detections.scores.detach().cpu().float().numpy(),
        class_id=detections.labels.detach().cpu().numpy().astype(int),
        mask=None if masks is None else masks.numpy(),
        data={"class_name": np.array(explained.names, dtype=str), "source": detections.source.detach().cpu().numpy(), **turned},
    )


def _masks(detections: Detections) -> Tensor | None:
    """(N,H,W) bool on the image's pixels; None where the detections have no masks."""
    return None if detections.masks is None else detections.masks.detach().cpu()


def to_fiftyone(explained: Explained) -> Any:
    """fiftyone.Detections, each with its map as the attribute `heatmap`, a fiftyone.Heatmap of raw values on the image's pixels;
    for a model of the whole image fiftyone.Classifications with maps."""
    try:
        import fiftyone
    except ImportError:
        raise WhyboxError("to_fiftyone needs the package fiftyone: pip install fiftyone") from None
    maps = explained.maps.at_image().detach().cpu().float()
    rows = [
        {
            "label": name,
            "confidence": float(score),
            "heatmap": fiftyone.Heatmap(map=values.numpy(), range=_ends(values)),
        }
        for name, score, values in zip(explained.names, explained.detections.scores.tolist(), maps, strict=True)
    ]
    if explained.whole_image:
        return fiftyone.Classifications(classifications=[fiftyone.Classification(**row) for row in rows])
    places = _places(explained)
    return fiftyone.Detections(detections=[fiftyone.Detection(**row, **place) for row, place in zip(rows, places, strict=True)])


def _ends(values: Tensor) -> list[float]:
    """The range in which FiftyOne colors a map; of a constant one, it must have a length all the same."""
    low, high = value_range([values])
    return [low, high if high > low else low + 1]


def _places(explained: Explained) -> list[dict[str, Any]]:
    """FiftyOne's boxes: x, y, width and height in parts of the image; a mask is that of the box alone."""
    height, width = explained.image.shape[-2:]
    masks = _masks(explained.detections)
    places: list[dict[str, Any]] = []
    for index, (x1, y1, x2, y2) in enumerate(explained.detections.boxes.tolist()):
        place: dict[str, Any] = {"bounding_box": [x1 / width, y1 / height, (x2 - x1) / width, (y2 - y1) / height]}
        if masks is not None:
            left, top = max(0, round(x1)), max(0, round(y1))
            # At least one pixel: an array without any is no mask.
            place["mask"] = masks[index, top : max(top + 1, round(y2)), left : max(left + 1, round(x2))].numpy()
        places.append(place)
    return places
