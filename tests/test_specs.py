"""Names with settings in one word."""

import pytest

from whybox.errors import WhyboxError
from whybox.specs import format_spec, parse_spec


@pytest.mark.parametrize(
    ("text", "name", "options"),
    [
        ("odam", "odam", {}),
        ("drise:masks=500:grid=8", "drise", {"masks": 500, "grid": 8}),
        ("deletion:fill=blurred:every=2.5", "deletion", {"fill": "blurred", "every": 2.5}),
        ("odam:crop-padding=false:layer=none", "odam", {"crop_padding": False, "layer": None}),
    ],
)
def test_a_spec_is_read_and_written_back(text, name, options):
    assert parse_spec(text) == (name, options)
    assert parse_spec(format_spec(name, options)) == (name, options)


def test_a_setting_without_a_value_is_refused():
    with pytest.raises(WhyboxError, match="expected name:key=value, got 'masks'"):
        parse_spec("drise:masks")
