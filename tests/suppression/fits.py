"""Rules by name for tests that go through all of them: those that need fitted weights get some."""

from whybox.duplicates import make_rule

PAIR = (9.0, 3.0, -0.5, 0.3, 0.2, -4.0)
BOX = (1.5, 0.7, 0.4, 0.2, 1.0)


def any_rule(name, **options):
    """The rule, with weights where it has no defaults."""
    if name == "fitted":
        options = {"pair": PAIR, "box": BOX, **options}
    if name == "fitted_odam":
        options = {"pair": (*PAIR[:-1], 2.0, 0.5, -1.0, PAIR[-1]), "box": BOX, **options}
    return make_rule(name, **options)
