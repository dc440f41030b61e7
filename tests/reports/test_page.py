"""The report in a real browser: what it shows is what the runs' files hold, and it asks for nothing."""

import base64
import json
import shutil
import time
from statistics import fmean, stdev

import pytest

from diffexp.reports import images
from diffexp.reports.page import write_page
from diffexp.runs.reader import read_runs
from tests.helpers.small import diffexp

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def report(runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("report") / "report.html"
    told = diffexp("report", "one", "two", f"--out={out}", cwd=runs).stdout
    assert told == f"2 runs: {out}\n"
    return out


def table(page, section, index=0):
    """The texts of a table, row by row, with the head."""
    found = page.locator(f"section#{section} table").nth(index)
    return [row.locator("th, td").all_inner_texts() for row in found.locator("tr").all()]


def section_of(page, title):
    return page.locator("section", has=page.locator("h2", has_text=title)).first.get_attribute("id")


def test_no_error_and_no_request_leaves_the_page(opened, report):
    shown = opened(report)
    assert shown.said == []
    assert [address for address in shown.asked if not address.startswith("data:")] == [report.as_uri()]
    assert shown.page.title() == "2 runs – diffexp report"
    # lines, not empty axes: both runs' losses are drawn
    assert shown.page.locator("svg g[id^='training-loss-r0'] path").count() == 1
    assert shown.page.locator("svg g[id^='training-loss-r1'] path").count() == 1


def test_the_numbers_are_those_of_the_files(opened, report, runs):
    page = opened(report).page
    head, one, two = table(page, "what-differs")
    rows = [json.loads((runs / name / "metrics.jsonl").read_text().splitlines()[-1]) for name in ("one", "two")]
    losses = []
    for name in ("one", "two"):
        lines = map(json.loads, (runs / name / "metrics.jsonl").read_text().splitlines())
        losses.append([line["train/loss"] for line in lines if "train/loss" in line][-1])
    assert head == ["run", "model.timesteps", "optim.lr", "state", "step", "train/loss"]
    assert one == ["one", "20", "0.001", "finished", "8", f"{losses[0]:.4g}"]
    assert two == ["two", "30", "0.002", "finished", "8", f"{losses[1]:.4g}"]

    scored = table(page, section_of(page, "Scores, fd_digits_v1_64"))
    assert scored[0] == ["sampler \\ network calls", "5", "20", "30"]
    by_name = {row[0]: row[1:] for row in scored[1:]}
    for name in ("one", "two"):
        scores = json.loads((runs / name / "scores" / "step-00000008.json").read_text())["scores"]
        fd = scores["ddim-5"]["scores"]["fd"]
        assert by_name[f"{name} ddim-eta0"][0].removesuffix(" =") == f"{fd['value']:.4g} ± {fd['error']:.2g}"
        assert f'score/ddim-5-eta0-ema/fd_digits_v1_64": {fd["value"]}' in json.dumps(rows)

    (file,) = (runs / "one" / "evaluations").glob("*/table.json")
    cells = {(each["row"], each["network_calls"]): each for each in json.loads(file.read_text())["cells"]}
    scored = table(page, section_of(page, "Scores, fd_digits_v1_40"))
    assert len(scored) - 1 == len({row for row, _ in cells})
    for name, *texts in scored[1:]:
        for calls, text in zip(scored[0][1:], texts, strict=True):
            blocks = cells[name.removeprefix("one "), int(calls)]["blocks"]
            values = [each["fd"]["value"] for each in blocks]
            assert text.removesuffix(" =") == f"{fmean(values):.4g} ± {stdev(values):.2g}"
    best = page.locator(f"section#{section_of(page, 'Scores, fd_digits_v1_40')} td.best").all_inner_texts()
    assert len(best) == 2
    assert f"{file.relative_to(runs)}" in page.inner_text("main")


def test_cost_is_counted(opened, report, runs):
    page = opened(report).page
    _, one, two = table(page, "cost")
    status = json.loads((runs / "one" / "status.json").read_text())
    assert status["seconds"] > 0
    # 8 steps of 16; twice 64 images with each of two samplers (20 and 5 calls), and a table of 2 blocks of 40
    cells = json.loads(next((runs / "one" / "evaluations").glob("*/table.json")).read_text())["cells"]
    calls = 2 * 64 * (20 + 5) + 2 * 40 * sum(each["network_calls"] for each in cells)
    images = 2 * 64 * 2 + 2 * 40 * len(cells)
    assert one[2:6] == ["128", f"{status['seconds']:,.0f}", f"{images:,}", f"{calls:,}"]
    assert two[4:6] == ["256", f"{2 * 64 * (30 + 5):,}"]


def test_schedules_are_theirs(opened, report):
    page = opened(report).page
    rows = table(page, "noise-schedules")
    alpha = 1.0
    for t in range(20):
        alpha *= 1 - (0.001 + (0.5 - 0.001) * t / 19)
    assert rows[1][0].startswith("T=20, linear")
    assert rows[1][1] == f"{alpha**0.5:.3g}"
    assert rows[2][0].startswith("T=30, linear")


def test_the_slider_goes_through_training(opened, report, runs):
    page = opened(report).page
    strip = page.locator(".strip", has_text="two: ddim-5")
    assert strip.locator("img:visible").count() == 1
    last = strip.locator("img:visible").get_attribute("src")
    page.locator("#step").fill("0")
    assert page.locator(".slider output").inner_text() == "4"
    first = strip.locator("img:visible").get_attribute("src")
    assert strip.locator("figcaption span").inner_text() == "4"
    assert first != last
    for source, step in ((first, 4), (last, 8)):
        file = runs / "two" / "samples" / f"step-{step:08d}-ddim-5.png"
        assert base64.b64decode(source.removeprefix("data:image/png;base64,")) == file.read_bytes()
    assert page.evaluate("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")
    page.locator("#step").fill("1")
    assert strip.locator("img:visible").get_attribute("src") == last


def test_pointing_at_a_run_dims_the_others(opened, report):
    page = opened(report).page
    other = page.locator("svg g[id^='training-loss-r1']").first
    page.locator("table.runs tr[data-run='0']").hover()
    assert float(other.evaluate("each => getComputedStyle(each).opacity")) < 0.5
    page.locator("h1").hover()
    assert other.evaluate("each => getComputedStyle(each).opacity") == "1"
    assert other.locator("title").first.text_content() == "two"


def contrast(page, selector):
    """Contrast of the text of an element to the page, as WCAG defines it."""
    colours = page.evaluate(
        """selector => [document.querySelector(selector), document.body].map((each, index) =>
            getComputedStyle(each)[index ? "backgroundColor" : "color"])""",
        selector,
    )

    def luminance(text):
        parts = [float(each) / 255 for each in text[text.index("(") + 1 : -1].split(",")[:3]]
        red, green, blue = (each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    light, dark = sorted(map(luminance, colours), reverse=True)
    return (light + 0.05) / (dark + 0.05), luminance(colours[1])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_are_readable(opened, report, scheme):
    page = opened(report, color_scheme=scheme).page
    for selector in ("h1", ".note", "td", "td.best", "figcaption", "svg text", "nav a"):
        ratio, ground = contrast(page, selector)
        assert ratio >= 4.5, selector
        assert (ground > 0.5) == (scheme == "light")
    # the axes' text takes the page's colour
    assert page.evaluate("getComputedStyle(document.querySelector('svg text')).fill") == page.evaluate(
        "getComputedStyle(document.body).color"
    )


def test_it_prints(opened, report, tmp_path):
    page = opened(report, color_scheme="dark").page
    page.pdf(path=tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
    page.emulate_media(media="print", color_scheme="dark")
    ratio, ground = contrast(page, "td")
    assert ratio >= 4.5
    assert ground > 0.5
    assert not page.locator("nav").is_visible()


def test_two_hundred_runs(opened, runs, tmp_path):
    for number in range(200):
        folder = tmp_path / "sweep" / "trials" / f"{number:04d}"
        shutil.copytree(runs / "two", folder, ignore=shutil.ignore_patterns("checkpoints", "*.lock"))
        text = (folder / "config.yaml").read_text()
        (folder / "config.yaml").write_text(text.replace("lr: 0.002", f"lr: {0.001 * (number + 1):.6f}"))
    (tmp_path / "sweep" / "plan.json").write_text("{}")
    started = time.monotonic()
    write_page(read_runs([tmp_path / "sweep"]), tmp_path / "many.html")
    assert time.monotonic() - started < 60
    assert (tmp_path / "many.html").stat().st_size < 1.6 * images.BUDGET
    shown = opened(tmp_path / "many.html")
    assert shown.said == []
    rows = table(shown.page, "what-differs")
    assert len(rows) == 201
    assert rows[0][:2] == ["run", "optim.lr"]
    assert {row[1] for row in rows[1:]} == {f"{0.001 * (number + 1):.10g}" for number in range(200)}
    assert shown.page.locator("svg g[id^='training-loss-r']").count() == 200
    # the learning rate is what was swept, so scores are plotted against it
    assert shown.page.locator("figure[aria-label^='Score against optim.lr']").count() == 1
