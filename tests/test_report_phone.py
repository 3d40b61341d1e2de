"""The pages of ``coterie report`` on a telephone, 390 pixels wide, and on a desk."""

import pytest

import coterie
from browser import in_a_frame, needs_browser
from coterie.reports.studies.page import read_measured, report_studies
from made_study import made

pytestmark = needs_browser

# How much wider than the screen the page is; which boxes scroll; the smallest letters of pictures, in pixels.
SCRIPT = """page => {
  const root = page.documentElement, boxes = [...page.querySelectorAll(".scroll")];
  const letters = [...page.querySelectorAll("figure svg text")].filter(text => text.textContent.trim());
  const scale = ({ a, b }) => Math.hypot(a, b);
  const sizes = letters.map(text => parseFloat(getComputedStyle(text).fontSize) * scale(text.getScreenCTM()));
  const outside = [...page.querySelectorAll("body *")].filter(
    each => !each.closest(".scroll") && each.getBoundingClientRect().right > root.clientWidth + 1);
  return {
    over: root.scrollWidth - root.clientWidth,
    scrolling: boxes.filter(box => box.scrollWidth > box.clientWidth).length,
    smallest: Math.min(...sizes),
    outside: outside.map(each => each.tagName),
    viewport: page.querySelector("meta[name=viewport]").content,
  };
}"""


@pytest.fixture(scope="module")
def pages(finished, alone, moved, tmp_path_factory):
    """Name to page: of one run, of several, of classes with long names, of a study."""
    folder = tmp_path_factory.mktemp("pages")
    run, place = moved
    return {
        "one": coterie.report(finished, folder / "one.html"),
        "several": coterie.report([finished, alone], folder / "several.html"),
        "moved": coterie.report(run, folder / "moved.html", root=place),
        "study": report_studies([read_measured(made(folder))], folder / "study.html"),
    }


@pytest.mark.parametrize("name", ["one", "several", "moved", "study"])
def test_nothing_is_wider_than_the_screen_and_letters_can_be_read(name, pages, tmp_path):
    phone, desk = (in_a_frame(pages[name], width, SCRIPT, tmp_path) for width in (390, 1280))
    for seen in (phone, desk):
        assert seen["over"] <= 0
        assert seen["outside"] == []
        assert seen["smallest"] >= 5.5  # counts in a confusion matrix; names are larger
        assert "width=device-width" in seen["viewport"]
    assert phone["scrolling"] >= 1  # a wide table scrolls within its own box
