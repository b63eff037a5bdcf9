"""A stop text is found wherever it lies in the pieces of an answer, and a long answer costs no more for each piece."""

from __future__ import annotations

from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from qwenctl.engine.sampling.stop_texts import StopTexts

TEXT = st.text("ab", max_size=6)


@given(st.lists(TEXT, max_size=12), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_first_stop_text_is_found_as_in_the_whole_answer(pieces: list[str], stops: list[str]) -> None:
    search = StopTexts(stops)
    for so_far, piece in zip(accumulate(pieces), pieces, strict=True):
        before = search.place
        search.feed(piece)
        places = [place for stop in stops if (place := so_far.find(stop)) >= 0]
        assert search.is_found == bool(places)
        assert search.place == (before if before >= 0 else min(places, default=-1))
    assert search.cut("".join(pieces)) == ("".join(pieces)[: search.place] if search.is_found else "".join(pieces))


def test_each_piece_is_searched_once_however_long_the_answer_is() -> None:
    searched = 0

    class Counted(str):
        """A text that counts how much is searched for a stop text."""

        def __add__(self, other: str) -> Counted:
            nonlocal searched
            searched += len(self) + len(other)
            return Counted(str(self) + other)

        def __getitem__(self, place: object) -> Counted:
            return Counted(str.__getitem__(self, place))  # type: ignore[index]  # only what `str` itself is given

    search = StopTexts(["never", "comes"])
    search._tail = Counted()  # the only way to see what it reads
    for _ in range(10_000):
        search.feed("ab")
    assert searched < 10 * 2 * 10_000
