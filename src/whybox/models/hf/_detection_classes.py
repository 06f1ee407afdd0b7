"""Hugging Face's detection transformers by their classes: which are known, what their processors do, where their parts are."""

from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from whybox.errors import WhyboxError
from whybox.models.hf._mask_heads import MASK_HEADS


@dataclass(frozen=True)
class Family:
    """One architecture's post-processing.

    Attributes:
        processor: The image processor's class.
        rule: "best": one class per query, by softmax over the classes and "no object"; "ranked": the `top` best of all
            (query, class) pairs, by sigmoid.
        top: See `rule`; None: as many as there are queries.
        chosen: Whether the queries are the encoder's best places, so that a row is another object in another image.
        dense: Whether all attention is dense; deformable attention has no matrix of probabilities.
        quads: Whether the network predicts four corners, (M,10), in place of boxes (M,4): cx, cy, then x and y of each corner
            from there, plus 0.5. The box is the one around them.
        inclusive: Whether a detection whose score is the threshold itself is kept.
        masks: Whether the network predicts the mask of every query in the same pass.
    """

    processor: str
    rule: Literal["best", "ranked"]
    top: int | None = None
    dense: bool = False
    chosen: bool = False
    quads: bool = False
    inclusive: bool = False
    masks: bool = False


FAMILIES = {
    "detr": Family("DetrImageProcessor", "best", dense=True),
    "table_transformer": Family("DetrImageProcessor", "best", dense=True),
    "yolos": Family("YolosImageProcessor", "best", dense=True),
    "conditional_detr": Family("ConditionalDetrImageProcessor", "ranked", 100, dense=True),
    "dab_detr": Family("ConditionalDetrImageProcessor", "ranked", 100, dense=True),
    "deformable_detr": Family("DeformableDetrImageProcessor", "ranked", 100),
    "lw_detr": Family("DeformableDetrImageProcessor", "ranked", 100, chosen=True),
    "rt_detr": Family("RTDetrImageProcessor", "ranked", chosen=True),
    "rt_detr_v2": Family("RTDetrImageProcessor", "ranked", chosen=True),
    "d_fine": Family("RTDetrImageProcessor", "ranked", chosen=True),
    "deimv2": Family("RTDetrImageProcessor", "ranked", chosen=True),
    "rf_detr": Family("RfDetrImageProcessor", "ranked", chosen=True),
    "pp_doclayout_v2": Family("PPDocLayoutV2ImageProcessor", "ranked", chosen=True, inclusive=True),
    "pp_doclayout_v3": Family("PPDocLayoutV3ImageProcessor", "ranked", chosen=True, inclusive=True, masks=True),
    "pp_doclayout_v4": Family("PPDocLayoutV4ImageProcessor", "ranked", chosen=True, inclusive=True, quads=True),
}
"""By the name of the package in transformers.models."""

_TEXT_MAP = (
    "gives one map of where text is, and no boxes: the processor traces them, and their scores, on the map; to explain them, "
    "read them off it yourself: whybox.load(module, candidates=fn, features=[...], size=(h, w))"
)
_MASKS_ALONE = (
    "gives masks and no boxes: to explain these, draw the boxes around the masks yourself, whybox.load(module, "
    'candidates=fn, features=[...], size=(h, w)), where fn returns {"boxes": ..., "scores": ..., "masks": ...}'
)
REFUSED = {
    "OneFormerForUniversalSegmentation": _MASKS_ALONE,
    "EomtForUniversalSegmentation": _MASKS_ALONE,
    "EomtDinov3ForUniversalSegmentation": _MASKS_ALONE,
    "VideomtForUniversalSegmentation": "segments videos, and one image at a time is explained here: use a Mask2Former",
    "PPOCRV5MobileDetForObjectDetection": _TEXT_MAP,
    "PPOCRV5ServerDetForObjectDetection": _TEXT_MAP,
    "PPOCRV6MediumDetForObjectDetection": _TEXT_MAP,
    "PPOCRV6SmallDetForObjectDetection": _TEXT_MAP,
    "DetaForObjectDetection": "is a model that transformers no longer maintains or has: use a Deformable DETR or an RT-DETR",
    "ConditionalDetrForSegmentation": (
        "computes other boxes than the detector in it, without the reference points of its queries; for those of the detector: "
        "whybox.load(module.conditional_detr)"
    ),
}
"""Classes that are refused, and why: words that follow the name of the class."""


def known_class(module: nn.Module) -> tuple[str, str] | None:
    """Package and name of the class, of those that are supported or refused here, that the module's class is or derives from."""
    for kind in type(module).__mro__:
        path, name = kind.__module__.split("."), kind.__name__
        if path[:2] != ["transformers", "models"]:
            continue
        if name in REFUSED or name in MASK_HEADS or (path[2] in FAMILIES and name.endswith("ForObjectDetection")):
            return path[2], name
    return None


def made_class(config: Any) -> str | None:
    """The name of the class that a stored configuration was saved with."""
    return config.architectures[0] if config.architectures else None


def refuse(kind: str | None) -> None:
    """Refuse a class by its name, where it is one of those that cannot be explained."""
    if kind in REFUSED:
        raise WhyboxError(f"{kind} {REFUSED[kind]}")


def default_processor(family: Family) -> Any:
    """The family's image processor with its own settings."""
    import transformers

    return getattr(transformers, family.processor)()


def class_columns(module: Any, family: Family) -> int:
    """The number of classes that the network scores; where its head has no known name, that of the configuration."""
    for name, part in module.named_modules():
        if name.rpartition(".")[2] in ("class_labels_classifier", "class_predictor", "class_embed", "enc_score_head"):
            last = [layer for layer in part.modules() if hasattr(layer, "out_features")]
            if last:
                return int(last[-1].out_features) - (family.rule == "best")
    return len(module.config.id2label)


def layer_paths(module: Any) -> dict[str, str]:
    """Layer names and the modules behind them, the default first."""
    if hasattr(module, "vit"):
        blocks = len(module.vit.encoder.layer)
        # The output of the block before the last is what enters the last one.
        return {"tokens": f"vit.encoder.layer.{blocks - 2}" if blocks > 1 else "vit.embeddings"}
    # DEIMv2 has no "backbone": its "conv_encoder" is the backbone with a projection of each stage.
    backbone = "model.backbone" if hasattr(module.model, "backbone") else "model.conv_encoder"
    if hasattr(module.get_submodule(backbone), "conv_encoder"):
        backbone = f"{backbone}.conv_encoder"
    paths = {"backbone": backbone}
    return paths | {"encoder": "model.encoder"} if hasattr(module.model, "encoder") else paths
