"""The playground in a browser, where Playwright and a chromium are at hand: what one press shows, and that nothing leaves this machine."""

import re
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from test_play_server import served

import ministeer
from ministeer import say
from ministeer.play.session import Session

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")


@pytest.fixture(scope="module")
def at() -> Iterator[str]:
    model, tok = ministeer.load("nano")
    with served(Session(model, tok, "nano")) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def page(at: str) -> Iterator[Any]:
    """The page as it opens on a phone of 360 pixels; it asks for nothing elsewhere and makes no mistake."""
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 360, "height": 740})
        asked, wrong = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.goto(at)
        yield page
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        browser.close()
    assert wrong == [] and asked and all(url.startswith((f"{at}/", "data:", "blob:")) for url in asked)


def pressed(page: Any) -> list[str]:
    page.click("#go")
    sync_api.expect(page.locator("#status")).to_have_text("Done.", timeout=60_000)
    return [page.text_content(f"#text{i}") for i in (0, 1)]


def test_the_first_press_shows_both_texts_and_what_was_done(page: Any) -> None:
    plain, steered = pressed(page)
    model, tok = ministeer.load("nano")
    assert plain == "I feel" + say(model, tok, "I feel", max_new_tokens=40)
    assert steered.startswith("I feel happy") and steered != plain
    assert page.text_content("#receipt").startswith("At the input of layer 2, ")
    assert "say(model, tok" in page.text_content("#python")
    page.focus("#text1")
    page.keyboard.press("Home")
    looked = page.text_content("#look")
    assert "“␣happy”, new token 1 of the steered text" in looked and "␣sad 7" in looked
    first = page.locator("#text1 span").first
    under = [first.get_attribute(f"data-{which}") for which in ("without", "with")]
    assert under[0] == "4" and int(under[1]) > 4
    assert (
        page.evaluate("getComputedStyle(document.querySelector('#text1 span'), '::after').content") == f'"{under[1]}"'
    )
    page.uncheck("#chances")
    assert page.evaluate("getComputedStyle(document.querySelector('#text1 span'), '::after').content") == "none"
    assert "color-mix" in first.get_attribute("style") or "color(" in first.get_attribute("style")


def test_the_drawing_of_the_readme_is_in_the_page(page: Any) -> None:
    page.click("summary >> text=A drawing of it")
    sync_api.expect(page.locator("#drawing")).to_be_in_viewport()
    assert page.evaluate("document.getElementById('drawing').naturalWidth") > 0


def test_the_drawing_shows_where_the_vector_is_added(page: Any) -> None:
    points = page.locator(".stream circle")
    assert points.count() == 9
    for layer in (2, 8):
        page.fill("input[type=number].layer", str(layer))
        arrow = page.get_attribute(".stream .push", "d")
        assert arrow.startswith(f"M{points.nth(layer).get_attribute('cx')} ")


def test_its_controls_can_be_named(page: Any) -> None:
    """Each has a label, in words or by an attribute."""
    page.click("#another")
    named = "e => e.labels?.length || e.getAttribute('aria-label') || e.textContent.trim()"
    for control in page.query_selector_all("input, select, textarea, button"):
        assert control.evaluate(named), control.evaluate("e => e.outerHTML")


def test_a_tap_shows_the_likeliest_tokens_and_a_change_makes_the_receipt_an_old_one(page: Any) -> None:
    pressed(page)
    page.locator("#text1 span").nth(3).click()
    sync_api.expect(page.locator("#look table")).to_be_in_viewport(ratio=1)
    assert "new token 4 of the steered text" in page.text_content("#look")
    assert page.text_content("#what") == "What was done"
    page.fill("#prompt", "You feel")
    assert page.text_content("#what") == "What was done, before you changed something"
    pressed(page)
    assert page.text_content("#what") == "What was done"


def test_wrong_input_is_said_in_the_page(page: Any) -> None:
    page.fill(".minus", "Love")
    page.click("#go")
    page.wait_for_selector("#wrong:not(:empty)")
    assert page.text_content("#wrong").startswith("Expected two texts that differ")


def test_a_number_in_a_folded_part_is_said_too_and_the_texts_stay(page: Any) -> None:
    before = pressed(page)
    page.click("form summary")
    page.fill("#tokens", "9999")
    page.click("form summary")
    page.click("#go")
    page.wait_for_selector("#wrong:not(:empty)")
    assert page.text_content("#wrong") == "Expected tokens as a whole number from 1 to 200, got 9999."
    assert tuple(page.text_content(f"#text{i}") for i in (0, 1)) == tuple(before)


def test_a_health_is_said_in_words_and_does_not_outlive_its_texts(page: Any) -> None:
    page.click(".health")
    page.wait_for_selector(".curves svg")
    assert "One pair cannot show how sound" in page.text_content(".curves")
    page.select_option(".kind", "pairs")
    page.fill("textarea.pairs", "I love it | I hate it\nso kind | so cruel\nI am happy | I am sad\nso good | so bad")
    page.click(".health")
    page.wait_for_selector(".curves svg >> nth=3")
    said = page.text_content(".curves")
    assert re.search(r"Weak at layer|Sound at every layer|Weak at every layer", said) and " at layer 2" in said
    page.fill("textarea.pairs", "I am happy. | I am sad.\n" + "You are kind. | You are cruel.\n" * 3)  # they end alike
    page.click(".health")
    page.wait_for_selector(".curves svg >> nth=3")
    assert "One pair" not in page.text_content(".curves") and "Weak at layer" in page.text_content(".curves")
    assert "pairs repeat earlier ones" in page.text_content("#notes")
    page.select_option("select.token", "answer")
    assert not page.text_content(".curves")
    page.click(".health")
    page.wait_for_selector(".curves svg >> nth=3")
    page.fill("textarea.pairs", "I love it | I hate it")
    assert not page.text_content(".curves")


def test_a_text_can_be_stopped_and_the_next_one_written(page: Any) -> None:
    page.click("form summary")
    page.fill("#tokens", "200")
    page.click("#go")
    page.wait_for_selector("#text0 span")
    page.click("#stop")
    page.wait_for_selector("#done:not([hidden])")  # what is known of the tokens that came
    stopped = re.fullmatch(r"Stopped after (\d+) tokens?\.", page.text_content("#status"))
    assert stopped and int(stopped[1]) < 200 and page.is_disabled("#stop")
    assert page.locator("#text1 span[data-with]").count() and "new token 1 of the steered text" in page.text_content(
        "#look"
    )
    page.fill("#tokens", "5")
    assert pressed(page)[0] == "I feel sad when I see you"


def test_pairs_a_file_of_them_and_the_map(page: Any, tmp_path: Any) -> None:
    (tmp_path / "pairs.jsonl").write_text('["I love it", "I hate it"]\n' * 3 + '["so kind", "so cruel"]\n')
    page.select_option(".kind", "pairs")
    page.set_input_files(".jsonl", tmp_path / "pairs.jsonl")
    sync_api.expect(page.locator("textarea.pairs")).to_have_value(re.compile("cruel"))
    page.click(".health")
    page.wait_for_selector(".curves svg >> nth=3", timeout=60_000)
    with page.expect_download() as saved:
        page.click(".save >> nth=0")
    saved.value.save_as(tmp_path / "kind.safetensors")
    page.set_input_files(".saved", tmp_path / "kind.safetensors")
    sync_api.expect(page.locator(".named")).to_have_text("kind.safetensors")
    page.click("#mapping summary")
    page.click("#map")
    page.wait_for_selector("#grid table", timeout=60_000)
    page.click("#grid button[title^='layer 3, strength 0.75: log-odds ']")
    page.wait_for_selector("#done:not([hidden])", timeout=60_000)
    assert page.input_value("input[type=number].layer") == "3" and "At the input of layer 3" in page.text_content(
        "#receipt"
    )
    assert 'SteeringVector.load("kind.safetensors", model)' in page.text_content("#python")
    under = page.locator("#under")  # the text is seen where the cell was pressed
    assert under.text_content() == "Layer 3, strength 0.75: " + "".join(page.locator("#text1 span").all_text_contents())
    sync_api.expect(under).to_be_in_viewport()
    pressed(page)
    assert under.text_content().startswith("Layer 3, strength 0.75: "), "of the cell alone"
    page.fill("#prompt", "You feel")
    assert not under.text_content() and not page.text_content("#grid")
