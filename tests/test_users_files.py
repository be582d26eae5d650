"""What is the user's stays: no run removes or overwrites a file that no run has written."""

import contextlib
import json
import os
import shutil

import pytest
from conftest import message_rows, write_csv
from speech import write_clips

from hf_transfer import Failure, InputError, TextClassification, finetune
from hf_transfer.comparing import compare
from hf_transfer.data import cache_cleanup
from hf_transfer.reporting.output_folder import OutputFolder
from hf_transfer.run_folders import RUN_MARKER
from hf_transfer.studying import study

pytestmark = pytest.mark.usefixtures("lean")


@pytest.fixture
def train(tiny, tmp_path):
    def run(**arguments):
        file = write_csv(tmp_path / "m.csv", message_rows(60))
        defaults = {"model_name_or_path": str(tiny()), "output_dir": str(tmp_path / "exp"), "max_steps": 2}
        return finetune(TextClassification(), train_file=str(file), **{**defaults, **arguments}, disable_tqdm=True)

    return run


def contents(folder):
    """Every file below a folder and what it holds."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "names",
    [
        ["results.csv"],
        ["result"],
        ["runs/notes.txt"],
        ["checkpoint-5/model.safetensors", "checkpoint-5/trainer_state.json"],
        [".lock.txt"],
        ["checkpoint-best/notes.txt", ".lock"],
    ],
)
@pytest.mark.parametrize("resume", [None, "true"])
def test_a_working_folder_without_the_mark_is_refused_and_untouched(train, tmp_path, names, resume):
    work = tmp_path / "exp.partial"
    for name in names:
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_text("mine")
    before = contents(work)
    with pytest.raises(InputError, match=r"exp\.partial, which was not made by a run \(it holds "):
        train(resume_from_checkpoint=resume)
    assert contents(work) == before
    assert not (tmp_path / "exp").exists()


def test_what_is_put_into_a_runs_working_folder_stays(train, tiny, tmp_path, caplog):
    """Beside the checkpoints, in them, and as a copy of one under another name; all through the end of the run."""
    with interrupted_in("hf_transfer.finetuning.measure_before_and_after"):
        train(max_steps=6, save_steps=2, save_total_limit=1)
    work = tmp_path / "exp.partial"
    assert (work / RUN_MARKER).is_file()
    assert [path.name for path in work.glob("checkpoint-*")] == ["checkpoint-6"]
    mine = {"results.csv": b"a,b", "checkpoint-6/notes.txt": b"good", "result.csv": b"", "checkpoint-6-best/w": b"w"}
    for name, content in mine.items():
        (work / name).parent.mkdir(exist_ok=True)
        (work / name).write_bytes(content)
    train(max_steps=8, save_steps=2, save_total_limit=1, resume_from_checkpoint="true")
    assert (tmp_path / "exp" / "report.json").is_file()
    assert {name: content for name, content in contents(work).items() if name != "checkpoint-6/manifest.json"} == mine
    assert "is kept: it holds files that no run has written" in caplog.text


@contextlib.contextmanager
def interrupted_in(function):
    """Ctrl-C comes where the function is called, and ends the block."""

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(function, interrupted)
        try:
            yield
        except KeyboardInterrupt:
            return
    raise AssertionError("nothing was interrupted")


def test_a_working_folder_from_before_there_were_marks_is_gone_on_with(train, tmp_path):
    with interrupted_in("hf_transfer.finetuning.measure_before_and_after"):
        train()
    (tmp_path / "exp.partial" / RUN_MARKER).unlink()
    with pytest.raises(InputError, match="there is an unfinished run in"):
        train()
    assert train(resume_from_checkpoint="true").report["metrics"]
    assert not (tmp_path / "exp.partial").exists()


def test_what_takes_the_results_place_while_it_trains_costs_neither(train, with_page, tmp_path, monkeypatch):
    """The folder is begun by somebody else between the check and the end."""

    def late(*_):
        (tmp_path / "exp").mkdir()
        (tmp_path / "exp" / "thesis.tex").write_text("mine")
        return "<p>a page</p>"

    monkeypatch.setattr("hf_transfer.result_writing.report_page", late)
    with pytest.raises(Failure, match=r"It is in .*result: move it from"):
        train()
    assert contents(tmp_path / "exp") == {"thesis.tex": b"mine"}
    result = tmp_path / "exp.partial" / "result"
    assert json.loads((result / "report.json").read_text())["metrics"]
    assert (result / "model.safetensors").is_file()


def test_two_runs_that_begin_at_once_write_one_folder(train, tmp_path):
    """The other finished between this one's check and its first file."""
    late = OutputFolder(tmp_path / "exp", resume=False)
    train()
    before = contents(tmp_path / "exp")
    with pytest.raises(InputError, match="the folder exists and holds"):
        late.prepare()
    assert contents(tmp_path / "exp") == before
    assert not (tmp_path / "exp.partial").exists()


@pytest.mark.parametrize("begin", [compare, study])
@pytest.mark.parametrize("names", [["arguments.yaml"], [".lock"], ["runs/x"], ["run/model.safetensors"]])
def test_a_series_writes_into_no_folder_of_others(begin, names, train, tiny, tmp_path):
    folder = tmp_path / "series"
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("mine: 1")
    before = contents(folder)
    file = write_csv(tmp_path / "m.csv", message_rows(60))
    with pytest.raises(InputError, match="Name a"):
        begin(TextClassification(), train_file=str(file), model_name_or_path=str(tiny()), output_dir=str(folder))
    assert contents(folder) == before


def test_a_study_removes_its_runs_and_nothing_else(tiny, tmp_path):
    file, folder = write_csv(tmp_path / "m.csv", message_rows(60)), tmp_path / "studied"
    settings = {"methods": ["scratch"], "sizes": [16], "draws": 1, "train_file": str(file), "max_steps": 1,
                "model_name_or_path": str(tiny()), "output_dir": str(folder), "disable_tqdm": True}  # fmt: skip
    with interrupted_in("hf_transfer.studying._report"):
        study(TextClassification(), **settings)
    (folder / "run").mkdir()
    (folder / "run" / "notes.txt").write_text("mine")
    (folder / "runs.jsonl").write_text("")  # all is to be done again
    with pytest.raises(InputError, match=r"holds files that no run has written \(notes\.txt\)"):
        study(TextClassification(), **settings)
    assert contents(folder / "run") == {"notes.txt": b"mine"}
    shutil.rmtree(folder / "run")
    study(TextClassification(), **settings)
    assert not (folder / "run").exists()
    assert not (folder / "run.partial").exists()


def test_only_what_runs_have_cached_is_removed_after_a_month(tmp_path):
    a, b, c = "0" * 32, "1" * 32, "2" * 31
    names = ["recordings/tape.wav", f"{a}/notes.txt", f"{b}/samples.int16", "README", f"{c}/x.npy"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / ("3" * 32)).symlink_to(tmp_path / "recordings")
    for path in [*tmp_path.rglob("*"), *tmp_path.iterdir()]:
        os.utime(path, (0, 0), follow_symlinks=False)
    now = tmp_path / ("4" * 32)
    now.mkdir()
    cache_cleanup.mark_used_and_clean_up(now)
    assert sorted(contents(tmp_path)) == sorted(set(names) - {f"{b}/samples.int16"})
    assert not (tmp_path / b).exists()
    assert (tmp_path / ("3" * 32)).is_symlink()


def test_no_output_takes_the_place_of_an_input(train, tmp_path, command):
    folder = train().folder
    file = write_csv(tmp_path / "in.csv", message_rows(8))
    os.link(file, tmp_path / "other_name.csv")
    (clip,) = write_clips(tmp_path / "clips", 1)[:1]
    for output, inputs in (
        (tmp_path / "other_name.csv", ["--file", file]),
        (folder / "config.json", ["--file", file]),
        (tmp_path / "clips" / clip["file_name"], [tmp_path / "clips" / clip["file_name"]]),
    ):
        before = output.read_bytes()
        result = command("predict", folder, *inputs, "--output", output)
        assert result.code == 2
        assert "Name another file" in result.err
        assert output.read_bytes() == before
    before = (folder / "config.json").read_bytes()
    assert command("evaluate", folder, "--test_file", file, "--output", folder / "config.json").code == 2
    assert (folder / "config.json").read_bytes() == before
