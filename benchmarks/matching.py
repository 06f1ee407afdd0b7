"""What a map of an image-text model costs beside the model's own forward pass: ratios of processor time in one run, medians.

    python -m benchmarks.matching [--model ViT-B-16] [--texts 1 50] [--methods grad_eclip gradcam ...] [--repeats 5]

An open_clip model with random weights (the cost does not depend on them) on noise. Each method's time, from the image to the
maps of all texts, is divided by the time of the network's own encode_image on the same pixels; the texts' embeddings are
known to both (clip_surgery embeds them, and its neutral one, again). What needs hundreds of forward passes (rise, smoothgrad,
integrated_gradients) is timed with few, and the ratio is scaled up to its default number, marked with ~. What takes a pass for
each text is timed for one.
"""

import argparse
import json
import statistics
from typing import Any

import torch

import whybox
from benchmarks.timing import timed_in_turn
from whybox import registry
from whybox.model import Model

WORDS = ("ball", "tree", "car", "person", "dog", "house", "boat", "bird", "lamp", "chair")
SHORTENED: dict[str, tuple[dict[str, Any], float]] = {
    "rise": ({"masks": 20}, 100.0),
    "smoothgrad": ({"samples": 2}, 0.0),
    "integrated_gradients": ({"steps": 2}, 0.0),
}
"""Settings for the timing of slow methods; the factor to their defaults, 0: taken from the fields."""
ONE_TEXT = ("rise", "m2ib", "smoothgrad", "integrated_gradients", "game", "input_x_gradient")
"""Methods whose cost grows with the texts: timed for one."""


def texts(count: int) -> list[str]:
    """Different short texts."""
    return [f"a photo of a {WORDS[i % len(WORDS)]} number {i}" for i in range(count)]


def shortened(method: str) -> tuple[dict[str, Any], float]:
    """Settings that make a slow method quick, and by how much its default is slower."""
    settings, factor = SHORTENED.get(method, ({}, 1.0))
    if settings and not factor:
        ((name, value),) = settings.items()
        factor = registry.methods()[method].__dataclass_fields__[name].default / value
    return settings, factor


def measure(model: Model, image: torch.Tensor, method: str, repeats: int) -> tuple[float, float]:
    """Median ratio of method to the network's own pass, and the own pass's median seconds. The two take turns; the first
    turn is not counted."""
    settings, factor = shortened(method)
    pixels, _ = model.image_encoder.prepare(image[None])  # type: ignore[attr-defined]

    def own() -> None:
        with torch.no_grad():
            model.network.encode_image(pixels)  # type: ignore[attr-defined]

    def explained() -> None:
        whybox.explain(model, image, method=method, **settings)

    seconds = timed_in_turn({"explained": explained, "own": own}, repeats)
    pairs = zip(*seconds.values(), strict=True)
    ratios = [1 + (factor * (a - b) / b) if factor != 1 else a / b for a, b in pairs]
    return statistics.median(ratios), statistics.median(seconds["own"])


def main() -> None:
    """Print a line a method, or all of them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ViT-B-16")
    parser.add_argument("--texts", type=int, nargs="+", default=[1, 50])
    parser.add_argument("--methods", nargs="+")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    torch.manual_seed(0)
    import open_clip

    net = open_clip.create_model(chosen.model, pretrained=None).eval()
    bare = whybox.load(net, tokenizer=open_clip.get_tokenizer(chosen.model))
    height, width = net.visual.image_size
    image = torch.rand(3, height, width)
    known = registry.methods()
    methods = chosen.methods or [
        name for name, kind in known.items() if kind.needs <= bare.gives and not getattr(kind, "not_for", set()) & bare.gives
    ]
    rows = []
    for count in chosen.texts:
        model = bare.prompt(texts(count))  # type: ignore[attr-defined]
        for method in methods:
            if count > 1 and method in ONE_TEXT:
                continue
            ratio, seconds = measure(model, image, method, chosen.repeats)
            rows.append({"texts": count, "method": method, "ratio": ratio, "own_seconds": seconds})
            mark = "~" if method in SHORTENED else " "
            if not chosen.json:
                print(f"{count:3d} texts  {method:22s} {mark}{ratio:8.2f} x  own pass {seconds * 1000:.0f} ms", flush=True)
    if chosen.json:
        print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
