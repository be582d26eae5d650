"""`report.html`: a page of its own, looked at in a real browser."""

import html
import json
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from conftest import message_rows, number_rows, write_csv

from hf_transfer import SpeechRecognition, TextClassification, finetune

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WIDTHS = (1200, 390)
SCHEMES = ("light", "dark")


class Tags(HTMLParser):
    """The tags and attributes of a page."""

    def __init__(self):
        super().__init__()
        self.tags, self.attributes = set(), set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


@pytest.fixture(scope="module")
def pages(tiny, speech_model, accents, tmp_path_factory):
    """Folders of three runs: of texts in groups, of texts with numbers, and of clips with a source accent."""
    place = tmp_path_factory.mktemp("pages")
    rows = [{**row, "channel": ("sms", "e-mail")[i % 2]} for i, row in enumerate(message_rows(400))]
    finetune(
        TextClassification(threshold="best_f1"), model_name_or_path=str(tiny()), disable_tqdm=True, max_steps=20,
        train_file=str(write_csv(place / "m.csv", rows)), output_dir=str(place / "text"), logging_steps=2,
        group_column_name="channel", validation_size=0.3, eval_strategy="steps", eval_steps=5,
    )  # fmt: skip
    finetune(
        SpeechRecognition(), model_name_or_path=str(speech_model()), dataset_name=str(accents), disable_tqdm=True,
        output_dir=str(place / "speech"), max_steps=4, group_column_name="accent", source_group="north",
    )  # fmt: skip
    finetune(
        TextClassification(problem_type="regression"), model_name_or_path=str(tiny()), disable_tqdm=True,
        train_file=str(write_csv(place / "n.csv", number_rows(240, 1000, 50_000))), output_dir=str(place / "number"),
        max_steps=40, learning_rate=2e-3, group_column_name="channel", source_group="chat", eval_strategy="steps",
        eval_steps=10,
    )  # fmt: skip
    return {name: place / name for name in ("text", "number", "speech")}


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("needs a Chromium: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Root, as in a container, has no sandbox.
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"] * (os.getuid() == 0))
        yield opened
        opened.close()


def look_at(browser, file, *, scheme="light", width=1200):
    """The opened page, and what went wrong: console messages and requests of anything but the page itself."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
    own = Path(file).as_uri()
    page.on("request", lambda ask: None if ask.url == own or ask.url.startswith("data:") else wrong.append(ask.url))
    page.goto(own)
    return page, wrong


@pytest.mark.parametrize("name", ["text", "number", "speech"])
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_a_page_is_complete_without_a_network(pages, browser, name, scheme, width):
    page, wrong = look_at(browser, pages[name] / "report.html", scheme=scheme, width=width)
    assert not wrong
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "it has to be moved sideways"
    charts = page.locator("figure svg")
    assert charts.count() >= 6
    for i in range(charts.count()):
        box = charts.nth(i).bounding_box()
        assert box["width"] > 200
        assert box["height"] > 30
        assert charts.nth(i).get_attribute("aria-label")
    # Text of page and charts stands out from what it stands on.
    dark = "luminance(getComputedStyle(document.querySelector(where)).color)"
    luminance = "const luminance = c => { const [r, g, b] = c.match(/\\d+/g).map(Number); return (r + g + b) / 765 };"
    paper = page.evaluate(f"() => {{ {luminance} return luminance(getComputedStyle(document.body).backgroundColor) }}")
    assert (paper < 0.2) == (scheme == "dark")
    for where in (".answer", "figure svg text", "td"):
        ink = page.evaluate(f"where => {{ {luminance} return {dark} }}", where)
        fill = page.evaluate(
            f"where => {{ {luminance} return luminance(getComputedStyle(document.querySelector(where)).fill) }}",
            "figure svg text",
        )
        assert abs(ink - paper) > 0.5, where
        assert abs(fill - paper) > 0.5
    page.close()


def test_the_first_sentence_is_the_answer(pages, browser):
    report = json.loads((pages["text"] / "report.json").read_text())
    page, _ = look_at(browser, pages["text"] / "report.html")
    low, high = report["confidence"]["f1"]
    before, after = report["baseline"]["f1"], report["metrics"]["f1"]
    told = page.locator(".answer").inner_text()
    assert told.startswith(f"Spam F1 {before:.2f} → {after:.2f} [{low:.2f}, {high:.2f}] with 100 % of the weights")
    page.close()


def test_a_page_shows_what_the_report_holds(pages, browser):
    report = json.loads((pages["text"] / "report.json").read_text())
    page, _ = look_at(browser, pages["text"] / "report.html")
    titles = page.locator("h2, h3").all_inner_texts()
    for title in (
        "Before and after", "Confusion matrix", "Precision and recall of spam", "Reliability", "By group: accuracy",
        "Loss", "On validation", "Seconds by stage", "Lengths", "Labels", "How to repeat it",
    ):  # fmt: skip
        assert title in titles
    cells = page.locator("figure", has_text="Confusion matrix").locator("svg text").all_text_contents()
    counts = [str(count) for row in report["confusion_matrix"] for count in row]
    assert set(counts) <= {cell.strip() for cell in cells}
    assert sum(map(sum, report["confusion_matrix"])) == report["data"]["examples"]["test"]
    worst = page.locator("tr", has_text=report["worst"][0]["text"])
    assert worst.count() >= 1
    assert report["worst"][0]["label"] in worst.first.inner_text()
    page.close()


def test_a_page_of_numbers_shows_them_against_the_true_ones(pages, browser):
    report = json.loads((pages["number"] / "report.json").read_text())
    page, _ = look_at(browser, pages["number"] / "report.html")
    assert page.locator(".answer").inner_text().startswith("Mean absolute error 1")
    titles = page.locator("h2, h3").all_inner_texts()
    assert {"Predicted against true", "Errors", "Labels", "By group: mean_absolute_error"} <= set(titles)
    assert not {"Confusion matrix", "Reliability"} & set(titles)
    # Metrics in different units stand on different axes.
    assert page.locator("figure:has(h3:text-is('Test split')) svg").count() == 3
    assert {f"On validation: {name}" for name in report["headline"]} <= set(titles)
    points = page.locator("figure:has(h3:text-is('Predicted against true')) svg use[style*='--series-1']")
    assert points.count() == report["data"]["examples"]["test"]
    worst = page.locator("tr", has_text=report["worst"][0]["text"])
    assert f"{report['worst'][0]['label']:.0f}" in worst.first.inner_text()
    page.close()


def test_the_worst_clips_can_be_heard(pages, browser):
    report = json.loads((pages["speech"] / "report.json").read_text())
    page, wrong = look_at(browser, pages["speech"] / "report.html")
    players = page.locator("audio")
    assert players.count() == len(report["worst"]) > 0
    seconds = page.evaluate(
        "() => new Promise((done, failed) => { const a = document.querySelector('audio'); a.preload = 'auto';"
        "a.onloadedmetadata = () => done(a.duration); a.onerror = () => failed(a.error.message); a.load(); })"
    )
    assert 0.1 < seconds < 30
    assert not wrong
    assert "Gained and forgotten" in page.locator("h3").all_inner_texts()
    page.close()


def test_numbers_behind_the_charts_are_right(pages):
    """Against the predictions that lie beside the report."""
    report = json.loads((pages["text"] / "report.json").read_text())
    records = [json.loads(line) for line in (pages["text"] / "predictions.jsonl").read_text().splitlines()]
    names = report["data"]["labels"]
    for i, label in enumerate(names):
        for j, predicted in enumerate(names):
            count = sum(r["label"] == label and r["prediction"] == predicted for r in records)
            assert report["confusion_matrix"][i][j] == count
    chosen = report["precision_recall"]["chosen"]
    assert chosen["precision"] == pytest.approx(report["metrics"]["precision"])
    assert chosen["recall"] == pytest.approx(report["metrics"]["recall"])
    bins = report["reliability"]["as trained" if "not_calibrated" in report["decision"] else "calibrated"]
    assert sum(one["examples"] for one in bins) == len(records)
    gap = sum(one["examples"] * abs(one["confidence"] - one["accuracy"]) for one in bins) / len(records)
    assert gap == pytest.approx(report["metrics"]["expected_calibration_error"])
    least = sorted(records, key=lambda r: r["scores"][r["label"]])[0]
    assert report["worst"][0]["text"] == least["text"]
    lengths = report["data"]["lengths"]["splits"]
    assert {name: sum(of["counts"]) for name, of in lengths.items()} == report["data"]["examples"]


def test_what_comes_from_the_data_is_text(tiny, tmp_path, browser):
    evil = '<script>document.title = "taken"</script><img src=x onerror="document.title=\'taken\'">$\\frac{1}{0}$'
    rows = [{**row, "text": f"{row['text']} {evil} {i}", "label": f"{evil} {row['label']}", "g": evil}
            for i, row in enumerate(message_rows(80))]  # fmt: skip
    done = finetune(
        TextClassification(), model_name_or_path=str(tiny()), train_file=str(write_csv(tmp_path / "m.csv", rows)),
        output_dir=str(tmp_path / "out"), max_steps=2, disable_tqdm=True, group_column_name="g",
    )  # fmt: skip
    page, wrong = look_at(browser, done.folder / "report.html")
    assert page.title() == "out"
    assert not wrong
    assert evil.split("$")[0] in page.locator("body").inner_text()
    page.close()


def test_pages_hold_no_markup_from_the_data(tiny, tmp_path):
    """The same without a browser, and for the pages of a comparison and a study."""
    from hf_transfer import compare, study

    evil = "<script>alert(1)</script><img src=x onerror=alert(1)>$\\frac{1}{0 $ 名前"
    rows = [{**row, "label": ("fine", evil)[i % 2]} for i, row in enumerate(message_rows(80))]
    arguments = {"model_name_or_path": str(tiny()), "train_file": str(write_csv(tmp_path / "m.csv", rows)),
                 "max_steps": 1, "disable_tqdm": True}  # fmt: skip
    settings = {"positive_label": evil}
    compare(TextClassification(**settings), methods=["frozen"], seeds=1, output_dir=str(tmp_path / "c"), **arguments)
    study(TextClassification(**settings), methods=["frozen"], sizes=[8], draws=1, output_dir=str(tmp_path / "s"),
          **arguments)  # fmt: skip
    for file in (*(tmp_path / "c").rglob("report.html"), tmp_path / "s" / "report.html"):
        found = Tags()
        found.feed(file.read_text())
        assert not found.tags & {"script", "img", "iframe", "object", "link"}
        assert found.tags >= {"svg", "table", "style"}
        assert not [name for name in found.attributes if name.startswith("on")]


def test_several_labels_and_many_labels_have_pages(tiny, tmp_path, browser):
    rows = [{**row, "label": f"topic {i % 45}"} for i, row in enumerate(message_rows(450))]
    several = [{**row, "label": ("a;b", "a", "b;c")[i % 3]} for i, row in enumerate(message_rows(90))]
    for name, data, settings in (("many", rows, {}), ("several", several, {"label_separator": ";"})):
        done = finetune(
            TextClassification(**settings), model_name_or_path=str(tiny()), max_steps=2, disable_tqdm=True,
            train_file=str(write_csv(tmp_path / f"{name}.csv", data)), output_dir=str(tmp_path / name),
        )  # fmt: skip
        page, wrong = look_at(browser, done.folder / "report.html", width=390)
        assert not wrong
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.close()


def test_a_notebook_shows_the_page(pages):
    from hf_transfer.reporting.report import Finetuned

    shown = Finetuned(pages["text"], json.loads((pages["text"] / "report.json").read_text()))._repr_html_()
    (framed,) = re.findall(r'srcdoc="([^"]*)"', shown)
    assert html.unescape(framed) == (pages["text"] / "report.html").read_text()
