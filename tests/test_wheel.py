"""What is shipped: the built wheel, in an empty folder, without this checkout."""

import json
import os
import shutil
import subprocess
import sys
import zipfile

import pytest
from conftest import ROOT, message_rows, write_csv

from hf_transfer import errors


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with nothing but the package of the wheel, and the environment that finds it first."""
    place = tmp_path_factory.mktemp("wheel")
    source = place / "source"  # of its own: a build leaves folders behind
    shutil.copytree(ROOT / "hf_transfer", source / "hf_transfer")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    built = subprocess.run([*command, str(place), str(source)], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    (wheel,) = place.glob("*.whl")
    with zipfile.ZipFile(wheel) as files:
        files.extractall(place / "site")
    return place / "site"


COMMANDS = """
import json, sys
from hf_transfer.cli import main
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["hf-transfer", *arguments]
    try:
        main()
    except SystemExit as ended:
        assert not ended.code, ended.code
"""


def run(installed, folder, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"}
    return subprocess.run([sys.executable, *map(str, arguments)], cwd=folder, env=environment, capture_output=True,
                          text=True, timeout=300, check=False)  # fmt: skip


def test_it_holds_what_it_needs_and_is_imported_without_a_warning(installed, tmp_path):
    told = run(installed, tmp_path, "-W", "error", "-c",
               "import hf_transfer, hf_transfer.cli; print(hf_transfer.__file__)")  # fmt: skip
    assert told.returncode == 0, told.stderr
    assert told.stdout.startswith(str(installed))
    for file in ("py.typed", "reporting/cards/base.md", "reporting/pages/base.html", "demo/messages.csv"):
        assert (installed / "hf_transfer" / file).is_file()
    assert errors.__file__.startswith(str(ROOT))


def test_a_model_is_trained_and_used_in_an_empty_folder(installed, tiny, tmp_path):
    write_csv(tmp_path / "messages.csv", message_rows(60))
    train = ["train", "text-classification", "--train_file", "messages.csv", "--model_name_or_path", str(tiny()),
             "--max_steps", "2", "--output_dir", "spam", "--disable_tqdm", "true"]  # fmt: skip
    # Both commands in one process: it imports torch and transformers once.
    done = run(installed, tmp_path, "-c", COMMANDS, json.dumps([train, ["predict", "spam", "win a prize now"]]))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "spam" / "report.html").is_file()
    assert '"label"' in done.stdout
