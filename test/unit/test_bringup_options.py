"""Options of a bring-up: texts in, checked values out."""

import pytest

from rrto_ros.bringup.options import Options
from rrto_ros.errors import ConfigError


def test_texts_become_values_of_their_type():
    options = Options.from_texts({"robot": "r2", "demo": "True", "frames": "7", "domain": "3"})
    assert (options.robot, options.demo, options.frames, options.domain) == ("r2", True, 7, 3)


def test_defaults_as_texts_give_the_defaults_again():
    texts = {name: default for name, default, _, _ in Options.describe()}
    assert Options.from_texts(texts) == Options()


@pytest.mark.parametrize(
    ("texts", "named"),
    [
        ({"device": "tpu"}, ["'tpu'", "cpu, gpu, null"]),
        ({"mode": "fast"}, ["'fast'", "rpc, batched"]),
        ({"side": "left"}, ["'left'", "both, robot, edge"]),
        ({"domain": "x"}, ["'x'", "whole number"]),
        ({"domain": "233"}, ["233", "0 to 232"]),
        ({"demo": "maybe"}, ["'maybe'", "true or false"]),
        ({"robot": "7up"}, ["'7up'", "letter"]),
        ({"frames": "-1"}, ["-1", "0 or more"]),
        ({"min_length": "-1"}, ["min_length", "-1", "0 or more"]),
        ({"plan_cache_bytes": "-2"}, ["plan_cache_bytes", "-2", "0 or more"]),
        ({"search": "luck"}, ["'luck'", "operator_sequence"]),
        ({"run_ahead": "yes"}, ["'yes'", "off, reads, auto"]),
        ({"input": "/nowhere/at/all.png"}, ["/nowhere/at/all.png", "no such"]),
        ({"colour": "red"}, ["'colour'", "robot"]),
    ],
)
def test_a_wrong_value_is_named_with_what_is_wanted(texts, named):
    with pytest.raises(ConfigError) as error:
        Options.from_texts(texts)
    for part in named:
        assert part in str(error.value)


def test_the_domain_comes_from_the_option_before_the_environment(monkeypatch):
    monkeypatch.setenv("ROS_DOMAIN_ID", "12")
    assert Options().domain_number() == 12
    assert Options(domain=5).domain_number() == 5
    assert Options().environment() == {}
    assert Options(domain=5).environment() == {"ROS_DOMAIN_ID": "5"}
    assert Options(side="edge").environment() == {"RRTO_APART": "1"}
    monkeypatch.setenv("RRTO_APART", "0")
    assert Options(side="robot", domain=5).environment() == {
        "ROS_DOMAIN_ID": "5", "RRTO_APART": "0"
    }  # fmt: skip
    monkeypatch.setenv("ROS_DOMAIN_ID", "twelve")
    with pytest.raises(ConfigError, match="twelve"):
        Options().domain_number()
