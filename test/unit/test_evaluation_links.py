"""The links of `rrto evaluate`: names, generated ones against published statistics, files."""

import itertools
import statistics
import threading

import pytest

from rrto_ros.errors import ConfigError
from rrto_ros.evaluation.link_traces import MODELS
from rrto_ros.evaluation.links import from_file, named, played, settings

SEEDS = (0, 1, 7, 12345)
# Mean in MB/s and share of the time at or below 4 MB/s, as they were published.
PUBLISHED = {
    "wifi-indoor": ((9.8, 10.2), (0.14, 0.17)),
    "wifi-outdoor": ((8.5, 9.6), (0.45, 0.51)),
}


def mb_s(link):
    return [step.rate_mbit / 8 for step in link.steps]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_generated_wifi_has_the_published_statistics_whatever_the_seed(name, seed):
    rates = mb_s(named(name, seed))
    (least, most), (fewest, largest) = PUBLISHED[name]
    assert least <= statistics.fmean(rates) <= most
    slow = sum(rate <= 4 for rate in rates) / len(rates)
    assert fewest - 0.002 <= slow <= largest + 0.002
    assert min(rates) >= 1
    assert max(rates) <= 29
    assert max(rates) > 25


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_generated_wifi_stays_where_it_is_for_a_while(name):
    """A slow second is mostly followed by a slow one: a link, not noise."""
    rates = mb_s(named(name, 3))
    after_slow = [b for a, b in itertools.pairwise(rates) if a <= 4]
    share = sum(rate <= 4 for rate in after_slow) / len(after_slow)
    assert share > 1.5 * PUBLISHED[name][1][0]
    assert share > 0.5


def test_a_seed_says_which_link_it_is():
    assert named("wifi-indoor", 1).digest == named("wifi-indoor", 1).digest
    assert named("wifi-indoor", 1).digest != named("wifi-indoor", 2).digest
    assert named("wifi-indoor", 1).digest != named("wifi-outdoor", 1).digest


@pytest.mark.parametrize("name", MODELS)
def test_what_is_not_measured_says_so(name):
    assert "generated" in MODELS[name].origin or "our choice" in MODELS[name].origin


def test_a_constant_link_is_named_by_its_figures():
    link = named("80mbit-4ms-1%")
    (step,) = link.steps
    both = settings(step)
    assert (both.rate_mbit, both.delay_ms, both.loss) == (80, 2, 0.01)
    assert not named("loopback").emulated
    assert named("2.5mbit-0.5ms").steps[0].rate_mbit == 2.5


@pytest.mark.parametrize("text", ["wifi", "80mbit", "0mbit-4ms", "80mbit-4ms-200%", "a/b.csv"])
def test_what_is_no_link_is_refused_by_name(text):
    with pytest.raises(ConfigError) as refused:
        named(text)
    assert text in str(refused.value) or "200" in str(refused.value) or "2.0" in str(refused.value)


def write(tmp_path, text):
    path = tmp_path / "link.csv"
    path.write_text(text)
    return path


def test_a_file_is_played_in_its_steps_and_again(tmp_path):
    link = from_file(
        write(tmp_path, "seconds,Mbit/s,rtt\n# a walk\n10,40\n12,0,8\n\n13,5,8,0.1\n")
    )
    assert [step.at_s for step in link.steps] == [0, 2, 3]
    assert link.total_s == 4
    assert link.at(0.5)[0].rate_mbit == 40
    assert link.at(0.5)[0].rtt_ms == 4
    assert link.at(2.5) == (link.steps[1], 0.5)
    assert settings(link.steps[1]).loss == 1
    assert link.at(7.5)[0] == link.steps[2]
    assert named(str(tmp_path / "link.csv")).digest == link.digest


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0,fast\n", ["line 1", "'fast'", "Mbit/s", "0 to 100000"]),
        ("0,10\n1,-3\n", ["line 2", "'-3'", "Mbit/s"]),
        ("0,10\n0,11\n", ["line 2", "not after 0 s"]),
        ("0,10,4,2\n", ["line 1", "loss is '2'", "0 to 1"]),
        ("0,10,nan\n", ["line 1", "'nan'"]),
        ("0\n", ["line 1", "1 columns", "seconds, Mbit/s"]),
        ("# nothing\n", ["no line with figures"]),
        ("0,0\n1,0\n", ["rate is 0"]),
    ],
)
def test_a_file_that_cannot_be_used_says_where_and_what_is_wanted(tmp_path, text, said):
    with pytest.raises(ConfigError) as refused:
        from_file(write(tmp_path, text))
    for part in ["link.csv", *said]:
        assert part in str(refused.value)


def test_a_link_is_changed_when_its_time_has_come(tmp_path):
    link = from_file(write(tmp_path, "0,10\n0.05,20\n0.1,30\n"))
    got, third = [], threading.Event()

    def change(both):
        got.append(both.rate_mbit)
        if len(got) == 4:
            third.set()

    with played(link, 0.05, change):
        assert got == [20]  # from the begin of the block on
        assert third.wait(10)
    count = len(got)
    assert got[:4] == [20, 30, 10, 20]
    assert len(got) == count


def test_what_goes_wrong_while_a_link_is_played_is_told(tmp_path):
    link = from_file(write(tmp_path, "0,10\n0.02,20\n"))
    failed = threading.Event()

    def change(both):
        if both.rate_mbit == 20:
            failed.set()
            raise ConfigError("the emulator is gone")

    with pytest.raises(ConfigError, match="gone"), played(link, 0.0, change):
        assert failed.wait(10)
