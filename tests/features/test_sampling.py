"""Which frames and which sound stand for a video."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from mealrec.features.sampling import frame_indices, window_samples

times = st.lists(st.floats(0, 1e5, allow_nan=False), min_size=1, max_size=200)


@given(starts=times, extra=st.floats(0, 10), wanted=st.integers(1, 64))
def test_whatever_the_times_indices_increase_stay_inside_and_are_as_many_as_there_can_be(
    starts: list[float], extra: float, wanted: int
) -> None:
    chosen = frame_indices(starts, max(starts) + extra, wanted)
    assert len(chosen) == min(wanted, len(starts))
    assert all(a < b for a, b in pairwise(chosen))
    assert chosen[0] >= 0 and chosen[-1] < len(starts)


@given(frames=st.integers(1, 300), fps=st.sampled_from([10, 24, 25, 29.97, 30, 60]), wanted=st.integers(1, 32))
def test_at_a_constant_rate_they_are_the_middle_frames_of_equal_windows(frames: int, fps: float, wanted: int) -> None:
    chosen = frame_indices([i / fps for i in range(frames)], frames / fps, wanted)
    if frames > wanted:
        assert chosen == [(2 * i + 1) * frames // (2 * wanted) for i in range(wanted)]


def test_a_fast_part_does_not_crowd_out_the_rest() -> None:
    starts = [0.01 * i for i in range(100)] + [1.0 + i for i in range(9)]  # 100 frames in the first second of ten
    assert frame_indices(starts, 10.0, 5) == [100, 102, 104, 106, 108]


def test_with_times_that_run_backwards_windows_are_of_equal_frame_count() -> None:
    assert frame_indices([3.0, 2.0, 1.0, 0.0], 3.0, 2) == [1, 3]


@given(seconds=st.floats(0.001, 2000), windows=st.integers(1, 64), most=st.integers(1, 200_000), rate=st.just(44_100))
def test_sound_windows_are_of_one_length_and_in_the_middle_of_their_share(
    seconds: float, windows: int, most: int, rate: int
) -> None:
    spans = window_samples(seconds, windows, rate, most)
    assert len(spans) == windows
    assert len({end - start for start, end in spans}) == 1
    share = seconds * rate / windows
    for i, (start, end) in enumerate(spans):
        assert 1 <= end - start <= most
        assert abs((start + end) / 2 - share * (i + 0.5)) <= 1
