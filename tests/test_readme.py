"""What the README and the docstrings show works as shown."""

import re

from conftest import ROOT, message_rows, write_csv


def test_the_python_example_runs(tiny, tmp_path, monkeypatch):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (example,) = [block for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL) if "finetune(" in block]
    monkeypatch.chdir(tmp_path)
    write_csv(tmp_path / "messages.csv", message_rows(800))
    example = example.replace("google-bert/bert-base-uncased", str(tiny()))
    example = example.replace('output_dir="spam",', 'output_dir="spam", max_steps=2, disable_tqdm=True,')
    names: dict = {}
    exec(compile(example, "README.md", "exec"), names)
    low, high = names["result"].report["confidence"]["f1"]
    assert low <= high
    assert set(names["classify"]("hello")[0]) == {"label", "score"}


def test_the_tree_in_the_readme_is_the_tree():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for file in (ROOT / "hf_transfer").rglob("*.py"):
        if file.name != "__init__.py":
            assert re.search(rf"(?<![\w]){re.escape(file.name)}", text), f"{file} is not in the README's tree"
