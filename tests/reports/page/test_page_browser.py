import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from pages import HOSTILE, TAG, Made

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
WIDTHS = (360, 1024, 1920)


@pytest.fixture(scope="module")
def told() -> list[str]:
    """What the browser said, or asked for beyond the page."""
    return []


@pytest.fixture(scope="module")
def page(made: Made, told: list[str]) -> Iterator[Any]:
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        found = browser.new_page(viewport={"width": 1024, "height": 900})
        found.set_default_timeout(120_000)
        found.on("console", lambda message: told.append(f"{message.type}: {message.text}"))
        found.on("pageerror", lambda error: told.append(str(error)))
        found.on("dialog", lambda dialog: (told.append(dialog.message), dialog.dismiss()))
        found.on("request", lambda request: told.append(request.url) if not request.url.startswith("data:") else None)
        found.goto(made.page.as_uri())
        found.wait_for_selector("html[data-ready=true]", state="attached")
        yield found
        browser.close()


def titles(page: Any) -> list[str]:
    found: list[str] = page.eval_on_selector_all(
        ".results tbody tr:not([hidden]) th", "all => all.map(x => x.textContent)"
    )
    return found


def test_everything_is_drawn_without_an_error_and_without_a_request(page: Any, made: Made, told: list[str]) -> None:
    assert told == [made.page.as_uri()]
    charts = page.locator(".plot").count()
    assert charts == page.locator(".plot > svg, .plot svg.marks").count() > 8
    assert page.locator(".plane svg.marks").count() == 4
    assert page.locator("img[onerror]").count() == 0
    assert HOSTILE in page.locator(".gallery").inner_text()
    assert TAG in page.locator(".results").first.inner_text()


def test_the_table_is_sorted_and_filtered_and_copied(page: Any) -> None:
    head = page.locator("th[data-column=UA] button")
    head.click()
    values = page.eval_on_selector_all(".results td[data-column=UA]", "all => all.map(x => Number(x.dataset.value))")
    assert values == sorted(values)
    head.click()
    assert page.locator("th[data-column=UA]").get_attribute("aria-sort") == "descending"
    page.select_option("select[name=mask]", "0.5")
    assert len(titles(page)) == 1
    page.locator("[data-copy=markdown]").click()
    copied = page.wait_for_selector("output[data-content]", state="attached").get_attribute("data-content")
    assert len(copied.splitlines()) == 3
    page.select_option("select[name=mask]", "")
    page.fill("input[type=search]", "retrain")
    assert titles(page) == ["retrain"]
    page.fill("input[type=search]", "")


def test_columns_are_chosen(page: Any) -> None:
    page.locator(".columns summary").click()
    page.get_by_label("VA %", exact=True).check()
    assert page.locator("td[data-column=VA]").first.is_visible()
    page.get_by_label("VA %", exact=True).uncheck()
    assert page.locator("td[data-column=VA]").first.is_hidden()
    page.locator(".columns summary").click()


def test_a_point_is_shown_in_all_models_and_slides_between_them(page: Any) -> None:
    page.locator(".space").scroll_into_view_if_needed()
    before = page.locator(".looked").inner_text()
    page.locator(".plane[data-at='0'] .mark-symbol path").nth(5).hover(force=True)
    page.wait_for_function("before => document.querySelector('.looked').innerText !== before", arg=before)
    assert page.locator(".looked tbody tr").count() == 3
    place = "document.querySelector(\".plane[data-at=slide] .mark-symbol path\").getAttribute('transform')"
    begin = page.evaluate(place)
    page.locator("[data-choice=slide]").focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    page.wait_for_function(f"begin => {place} !== begin", arg=begin)


def test_images_are_sorted_by_who_moved_most(page: Any) -> None:
    page.select_option("[data-choice=sort]", "index")
    first = page.locator(".cards li").first.inner_text()
    page.select_option("[data-choice=sort]", "moved")
    assert page.locator(".cards li").count() > 10
    assert page.locator(".cards img").first.evaluate("image => image.naturalWidth") == 8
    assert first


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_serious_keeps_people_out(page: Any, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page.emulate_media(color_scheme=scheme)
    found = axe.run(page).response["violations"]
    assert [
        f"{one['id']}: {one['nodes'][0]['html']}" for one in found if one["impact"] in ("serious", "critical")
    ] == []
    page.emulate_media(color_scheme="light")


def test_it_prints(page: Any) -> None:
    printed = page.pdf(format="A4")
    assert printed.startswith(b"%PDF")
    assert len(printed) > 50_000


@pytest.mark.parametrize("width", WIDTHS)
def test_it_fits(page: Any, width: int, told: list[str], made: Made) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.wait_for_function("document.documentElement.scrollWidth <= innerWidth")
    assert told == [made.page.as_uri()]
