"""How far can the maps of two methods be trusted on this detector? A small evaluation, and what its table says."""

import whybox

model = whybox.load("whybox/scenes")
done = whybox.evaluate(
    model,
    "scenes:count=3",
    methods=["odam", "gradcam"],
    metrics=["energy_pointing_game", "odi", "leakage", "compactness"],
    iou=0.8,
    objects_per_image=6,
)
print(done.table())

for column in done.report.columns:
    gain = done.report.versus["odam", column.key]
    verdict = "beats" if gain.low > 0 else "is not shown to beat"
    print(f"{column.title}: ODAM {verdict} the better control ({gain.mean:+.3f}, {gain.low:+.3f} to {gain.high:+.3f})")
