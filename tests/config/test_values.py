import pytest

from diffexp.config.layers import override_layer, parse_value
from diffexp.errors import UserError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("True", True),
        ("true", True),
        ("None", None),
        ("null", None),
        ("", None),
        ("1e-4", 1e-4),
        ("7", 7),
        ("1000/T", "1000/T"),
        ("quadratic-0.8", "quadratic-0.8"),
        ("{'lr': 0.1, 'betas': [0.9, 0.999]}", {"lr": 0.1, "betas": [0.9, 0.999]}),
        ("{lr: 0.1}", {"lr": 0.1}),
        ("(1, 2)", [1, 2]),
        ("[a, b]", ["a", "b"]),
        ("'1'", "1"),
        ("a=b", "a=b"),
    ],
)
def test_values_in_pythons_and_in_yamls_writing(text, value):
    assert parse_value(text, "key") == value
    assert type(parse_value(text, "key")) is type(value)


@pytest.mark.parametrize("text", ["[1", "{1, 2}", "b'x'", "1j", "{1: 2}", "!!python/object/apply:os.getcwd []"])
def test_what_a_config_cannot_hold_is_refused(text):
    with pytest.raises(UserError, match=r"command line: optim\.lr:"):
        parse_value(text, "optim.lr")


def test_dotted_keys_nest():
    assert override_layer("a.b.c=1").values == {"a": {"b": {"c": 1}}}


@pytest.mark.parametrize(
    ("text", "message"), [("lr", "not of the form key=value"), ("=1", "empty key"), ("a..b=1", "empty key")]
)
def test_what_is_no_override_is_refused(text, message):
    with pytest.raises(UserError, match=message):
        override_layer(text)
