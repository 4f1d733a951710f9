"""Where a text goes round in circles, and where it only says a word twice."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from esrt.cloud.text import circles


@given(st.lists(st.integers(0, 9), max_size=12), st.lists(st.integers(10, 19), min_size=4, max_size=12))
def test_a_circle_is_seen_when_it_closes_the_fourth_time(before: list[int], circle: list[int]) -> None:
    ids = before + circle * 4
    kept = ids[: len(ids) - circles(ids)]
    turn = (len(ids) - len(kept)) // 3
    assert len(kept) < len(ids) and kept + 3 * kept[-turn:] == ids, "one round is left"


@given(st.lists(st.integers(0, 9), unique=True, max_size=10), st.integers(1, 3))
def test_what_people_say_again_is_none(ids: list[int], times: int) -> None:
    assert not circles(ids * times)
    assert not circles([*ids, 10, 10, 10, 10])
