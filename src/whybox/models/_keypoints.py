"""The names of keypoints."""

from collections.abc import Sequence

PERSON = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow", "right_elbow",
    "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle",
)  # fmt: skip
"""Those of a person, in COCO's order."""


def keypoint_names(count: int) -> Sequence[str]:
    """Names for a network that has none: of 17 keypoints COCO's, else their numbers."""
    return PERSON if count == len(PERSON) else tuple(map(str, range(count)))
