import errno
import json
import resource

import pytest
from transformers import AutoModelForImageTextToText

from services.learner.checkpoints.checkpoint import STATE_FILE, load_latest, save
from services.learner.checkpoints.progress import Progress
from shared.errors import Corrupt, Unavailable


class Notes:
    """Stands for an engine: writes two small files, or fails in the middle."""

    def __init__(self, text="weights", error=None):
        self.text, self.error = text, error

    def save(self, folder):
        (folder / "model").mkdir()
        (folder / "model" / "config.json").write_text(self.text)
        if self.error:
            raise self.error
        (folder / "optimizer.safetensors").write_text("moments")


def state(step, cursor=0):
    return Progress(step=step, cursor=cursor, offset=7, journal_created="2026-01-01")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_checkpoint_is_loaded_by_step_and_not_by_name(tmp_path):
    for step in (999_999, 1_000_000):
        save(Notes(), tmp_path, state(step, cursor=step), keep=3)
    found = load_latest(tmp_path)
    assert found.folder == tmp_path / "step-1000000"
    assert found.state == state(1_000_000, cursor=1_000_000)
    assert (found.folder / "model" / "config.json").read_text() == "weights"


@pytest.mark.parametrize("exists", [True, False])
def test_a_folder_without_checkpoints_has_none(tmp_path, exists):
    folder = tmp_path / "checkpoints"
    if exists:
        (folder / ".writing-step-000001").mkdir(parents=True)
    assert load_latest(folder) is None


def test_only_the_newest_are_kept(tmp_path):
    for step in (1, 2, 3):
        save(Notes(), tmp_path, state(step), keep=2)
    assert names(tmp_path) == ["step-000002", "step-000003"]


def test_a_checkpoint_of_the_same_step_is_replaced(tmp_path):
    save(Notes("old"), tmp_path, state(1, cursor=1), keep=2)
    save(Notes("new"), tmp_path, state(1, cursor=2), keep=2)
    found = load_latest(tmp_path)
    assert found.state.cursor == 2 and (found.folder / "model" / "config.json").read_text() == "new"
    assert names(tmp_path) == ["step-000001"]


def leave_half(folder, step):
    (folder / f".writing-step-{step:06d}" / "model").mkdir(parents=True)
    (folder / f".writing-step-{step:06d}" / "model" / "half").write_text("")


def test_what_a_killed_writer_left_goes_at_the_next_start_whatever_step_is_written_then(tmp_path):
    save(Notes(), tmp_path, state(1), keep=2)
    leave_half(tmp_path, 2)
    leave_half(tmp_path, 7)
    assert load_latest(tmp_path).state.step == 1
    assert names(tmp_path) == ["step-000001"]


def test_what_could_not_be_cleared_away_is_no_part_of_the_next_checkpoint(tmp_path):
    save(Notes(), tmp_path, state(1), keep=2)
    leave_half(tmp_path, 2)
    save(Notes(), tmp_path, state(2), keep=2)
    assert names(tmp_path) == ["step-000001", "step-000002"]
    assert not (tmp_path / "step-000002" / "model" / "half").exists()


def test_a_writer_killed_between_the_two_renames_leaves_the_old_checkpoint(tmp_path):
    save(Notes("old"), tmp_path, state(1), keep=2)
    (tmp_path / "step-000001").rename(tmp_path / ".replaced-step-000001")
    assert load_latest(tmp_path).state.step == 1
    assert names(tmp_path) == ["step-000001"]


def tear_state(folder):
    (folder / STATE_FILE).write_bytes((folder / STATE_FILE).read_bytes()[:50])


def forget_state(folder):
    (folder / STATE_FILE).unlink()


def tear_file(folder):
    (folder / "optimizer.safetensors").write_text("mom")


def change_file(folder):
    (folder / "optimizer.safetensors").write_text("m0ments")


def lose_file(folder):
    (folder / "model" / "config.json").unlink()


@pytest.mark.parametrize("tear", [tear_state, forget_state, tear_file, change_file, lose_file])
def test_a_torn_checkpoint_is_refused_and_not_skipped(tmp_path, tear):
    save(Notes(), tmp_path, state(1), keep=2)
    save(Notes(), tmp_path, state(2), keep=2)
    tear(tmp_path / "step-000002")
    with pytest.raises(Corrupt, match=r"checkpoint .*step-000002 is torn: "):
        load_latest(tmp_path)


def test_a_full_disk_is_one_sentence_and_leaves_nothing_torn(tmp_path):
    save(Notes(), tmp_path, state(1), keep=2)
    with pytest.raises(Unavailable, match=r"checkpoint .*step-000002 cannot be written: .*No space left"):
        save(Notes(error=OSError(errno.ENOSPC, "No space left on device")), tmp_path, state(2), keep=2)
    assert names(tmp_path) == ["step-000001"]
    assert load_latest(tmp_path).state.step == 1


def test_a_file_limit_met_while_the_engine_writes_its_weights_is_one_sentence(tmp_path, make_engine):
    engine = make_engine()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(Unavailable, match="cannot be written"):
            save(engine, tmp_path, state(1), keep=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert names(tmp_path) == []


def test_a_file_limit_met_at_the_tokenizer_is_an_error_of_the_disk(tmp_path, make_engine):
    model = make_engine().engine.model
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, before[1]))  # config.json is smaller, tokenizer.json is not
    try:
        with pytest.raises(OSError, match=r"File too large.*at the tokenizer"):
            model.save(tmp_path, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_the_engines_checkpoint_is_a_folder_that_hugging_face_loads(tmp_path, make_engine):
    folder = save(make_engine(), tmp_path, state(3), keep=1)
    assert AutoModelForImageTextToText.from_pretrained(folder / "model").num_parameters() > 0
    assert json.loads((folder / STATE_FILE).read_text())["state"]["step"] == 3
    assert (folder / "model" / "tokenizer.json").exists() and (folder / "model" / "preprocessor_config.json").exists()
