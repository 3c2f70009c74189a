# ruff: noqa: RUF001 - the reports print true multiplication and minus signs
import re
from dataclasses import replace
from html.parser import HTMLParser

import matplotlib as mpl
import pytest
import report_cases as cases

from madx.report import render_html, render_markdown
from madx.verify import GateResult, Outcome, Verdict

VOID = {"meta", "br", "img", "link", "hr", "input"}


class Page(HTMLParser):
    """Tags, attributes and text; unbalanced tags are errors."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.words, self.wrong = [], [], [], [], []
        self.feed(text)
        self.close()
        self.wrong += self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("style", "title"):
            self.words.append(data)

    @property
    def text(self):
        return " ".join("".join(self.words).replace("\xa0", " ").split())


@pytest.fixture(scope="module")
def pages():
    return {name: render_html(content) for name, content in cases.CONTENTS.items()}


@pytest.mark.parametrize("name", cases.CONTENTS)
class TestEveryPage:
    def test_is_well_formed(self, pages, name):
        assert Page(pages[name]).wrong == []

    def test_begins_with_the_verdict(self, pages, name):
        page, outcome = Page(pages[name]), cases.CONTENTS[name].verdict.outcome.value
        assert pages[name].startswith("<!DOCTYPE html>")
        assert page.text.index(outcome) < page.text.index("Gates")
        assert ("section", "class", f"verdict {outcome.lower()}") in page.attributes

    def test_asks_nobody_for_anything(self, pages, name):
        page = Page(pages[name])
        assert not {"script", "link", "iframe", "object", "embed"} & set(page.tags)
        pictures = [value for tag, attribute, value in page.attributes if (tag, attribute) == ("img", "src")]
        assert all(picture.startswith("data:image/png;base64,") for picture in pictures)
        assert not any(attribute in ("srcset", "poster", "action") for _, attribute, _ in page.attributes)
        addresses = [value for tag, name, value in page.attributes if name in ("src", "href", "xlink:href")]
        addresses = [address for address in addresses if address not in pictures]
        assert all(address.startswith("#") for address in addresses)
        assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", pages[name]))
        assert "@import" not in pages[name]
        assert "http://" not in pages[name]
        assert "https://" not in pages[name]

    def test_ids_are_unique_and_references_have_a_target(self, pages, name):
        attributes = Page(pages[name]).attributes
        ids = [value for _, attribute, value in attributes if attribute == "id"]
        wanted = {value[1:] for _, attribute, value in attributes if attribute == "href"}
        wanted |= set(re.findall(r"url\(#([^)]*)\)", pages[name]))
        assert len(ids) == len(set(ids))
        assert wanted <= set(ids)

    def test_pictures_take_their_colours_from_the_page(self, pages, name):
        body = pages[name].partition("</style>")[2]
        assert re.findall(r"(?:fill|stroke): #[0-9a-f]+", body) == []

    def test_is_the_same_every_time(self, pages, name):
        assert render_html(cases.CONTENTS[name]) == pages[name]

    def test_is_utf_8_without_control_characters(self, pages, name):
        pages[name].encode("utf-8")
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f]", pages[name])


def test_text_of_the_user_stays_text(pages):
    page = Page(pages["hostile"])
    assert "script" not in page.tags
    assert "alert('x')" in page.text
    assert not any(name.startswith("on") for _, name, _ in page.attributes)


@pytest.mark.parametrize(
    ("name", "phrases"),
    [
        (
            "passing",
            [
                "All 6 gates hold.",
                "robust accuracy 76.0 % → 75.2 % (at 95 % confidence at most 1.6 points lost; allowed 3 points)",
                "speed-up 2.60× (at 95 % confidence at least 2.58×; required 1.5×)",
                "Stronger attacks may find more.",
                "The suite quick within L∞ radius 8/255: twin: apgd; engine alone: square.",
                "760 of 1000",
                "1 of 2",
                "4.0 MB",
                "1 h 06 min",
                "25.2 % of the weights are kept",
                "its 16 inputs are the image's",
                "criterion: mad-paper",
            ],
        ),
        ("failing", ["3 of 6 gates fail.", "required 1.5×"]),
        ("undecided", ["The evidence does not decide 2 of 6 gates.", "lies between the limits"]),
        ("missing", ["not built: tensorrt-fp16 needs a GPU", "Latency was not measured on any engine."]),
        (
            "bare",
            [
                "No gate was measured",
                "Accuracy was not measured on any engine.",
                "No accuracy was recorded while pruning.",
                "Saliency was not recorded.",
                "No engine is on record.",
                "The attacks' settings are not recorded.",
            ],
        ),
    ],
)
def test_says_what_is_known_and_what_is_not(pages, name, phrases):
    text = Page(pages[name]).text
    assert [phrase for phrase in phrases if phrase not in text] == []


def test_engines_are_the_files_that_were_built(pages):
    """The record of a build holds more than its files; none of it is shown as a file that nobody recorded."""
    engines = Page(pages["passing"]).text.partition("A verdict speaks of these files and no others")[2]
    panels = re.findall(r"network\s*(\w+?)\s*file\s*(engines\S+?\.onnx)", engines)
    assert [(role, file.rpartition("/")[2]) for role, file in panels] == [
        ("dense", "dense.onnx"),
        ("pruned", "pruned.onnx"),
    ]


@pytest.mark.parametrize("name", ["passing", "failing", "two engines"])
def test_tables_whose_headings_a_phone_hides_label_their_cells(pages, name):
    tables = re.findall(r'<table class="([^"]*)">(.*?)</table>', pages[name], flags=re.DOTALL)
    numbers = [
        cell for kind, body in tables if "wide" in kind for cell in re.findall(r'<td class="number"[^>]*>', body)
    ]
    assert numbers
    assert [cell for cell in numbers if "data-label" not in cell] == []


def test_a_missing_estimate_is_never_a_zero(pages):
    text = Page(pages["missing"]).text
    gates = text[text.index("Each line") : text.index("Stronger attacks")]
    assert "not measured" in gates
    assert not re.search(r"\b0(\.0+)?( %| points|×)", gates)


def test_warnings_stand_between_verdict_and_gates(pages):
    warned = render_html(cases.content((), missing={"tensorrt-fp16": "no GPU <here>"}))
    text = Page(warned).text
    warning = "tensorrt-fp16 was promised and not measured: no GPU <here>"
    assert text.index("INCONCLUSIVE") < text.index(warning) < text.index("Each line")
    assert "was promised and not measured" not in pages["passing"]


def test_a_network_that_was_not_finetuned_says_so():
    finetuning = {"one_shot": {"clean": 0.5, "robust": 0.2, "images": 200}, "evaluations": []}
    text = Page(render_html(replace(cases.PASSING, finetuning=finetuning))).text
    assert "The pruned network was not fine-tuned." in text
    assert re.search(r"one-shot\s*50.0 %\s*20.0 %", text)


@pytest.mark.parametrize(
    ("changes", "phrases"),
    [
        (
            {},
            [
                "The kept set has settled",
                "(wanted 90.0 % twice in a row; by chance 11.0 %)",
                "dashed: below it the convolutions",
            ],
        ),
        ({"overlaps": (0.3,)}, ["The kept set has not settled", "Other images would keep other weights."]),
        ({"passes": 2.5}, ["2.5 passes over the training split", "the halves share images"]),
        ({"batches": 0}, ["Criterion: mad-paper, from the weights alone."]),
        ({"learned_steps": 100}, ["masks were learned in 100 steps", "The start of learning has settled"]),
    ],
)
def test_says_how_far_the_saliency_has_settled(changes, phrases):
    text = Page(render_html(cases.content(saliency=cases.saliency(**changes)))).text
    assert [phrase for phrase in phrases if phrase not in text] == []
    assert ("rank correlation" in text) == (changes.get("overlaps") != ())


def _luminance(colour):
    """Relative luminance of WCAG 2.2."""
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", [0, 1])
@pytest.mark.parametrize(
    ("words", "ground", "least"),
    [
        ("ink", "paper", 7),
        ("muted", "paper", 4.5),
        ("muted", "panel", 4.5),
        ("pass", "paper", 4.5),
        ("fail", "paper", 4.5),
        ("inconclusive", "paper", 4.5),
        ("pass", "pass-soft", 4.5),
        ("fail", "fail-soft", 4.5),
        ("inconclusive", "inconclusive-soft", 4.5),
        ("ink", "fail-soft", 7),
        ("muted", "inconclusive-soft", 4.5),
        ("dense", "paper", 3),
        ("pruned", "paper", 4.5),
    ],
)
def test_colours_can_be_told_apart(pages, scheme, words, ground, least):
    """Contrast as WCAG AA asks: 4.5 for text, 3 for graphics; AAA for running text."""
    sets = re.findall(r":root \{(.*?)\}", pages["passing"], flags=re.DOTALL)
    colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", sets[scheme]))
    bright, dark = sorted((_luminance(colours[words]), _luminance(colours[ground])), reverse=True)
    assert (bright + 0.05) / (dark + 0.05) >= least


def test_one_picture_for_each_gate_and_the_rest(pages):
    assert pages["passing"].count('<svg class="plot"') == len(cases.GATES) + 10
    assert pages["two engines"].count('<svg class="plot"') == 2 * (len(cases.GATES) + 5) + 5


def test_matplotlib_is_left_as_it_was():
    before = dict(mpl.rcParams)
    with mpl.rc_context({"axes.facecolor": "pink", "font.size": 40}):
        page = render_html(cases.PASSING)
        assert mpl.rcParams["font.size"] == 40
    assert page == render_html(cases.PASSING)
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("render", [render_html, render_markdown])
def test_the_first_lines_show_which_gate_passed_and_which_failed(render):
    clean = GateResult("e", "clean_drop", 0.01, "at_most", -0.003, -0.009, 0.004, 0.95, Outcome.PASS, ("counted",))
    robust = GateResult("e", "robust_drop", 0.03, "at_most", 0.6, 0.57, 0.63, 0.95, Outcome.FAIL, ("counted",))
    page = render(cases.content(verdict=Verdict(gates=(clean, robust), warnings=())))
    first = re.sub(r"<[^>]*>", " ", page[page.rindex("</header>") if "</header>" in page else 0 : page.rindex("Gates")])
    seen = " ".join(first.replace("\u00a0", " ").split())
    assert re.search(r"PASS\W+clean accuracy lost −0.3 points.* FAIL\W+robust accuracy lost 60.0 points", seen)
