"""Where a text goes round in circles, and where it only says a word twice."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from esrt.cloud.text import circles


@given(st.lists(st.integers(0, 9), max_size=12), st.lists(st.integers(10, 19), min_size=8, max_size=12))
def test_a_circle_is_seen_when_it_closes_the_fourth_time(before: list[int], circle: list[int]) -> None:
    ids = before + circle * 4
    again = circles(ids)
    turn = next(n for n in range(1, 13) if ids[-again:] == ids[-again - n : -n])
    assert again and (again + turn) % 4 == 0, "one round is left, however short"


def test_short_circles_close_later() -> None:
    assert circles([1, *[5] * 31]) == 0 and circles([1, *[5] * 32]) == 31
    assert circles([1, *[5, 6, 7, 8] * 7]) == 0 and circles([1, *[5, 6, 7, 8] * 8]) == 28


@given(st.lists(st.integers(0, 9), unique=True, max_size=10), st.integers(1, 3))
def test_what_people_say_again_is_none(ids: list[int], times: int) -> None:
    assert not circles(ids * times)
    assert not circles([*ids, 10, 10, 10, 10])
    assert not circles([*ids, *[10, 11, 11, 11] * 5]), "a trillion, where a token is a digit: ,000,000,000,000"


@given(st.lists(st.booleans(), min_size=8, max_size=16))
def test_a_circle_that_changes_a_word_now_and_then_is_seen(other: list[bool]) -> None:
    rounds = [[*range(6), 7 if change else 8, *range(10, 15)] for change in other]  # of 12 tokens
    said = [token for each in rounds for token in each]
    assert circles([*range(20, 30), *said]) >= 36, "three of at least four rounds"


@given(st.integers(40, 200), st.integers(1, 2))
def test_a_long_sentence_may_be_said_twice(length: int, times: int) -> None:
    assert not circles(list(range(length)) * times)
    assert not circles([token for number in range(length) for token in (1, 2, 3, number)]), "for the first, press 1 ..."
