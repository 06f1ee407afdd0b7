"""CrowdHuman's evaluation once more, in slow loops written from its definition, and crowds to try both on."""

import itertools
import math

import numpy as np

SIZE = (100, 120)
REFERENCES = [0.01, 0.0178, 0.0316, 0.0562, 0.1, 0.1778, 0.3162, 0.5623, 1.0]


def clip(box, size):
    height, width = size
    x1, y1, x2, y2 = (float(value) for value in box)
    return (
        min(max(x1, 0), width - 1),
        min(max(y1, 0), height - 1),
        min(max(x2, 0), width),
        min(max(y2, 0), height),
    )


def area(box):
    return max(box[2] - box[0], 0) * max(box[3] - box[1], 0)


def shared(a, b):
    return max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)


def iou(a, b):
    return shared(a, b) / (area(a) + area(b) - shared(a, b) + 1e-6)


def inside(box, regions):
    return any(shared(box, region) / (area(box) + 1e-6) > 0.5 for region in regions)


def people_of(truth):
    boxes = [clip(box, truth["size"]) for box in truth["boxes"]]
    people = [box for box, ignore in zip(boxes, truth["ignore"], strict=True) if not ignore]
    return people, [box for box, ignore in zip(boxes, truth["ignore"], strict=True) if ignore]


def ranked(detections, truths):
    """[(score, hit), ...] from the highest score down, and how many people there are."""
    listed, total = [], 0
    for found, truth in zip(detections, truths, strict=True):
        people, regions = people_of(truth)
        total += len(people)
        free = set(range(len(people)))
        pairs = [(score, clip(box, truth["size"])) for score, box in zip(found["scores"], found["boxes"], strict=True)]
        for score, box in sorted(pairs, key=lambda pair: -pair[0]):
            best = max(sorted(free), key=lambda i: iou(box, people[i]), default=None)
            if best is not None and iou(box, people[best]) > 0.5:
                free.remove(best)
                listed.append((score, True))
            elif not inside(box, regions):
                listed.append((score, False))
    return sorted(listed, key=lambda pair: -pair[0]), total


def plain_ap(detections, truths):
    listed, total = ranked(detections, truths)
    points, hits = [], 0
    for k, (_, hit) in enumerate(listed, start=1):
        hits += hit
        points.append((hits / total, hits / k))
    steps = itertools.pairwise(points)
    return sum((after[0] - before[0]) * (after[1] + before[1]) / 2 for before, after in steps), hits / total


def plain_miss_rate(detections, truths):
    listed, total = ranked(detections, truths)
    logarithms = []
    for reference in REFERENCES:
        hits = alarms = 0
        for _, hit in listed:
            hits, alarms = hits + hit, alarms + (not hit)
            if alarms / len(truths) >= reference:
                break
        if hits == total:
            return 0.0
        logarithms.append(math.log(1 - hits / total))
    return math.exp(sum(logarithms) / len(logarithms))


def heaviest(boxes, people, taken=()):
    """(sum of IoUs, pairs) of the best one-to-one pairing, by trying every one."""
    if not boxes:
        return 0.0, []
    options = [heaviest(boxes[1:], people, taken)]
    for i, person in enumerate(people):
        if i not in taken and iou(boxes[0], person) > 0.5:
            weight, pairs = heaviest(boxes[1:], people, (*taken, i))
            options.append((weight + iou(boxes[0], person), [(len(boxes), i), *pairs]))
    return max(options, key=lambda option: option[0])


def plain_jaccard(detections, truths, threshold):
    """The mean over the images at one threshold, or None."""
    ratios = []
    for found, truth in zip(detections, truths, strict=True):
        people, regions = people_of(truth)
        every = [(float(score), clip(box, truth["size"])) for score, box in zip(found["scores"], found["boxes"], strict=True)]
        boxes = [box for score, box in every if score > threshold]
        _, pairs = heaviest(boxes, people)
        paired_boxes = {len(boxes) - left for left, _ in pairs}
        paired_people = {i for _, i in pairs}
        n = len(boxes) - sum(inside(box, regions) for i, box in enumerate(boxes) if i not in paired_boxes)
        m = len(people) - sum(inside(box, regions) for i, box in enumerate(people) if i not in paired_people)
        if n or m:
            ratios.append(len(pairs) / (m + n - len(pairs) + 1e-6))
    return sum(ratios) / len(ratios) if ratios else None


def crowd(seed, images=4, most=6):
    """Random detections and truth of some images: people beside and beyond the image, regions, near and far detections."""
    rng = np.random.default_rng(seed)
    detections, truths = [], []
    for _ in range(images):
        corners = rng.uniform(-20, 90, (rng.integers(0, most), 2))
        people = np.concatenate([corners, corners + rng.uniform(15, 60, corners.shape)], axis=1)
        sources = np.repeat(people, rng.integers(0, 3, len(people)), axis=0)
        near = sources + rng.normal(0, 4, sources.shape)
        far = np.concatenate([rng.uniform(0, 60, (rng.integers(0, 3), 2))] * 2, axis=1) + [0, 0, 30, 40]
        boxes = np.concatenate([near, far])
        scores = rng.random(len(boxes))
        detections.append({"boxes": boxes, "scores": scores})
        truths.append({"boxes": people, "ignore": rng.random(len(people)) < 0.3, "size": SIZE})
    return detections, truths


def shuffled(detections, truths, seed):
    """The same images and boxes in another order."""
    rng = np.random.default_rng(seed)
    mixed, mixed_truths = [], []
    for i in rng.permutation(len(truths)):
        rows, columns = rng.permutation(len(detections[i]["boxes"])), rng.permutation(len(truths[i]["boxes"]))
        mixed.append({name: values[rows] for name, values in detections[i].items()})
        truth = truths[i]
        mixed_truths.append({"boxes": truth["boxes"][columns], "ignore": truth["ignore"][columns], "size": truth["size"]})
    return mixed, mixed_truths
