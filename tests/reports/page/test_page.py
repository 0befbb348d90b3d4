import base64
import hashlib
import html
import json
import re
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
from hostile import refuses
from pages import CLASSES, HOSTILE, TAG, Made
from records import runs, sweep_runs, write_runs

import salun
from salun.cli.report import main
from salun.reports.tables import cell


def data_of(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text.partition('id="data">')[2].partition("</script>")[0])
    return found


def page_of(*records: Any, name: str = "one") -> str:
    write_runs(Path("runs") / name / "records.jsonl", list(records))
    salun.report("runs", out="page.html")
    return Path("page.html").read_text()


def test_the_page_loads_nothing_and_names_its_scripts_by_their_hashes(made: Made) -> None:
    text = made.page.read_text()
    assert len(text) < 3 * 2**20
    named = re.findall(r'(?:src|href)="([^"]*)"', text.partition("<script>")[0])
    assert named
    assert all(name.startswith(("#", "data:")) for name in named)
    policy = html.unescape(re.search(r'Content-Security-Policy" content="([^"]+)"', text)[1])  # type: ignore[index]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    for tag in ("script", "style"):
        for body in re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL):
            assert base64.b64encode(hashlib.sha256(body.encode()).digest()).decode() in policy


def test_names_of_strangers_stay_text(made: Made) -> None:
    text = made.page.read_text()
    assert HOSTILE not in text
    assert TAG not in text
    assert text.count("</script") == text.count("<script") == 3
    assert html.escape(TAG) in text
    space = data_of(text)["spaces"]["p1"]
    assert tuple(space["classes"]) == CLASSES
    assert {model["title"] for model in space["models"]} > {"base", "retrained"}


def test_the_table_holds_the_figures_of_all_tables(made: Made) -> None:
    text = made.page.read_text()
    for row in made.results:
        for name in ("UA", "RA", "TA", "MIA"):
            assert f"<span>{cell(row.value(name), '%')}" in text
    copies = data_of(text)["copies"]["p1"]
    assert [line[0] for line in copies["markdown"]][:2] == ["", "base"]
    assert len(copies["csv"]) == len(copies["latex"]) == len(made.results) + 1
    assert copies["csv"][2][1].split(",")[0] == str(made.results[1].value("UA").mean)


def test_images_and_features_are_those_of_the_models(made: Made) -> None:
    data = data_of(made.page.read_text())
    gallery, space = data["galleries"]["p1"], data["spaces"]["p1"]
    forget = made.results[1].records[0].split["forget"]
    assert len(gallery["images"]) == gallery["count"] == forget
    assert {image["label"] for image in gallery["images"]} == {0}
    assert all(image["picture"].startswith("data:image/webp;base64,") for image in gallery["images"])
    wrong = [found[0] != 0 for found in gallery["retrained"]]
    assert sum(wrong) / forget == pytest.approx(made.results[1].records[0].metrics["UA"])
    assert sum(image["forgotten"] for image in space["images"]) == forget
    for model in space["models"]:
        assert len(model["x"]) == len(model["prediction"]) == len(space["images"])
    assert {row["pair"] for row in space["layers"]} == {
        "unlearned and base", "unlearned and retrained", "retrained and base"
    }  # fmt: skip


def test_views_of_the_page_are_drawn_from_what_is_recorded(made: Made) -> None:
    charts = data_of(made.page.read_text())["charts"]
    titles = {row["title"] for row in charts["p1-tradeoff-0"]["rows"]}
    assert titles == {"base", *(row.title for row in made.results[1:])}
    areas = [chart["rows"] for chart in charts.values() if chart["rows"] and "runs" in chart["rows"][0]]
    assert len(areas) == 1
    assert {row["runs"] for row in areas[0] if row["kind"] != "base"} == {2}
    assert all(0 <= row["mean"] <= 1 for row in areas[0])


def test_records_alone_make_a_page_that_says_what_is_missing() -> None:
    text = page_of(*runs(method="retrain"), *sweep_runs())
    assert "No outputs are kept beside the records" in text
    assert "No weights of an unlearned model are at hand" in text
    charts = data_of(text)["charts"]
    swept = next(chart["rows"] for chart in charts.values() if chart["choices"] == ["setting", "outcome"])
    assert {row["varied"] for row in swept} == {0.1, 0.3, 0.5, 1.0}


def test_lists_are_compared_by_what_they_share() -> None:
    write_runs(Path("runs/one/records.jsonl"), [*runs(method="retrain"), *runs(method="rl")])
    text = page_of(*runs(method="ft"), name="two")
    assert "one and two share base model and forget set" in text
    assert "is nearest to retraining" in text
    text = page_of(*runs(method="retrain", request="class 1"), *runs(method="rl", request="class 1"), name="three")
    assert "one and three share the base model, not the forget set." in text
    shared = data_of(text)["charts"]["across-0"]["rows"]
    assert {row["title"] for row in shared} == {"retrain", "rl"}


def test_the_page_says_how_to_run_the_list_again() -> None:
    Path("mine.json").write_text("[]")
    Path("runs/one").mkdir(parents=True)
    Path("runs/one/source.json").write_text('{"list": "../../mine.json"}')
    assert "<code>salun-unlearn -L mine.json --nexp 3</code>" in page_of(*runs(method="retrain"), *runs(method="rl"))


def test_a_deletion_is_stated_with_who_asked_and_the_digest_of_each_file(made: Made) -> None:
    with chdir(made.folder):
        stated = salun.report("study", out="deletion.html", deletion=True, device="cpu")
    text = stated.path.read_text() if stated.path.is_absolute() else (made.folder / stated.path).read_text()
    assert "<script" not in text
    assert html.escape(TAG) in text
    assert "What is not shown" in text
    found = set(re.findall(r"<code>([0-9a-f]{64})</code>", text))
    files = {hashlib.sha256(path.read_bytes()).hexdigest() for path in (made.folder / "pets" / HOSTILE).iterdir()}
    assert len(found) == made.results[1].records[0].split["forget"]
    assert found < files


def test_other_images_than_those_of_the_runs_are_not_shown(made: Made) -> None:
    path = min((made.folder / "pets/plain").iterdir())
    content = path.read_bytes()
    path.unlink()
    try:
        with chdir(made.folder):
            salun.report("study", out="other.html", deletion=True, device="cpu")
    finally:
        path.write_bytes(content)
    text = (made.folder / "other.html").read_text()
    assert "image not at hand" in text
    assert not re.search(r"<code>[0-9a-f]{64}</code>", text)


def test_what_is_no_list_of_runs_is_refused_and_nothing_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nowhere", "--out", "page.html"]) == 2
    assert capsys.readouterr().err == "salun-report: nowhere: no such file or folder, here or under runs/\n"
    write_runs(Path("runs/one/records.jsonl"), runs())
    refuses("embedding='tsn': unknown; did you mean 'tsne'", lambda: salun.report("one", embedding="tsn"))
    assert sorted(path.name for path in Path().iterdir()) == ["runs"]


def test_the_command_prints_the_path_of_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    write_runs(Path("runs/one/records.jsonl"), runs())
    assert main(["one", "--out", "pages/one.html", "--embedding", "none"]) == 0
    assert capsys.readouterr().out == "pages/one.html\n"
    assert Path("pages/one.html").read_text().startswith("<!doctype html>")


def test_a_notebook_shows_the_page_in_a_frame() -> None:
    page_of(*runs(method="retrain"), *runs(method="rl"))
    shown = salun.report("runs", out="page.html")._repr_html_()
    assert html.unescape(re.search(r'srcdoc="([^"]+)"', shown)[1]) == Path("page.html").read_text()  # type: ignore[index]
