import os
import time

import pytest
import torch

from benchmarks import harness

CPU = torch.device("cpu")


def test_median_time_leaves_out_the_first_two_calls():
    pauses = iter([0.2, 0.2, 0.01, 0.02, 0.2])
    assert 0.02 <= harness.measure(lambda: time.sleep(next(pauses)), CPU, repeats=3) < 0.2


def test_a_process_of_its_own_tells_what_was_returned_and_raised():
    assert harness.in_own_process(os.getpid) != os.getpid()
    with pytest.raises(ZeroDivisionError):
        harness.in_own_process(divmod, 1, 0)
