"""The tables of the ODAM paper on distillation: what trains each row, and the published numbers."""

from collections.abc import Mapping
from dataclasses import dataclass

SCRIPT = "examples/distill_coco.py"
LAUNCH = f"torchrun --nproc-per-node 8 {SCRIPT} --coco COCO"
RETINANET, RETINANET_X, FCOS = "RetinaNet", "RetinaNet, large teacher", "FCOS"


@dataclass(frozen=True)
class StudentRow:
    """One row: a teacher, a student alone, or a student that was taught.

    Attributes:
        key: Its name on the command line.
        title: Its title.
        numbers: The paper's, one per column of its table.
        words: What follows `LAUNCH` in the command that trains it; empty: it cannot be trained here.
    """

    key: str
    title: str
    numbers: tuple[float, ...]
    words: str = ""


@dataclass(frozen=True)
class StudentTable:
    """One table.

    Attributes:
        name: Its name on the command line.
        title: Its title.
        columns: Titles by the field of `CocoAP` that a column shows, in per cent.
        rows: Its rows.
        caveats: Sentences on what cannot be the same as in the paper.
    """

    name: str
    title: str
    columns: Mapping[str, str]
    rows: tuple[StudentRow, ...]
    caveats: tuple[str, ...] = ()


NEEDS = (
    "COCO 2017, from cocodataset.org: unpack train2017.zip, val2017.zip and annotations_trainval2017.zip into one folder, COCO, "
    "which then has train2017/, val2017/ and annotations/. Backbones with ImageNet's weights, which torchvision downloads. And "
    "detectors trained by the commands below; a step has 16 images over all GPUs, also on fewer than eight. Then `whybox "
    f"reproduce TABLE --data coco:COCO:split=val2017 --row KEY={SCRIPT}:DETECTOR@OUT/model.pt`, with --row once per row; "
    "DETECTOR is a function of that file, such as retinanet_resnet50"
)
CAVEATS = (
    "From the paper, or FGD, on which it builds: SGD, learning rate .01, 24 epochs with steps at 16 and 22, gradients clipped at "
    "a norm of 35, 16 images per step, neck and head inherited from the teacher, 800 x 1333 pixels; for FCOS the shorter side is "
    "640 to 800 by turns. The student alone trains as long.",
    "Different: the detectors, the backbones' ImageNet weights (the paper's FCOS has caffe's) and the normalization of images "
    "are torchvision's. A teacher is trained by the same schedule; the paper's are mmdetection's. Numbers of teacher "
    "and student alone will differ from the paper's, so compare the differences between rows.",
    "The constants that the paper leaves open have the defaults of `odam_kd`: see its page.",
    "The areas of small, medium and large objects are those of their masks, as in COCO.",
    "To try the way with compact detectors: `whybox train`, `whybox distill --teacher DIR --loss LOSS`, and --row KEY=DIR. "
    "Such numbers are not comparable with the paper's.",
)


def _student(detector: str, *more: str) -> str:
    return " ".join([f"--detector {detector} --body resnet50", *more])


def _taught(detector: str, body: str, loss: str, out: str, *more: str) -> str:
    teacher = f"--teacher {body}@{detector}-{body}/model.pt"
    return _student(detector, *more, teacher, f"--loss {loss}", f"--out {out}")


def _teacher(detector: str, body: str) -> str:
    return f"--detector {detector} --body {body} --out {detector}-{body}"


# Such a softmax is flat, and the top-down attention 1 everywhere.
_FLAT = "sharpness=1000000"
_SIDES = "--sides 640 672 704 736 768 800"

STUDENT_TABLES: Mapping[str, StudentTable] = {
    table.name: table
    for table in (
        StudentTable(
            "odam-table7",
            "What ODAM-KD's parts give: a RetinaNet with ResNet-50, taught by one with ResNet-101",
            {"ap": "mAP", "recall": "mAR"},
            (
                StudentRow("teacher", "teacher, ResNet-101", (38.9, 54.8), _teacher("retinanet", "resnet101")),
                StudentRow("student", "student alone, ResNet-50", (37.4, 53.9), _student("retinanet", "--out retinanet-alone")),
                StudentRow("1", "objects without key predictions, bottom-up attention", (39.1, 55.3)),
                StudentRow(
                    "2",
                    "objects with key predictions, bottom-up attention",
                    (39.5, 56.1),
                    _taught("retinanet", "resnet101", f"odam_kd:background=0:{_FLAT}", "retinanet-2"),
                ),
                StudentRow(
                    "3",
                    "all objects, bottom-up attention",
                    (39.5, 55.9),
                    _taught("retinanet", "resnet101", "fgd:background=0", "retinanet-3"),
                ),
                StudentRow(
                    "4",
                    "objects with key predictions, ODAM's attention",
                    (39.8, 56.3),
                    _taught("retinanet", "resnet101", "odam_kd:background=0", "retinanet-4"),
                ),
                StudentRow(
                    "5", "(3) and background: FGD", (39.7, 56.1), _taught("retinanet", "resnet101", "fgd", "retinanet-fgd")
                ),
                StudentRow(
                    "6",
                    "(4) and background: ODAM-KD",
                    (40.1, 56.5),
                    _taught("retinanet", "resnet101", "odam_kd", "retinanet-odam"),
                ),
                StudentRow(
                    "7",
                    "(6) with Grad-CAM's maps",
                    (39.5, 56.2),
                    _taught("retinanet", "resnet101", "odam_kd:form=gradcam", "retinanet-gradcam"),
                ),
            ),
            (
                *CAVEATS,
                "Row 1 has no command: `odam_kd` cannot leave out the objects that have key predictions. In row 2 the softmax of "
                "the top-down attention is flat, so that bottom-up attention remains. Row 7 is row 6 with other maps by the "
                "paper's text.",
            ),
        ),
        StudentTable(
            "odam-table8",
            "Distillation of detectors",
            {"ap": "mAP", "ap_small": "S", "ap_medium": "M", "ap_large": "L"},
            (
                StudentRow("retinanet/teacher", f"{RETINANET}: teacher, ResNet-101", (38.9,), _teacher("retinanet", "resnet101")),
                StudentRow(
                    "retinanet/student",
                    f"{RETINANET}: student alone, ResNet-50",
                    (37.4, 20.6, 40.7, 49.7),
                    _student("retinanet", "--out retinanet-alone"),
                ),
                StudentRow("retinanet/fgfi", f"{RETINANET}: FGFI", (38.6, 21.4, 42.5, 51.5)),
                StudentRow("retinanet/gid", f"{RETINANET}: GID", (39.1, 22.8, 43.1, 52.3)),
                StudentRow(
                    "retinanet/fgd",
                    f"{RETINANET}: FGD",
                    (39.7, 22.0, 43.7, 53.6),
                    _taught("retinanet", "resnet101", "fgd", "retinanet-fgd"),
                ),
                StudentRow(
                    "retinanet/odam_kd",
                    f"{RETINANET}: ODAM-KD",
                    (40.1, 22.8, 44.0, 54.1),
                    _taught("retinanet", "resnet101", "odam_kd", "retinanet-odam"),
                ),
                StudentRow(
                    "large/teacher",
                    f"{RETINANET_X}: ResNeXt-101 64x4d",
                    (41.0,),
                    _teacher("retinanet", "resnext101_64x4d"),
                ),
                StudentRow("large/fkd", f"{RETINANET_X}: FKD", (39.6, 22.7, 43.3, 52.5)),
                StudentRow("large/cwd", f"{RETINANET_X}: CWD", (40.8, 22.7, 44.5, 55.3)),
                StudentRow(
                    "large/fgd",
                    f"{RETINANET_X}: FGD",
                    (40.7, 22.9, 45.0, 54.7),
                    _taught("retinanet", "resnext101_64x4d", "fgd", "retinanet-x-fgd"),
                ),
                StudentRow(
                    "large/odam_kd",
                    f"{RETINANET_X}: ODAM-KD",
                    (41.0, 24.0, 45.3, 55.0),
                    _taught("retinanet", "resnext101_64x4d", "odam_kd", "retinanet-x-odam"),
                ),
                StudentRow("fcos/teacher", f"{FCOS}: teacher, ResNet-101", (40.8,), f"{_teacher('fcos', 'resnet101')} {_SIDES}"),
                StudentRow(
                    "fcos/student",
                    f"{FCOS}: student alone, ResNet-50",
                    (38.5, 21.9, 42.8, 48.6),
                    _student("fcos", _SIDES, "--out fcos-alone"),
                ),
                StudentRow("fcos/gid", f"{FCOS}: GID", (42.0, 25.6, 45.8, 54.3)),
                StudentRow(
                    "fcos/fgd",
                    f"{FCOS}: FGD",
                    (42.7, 27.2, 46.5, 55.5),
                    _taught("fcos", "resnet101", "fgd", "fcos-fgd", _SIDES),
                ),
                StudentRow(
                    "fcos/odam_kd",
                    f"{FCOS}: ODAM-KD",
                    (42.8, 27.4, 46.7, 55.0),
                    _taught("fcos", "resnet101", "odam_kd", "fcos-odam", _SIDES),
                ),
            ),
            (*CAVEATS, "FGFI, GID, FKD and CWD have no command: they are not among the losses here."),
        ),
    )
}
