"""The layouts of the generated scenes: which things stand where, for each variant."""

from collections.abc import Callable, Mapping

from whybox.data._scene_stage import Thing
from whybox.data._sprites import CLASSES, CLUTTER, OBJECTS, Rng


def _mixture(horizon: float, size: tuple[int, int], rng: Rng) -> list[Thing]:
    """Objects of all classes and clutter on the ground, larger the nearer they stand."""
    wanted = [str(name) for name in rng.choice(CLASSES, rng.integers(2, 11))]
    if rng.random() < 0.25:
        wanted += [wanted[0]] * int(rng.integers(1, 4))
    wanted += [str(name) for name in rng.choice(list(CLUTTER), rng.integers(2, 8))]
    return [_stand(name, rng.uniform(0.02, 0.98), _depth(horizon, rng), horizon, size, rng) for name in wanted]


def _depth(horizon: float, rng: Rng) -> float:
    """A foot's height on the image, 0 the top and 1 the bottom."""
    # Up to 1.06, so that some things are cut off by the lower edge.
    return float(rng.uniform(horizon + 0.08, 1.06))


def _stand(name: str, x: float, y: float, horizon: float, size: tuple[int, int], rng: Rng) -> Thing:
    """A thing of random color whose foot is at (x, y), parts of the image's width and height."""
    _, _, tall, colors = OBJECTS.get(name) or CLUTTER[name]
    # From a third of the listed height at the horizon to a little more than it at the image's lower edge.
    near = 0.34 + 0.76 * (y - horizon) / (1 - horizon)
    height = max(14, round(tall * near * rng.uniform(0.72, 1.35) * size[1] / 240))
    return Thing(name, str(rng.choice(colors)), height, x * size[0], y * size[1])


def _lone(horizon: float, size: tuple[int, int], rng: Rng) -> list[Thing]:
    """One object, well inside the image and not far off, and clutter."""
    name = str(rng.choice(CLASSES))
    thing = _stand(name, rng.uniform(0.2, 0.8), rng.uniform(horizon + 0.3, 0.98), horizon, size, rng)
    wanted = [str(name) for name in rng.choice(list(CLUTTER), rng.integers(1, 6))]
    return [thing] + [_stand(name, rng.uniform(0.02, 0.98), _depth(horizon, rng), horizon, size, rng) for name in wanted]


def _crowd(_: float, size: tuple[int, int], rng: Rng) -> list[Thing]:
    """Knots of people who stand close together, with a few other things, on a ground that reaches far up."""
    horizon, things = 0.2, []
    for _ in range(rng.integers(2, 6)):
        middle, foot, spread = rng.uniform(0.1, 0.9), rng.uniform(0.5, 0.98), rng.uniform(0.05, 0.11)
        for _ in range(rng.integers(5, 13)):
            x, y = rng.normal(middle, spread), min(foot + rng.normal(0, 0.04), 1.05)
            things.append(_stand("person", float(x), float(y), horizon, size, rng))
    for name in rng.choice([*CLUTTER, *CLASSES], rng.integers(1, 5)):
        things.append(_stand(str(name), rng.uniform(0.05, 0.95), _depth(0.3, rng), horizon, size, rng))
    return things


LAYOUTS: Mapping[str, Callable[[float, tuple[int, int], Rng], list[Thing]]] = {
    "mixed": _mixture,
    "crowd": _crowd,
    "single": _lone,
}
"""By variant: the horizon's height on the image (0 the top and 1 the bottom) and (width, height) in pixels -> the things."""
