"""Images with boxes and masks in COCO's JSON format, from any folder that holds them: "coco:FOLDER", "coco:FILE.json"."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from whybox.data._coco_classes import read_classes
from whybox.data._coco_files import find_annotations, image_folder, read_content
from whybox.data._coco_images import ImageEntry, read_images
from whybox.data._coco_objects import ObjectEntry, read_objects
from whybox.data._fixations import Fixations, read_fixations
from whybox.data._looks import Annotated
from whybox.data._pictures import PictureFolder
from whybox.data._problems import Problems, digest_files
from whybox.data._segmentations import decode_mask
from whybox.data.images import read_picture
from whybox.errors import WhyboxError
from whybox.truth import DataSet, Sample, Truth

PREFIX = "coco"


@dataclass(frozen=True)
class CocoImage:
    """One annotated image with N objects.

    Attributes:
        path: The picture's file.
        name: Its name in the data set: that of the file, relative to the folder of the images.
        size: (W,H) in pixels.
        boxes: (N,4) xyxy in image pixels, clipped to the image.
        labels: (N,) 0 for the first class.
        iscrowd: (N,) true for a region of uncounted objects.
        ids: N annotation ids.
        segmentations: N masks in COCO's own form, or None where not all are known.
        fixations: N entries (F,3) x, y in image pixels and seconds, or None for an object without; or ().
        viewers: N entries of F names, who made each fixation, or None for an object without; or ().
    """

    path: Path
    name: str
    size: tuple[int, int]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    iscrowd: NDArray[np.bool_]
    ids: tuple[str, ...]
    segmentations: tuple[Any, ...] | None = None
    fixations: tuple[NDArray[np.float32] | None, ...] = ()
    viewers: tuple[tuple[str, ...] | None, ...] = ()

    def image(self) -> Image.Image:
        """Read the picture.

        Returns:
            The picture in RGB, of the annotated size.

        Raises:
            ImageError: It cannot be read, or has another size.
        """
        return read_picture(self.path, self.size)

    def masks(self) -> NDArray[np.bool_] | None:
        """Decode the masks.

        Returns:
            (N,H,W), or None where not all are known. An object of less than a pixel can have an empty one, as in COCO.
        """
        if self.segmentations is None:
            return None
        masks = np.zeros((len(self.ids), self.size[1], self.size[0]), dtype=bool)
        for mask, segmentation in zip(masks, self.segmentations, strict=True):
            mask[:] = decode_mask(segmentation, self.size)
        return masks

    def truth(self) -> Truth:
        """The annotations, with decoded masks; crowd regions are ignored."""
        masks = self.masks()
        return Truth(
            # Copies, because from_numpy shares memory, and whoever changes the truth must not change the data set.
            torch.from_numpy(self.boxes.copy()),
            torch.from_numpy(self.labels.copy()),
            self.ids,
            torch.from_numpy(self.iscrowd.copy()),
            None if masks is None else torch.from_numpy(masks),
            fixations=tuple(None if points is None else torch.from_numpy(points.copy()) for points in self.fixations),
            viewers=self.viewers,
        )


@dataclass
class CocoData:
    """The images of one annotation file.

    Attributes:
        name: "coco:" and the file.
        classes: The class names, in the order of their labels.
        images: The images that can be used.
        problems: One line on everything that was left out or repaired.
        digest: A digest of the files.
    """

    name: str
    classes: tuple[str, ...]
    images: tuple[CocoImage, ...]
    problems: tuple[str, ...]
    digest: str = ""

    @property
    def names(self) -> Sequence[str]:
        """The images' file names."""
        return [image.name for image in self.images]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        """Read one image and decode its masks.

        Args:
            index: From 0.

        Returns:
            The image and its annotations.

        Raises:
            ImageError: The picture cannot be read, or no longer has the size that it had when the data set was opened.
        """
        image = self.images[index]
        return Sample(image.name, image.image(), image.truth())


def open_data(
    rest: str,
    *,
    on_problem: str = "skip",
    split: str = "val",
    images: Path | None = None,
    fixations: Path | None = None,
    screen: str | None = None,
    free: str = "inside",
) -> DataSet:
    """Open the data set "coco:REST".

    Args:
        rest: A folder or an annotation file.
        on_problem: As for `read_coco`.
        split: As for `read_coco`.
        images: As for `read_coco`.
        fixations: As for `read_coco`.
        screen: As for `read_coco`.
        free: As for `read_coco`.

    Returns:
        The data set.

    Raises:
        WhyboxError: As for `read_coco`, or `rest` is empty.
    """
    if not rest:
        raise WhyboxError("coco needs a place: coco:FOLDER or coco:FILE.json")
    return read_coco(rest, split, images=images, fixations=fixations, screen=screen, free=free, on_problem=on_problem)


def read_coco(
    path: str | Path,
    split: str = "train",
    *,
    images: Path | None = None,
    fixations: Path | None = None,
    screen: str | None = None,
    free: str = "inside",
    on_problem: str = "skip",
) -> CocoData:
    """Read the images and annotations of a file, or of a folder that holds one.

    In a folder the file is the only JSON file, or the only one whose name holds the split's ("val.json",
    "instances_val2017.json"), there or below `annotations/`; caption files are passed over.

    Args:
        path: An annotation file, or its folder.
        split: Which of a folder's files to read.
        images: The folder of the images; by default they are looked for beside the file, in `images/`, and in the folders of
            COCO's own layout.
        fixations: A file or a folder of fixations, see docs/attention.md.
        screen: Where a picture was on the eye tracker's screen, see `read_fixations`.
        free: Whose the fixations on a picture without a named object are, see `read_fixations`.
        on_problem: "skip" leaves out what is broken, "refuse" stops at it.

    Returns:
        The data set.

    Raises:
        MissingSplitError: The folder has no single file for this split.
        WhyboxError: A file cannot be read or used as a whole, or there are problems and they are to be refused.
    """
    source = find_annotations(Path(path).expanduser(), split)
    problems = Problems(source, on_problem)
    content = read_content(source)
    folder = images.expanduser() if images else image_folder(source, content["images"], split)
    classes, labels = read_classes(content["categories"], problems)
    entries = read_images(content, PictureFolder(folder), problems)
    objects = read_objects(content, entries, labels, problems)
    looked = None
    if fixations:
        annotated = Annotated(entries, objects, classes)
        looked = read_fixations(fixations.expanduser(), annotated, problems, screen=screen, free=free)
    gathered = tuple(_gather(entries, objects, looked, problems))
    digest = digest_files(source, *(looked.files if looked else ()))
    if looked:
        # Other options are other annotations.
        digest += f" {screen} {free}"
    return CocoData(f"{PREFIX}:{source}", classes, gathered, problems.settle(), digest)


def _gather(
    entries: Mapping[str, ImageEntry],
    objects: Sequence[ObjectEntry],
    looked: Fixations | None,
    problems: Problems,
) -> Iterator[CocoImage]:
    """Each image with its objects. Masks are for all objects of an image or for none; no mask is made from a box."""
    by_image = defaultdict(list)
    for row in objects:
        by_image[row.image.id].append(row)
    with_masks = any(row.segmentation is not None for row in objects)
    for number, entry in entries.items():
        rows = by_image[number]
        if with_masks and (bare := [row.id for row in rows if row.bare]):
            where = f"image {entry.name!r} (id {number}), annotation {', '.join(bare)}"
            problems.note(where, "no segmentation, though others of the file have one: no masks for this image")
        complete = with_masks and all(row.segmentation is not None for row in rows)
        yield CocoImage(
            path=entry.path,
            name=entry.name,
            size=entry.size,
            # The reshape is for images without objects, whose boxes would come out as (0,).
            boxes=np.asarray([row.box for row in rows], dtype=np.float32).reshape(-1, 4),
            labels=np.asarray([row.label for row in rows], dtype=np.int64),
            iscrowd=np.asarray([row.iscrowd for row in rows], dtype=bool),
            ids=tuple(row.id for row in rows),
            segmentations=tuple(row.segmentation for row in rows) if complete else None,
            fixations=() if looked is None else tuple(looked.points.get(row.id) for row in rows),
            viewers=() if looked is None else tuple(looked.viewers.get(row.id) for row in rows),
        )
