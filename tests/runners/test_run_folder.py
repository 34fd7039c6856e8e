"""Where a run folder lies."""

import pytest

from runners import run_folder


def test_the_folder_of_a_low_rank_run_is_found_by_its_rank(tmp_path):
    for name in ("a_rank3", "a_rank50", "a_rank50.1", "b_rank7", "c"):
        (tmp_path / "logs" / name).mkdir(parents=True)
    (tmp_path / "logs/c/config.yml").write_text("")
    assert run_folder.existing(str(tmp_path), "b", None).name == "b_rank7"
    assert run_folder.existing(str(tmp_path), "a", 50).name == "a_rank50"
    assert run_folder.existing(str(tmp_path), "c", None).name == "c"
    with pytest.raises(ValueError, match="which one of a_rank3, a_rank50"):
        run_folder.existing(str(tmp_path), "a", None)
    with pytest.raises(ValueError, match="no run folder"):
        run_folder.existing(str(tmp_path), "b", 8)
