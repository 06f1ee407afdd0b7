"""One heat map for every detection, saved as a page, overlays and raw maps: python examples/quickstart.py [IMAGE] [MODEL]"""

import sys

import whybox
from whybox.data.scenes import draw_scene

image = sys.argv[1] if len(sys.argv) > 1 else draw_scene(3, seed=1).image
model = whybox.load(sys.argv[2] if len(sys.argv) > 2 else "whybox/scenes")

result = whybox.explain(model, image, score_threshold=0.5)
for name, score, values in zip(result.names, result.detections.scores.tolist(), result.maps.native, strict=True):
    print(f"{name:10} {score:.2f}  map from {float(values.min()):.2e} to {float(values.max()):.2e}")
result.save("quickstart")
print("open quickstart/index.html")
