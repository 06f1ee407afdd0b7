"""Why is there no box? Cover half of an object, draw a box where it stands, and ask what speaks for it and against it."""

import torch

import whybox
from whybox.data.scenes import draw_scene

model = whybox.load("whybox/scenes")
image = whybox.read_image(draw_scene(3, seed=1).image)
best = whybox.detect(model, image)[0]
x1, y1, x2, y2 = best.boxes[0].round().int().tolist()
image[:, y1 : (y1 + y2) // 2, x1:x2] = 0.5

drawn = {"boxes": best.boxes, "labels": best.labels}
trace = whybox.trace(model, image)
for target in ("logit", "against"):
    result = whybox.explain(model, trace, detections=drawn, target=target)
    covered = torch.zeros_like(image[0])
    covered[y1 : (y1 + y2) // 2, x1:x2] = 1
    maps = result.maps.at_image()[0]
    print(f"{target:8} {float((maps * covered).sum() / maps.sum()):.0%} of the map lies on the covered half")
print(f"score {float(best.scores[0]):.2f} before; now {result.notes[0]}")
