from __future__ import annotations

import pytest
from pdf_files import pdf_bytes

from taskloom.plugins.retrieval.documents.decoding import Undecodable
from taskloom.plugins.retrieval.documents.html_text import Unreadable, read_html
from taskloom.plugins.retrieval.documents.markdown_text import read_markdown
from taskloom.plugins.retrieval.documents.pdf_text import read_pdf

PAGE = """<!doctype html><html lang="zh-CN"><head><title> A &amp; B </title><style>p {}</style><script>evil()</script></head>
<body><header><a href="/">Home</a></header><nav>Menu</nav><div id="cookie-banner">We use cookies <p>OK?</p></div>
<h1>Router</h1><p>It has <b>two</b>
buttons,<br>and a   lamp. 红灯
  亮了。</p>loose text
<h2 id="cookies">Cookies</h2><ul><li>one</li><li>two <i>halves</i></li></ul>
<div hidden>unseen</div><span style="display: none">unseen</span>
<pre>if x:
    y</pre><table><tr><th>name</th><th>volts</th></tr><tr><td>a|b</td><td>5</td></tr></table>
<table><tr><td><p>A page's column.</p></td><td><p>Another.</p></td></tr></table>
<footer>Imprint</footer><noscript>no</noscript></body></html>"""


def html(page: str) -> str:
    return read_html(page.encode())["text"].strip()


def test_a_page_becomes_its_content() -> None:
    found = read_html(PAGE.encode())
    assert (found["title"], found["language"]) == ("A & B", "zh")
    assert found["text"].split("\n\n") == [
        "# Router",
        "It has two buttons,\nand a lamp. 红灯亮了。",
        "loose text",
        "## Cookies",
        "- one\n- two halves",
        "```\nif x:\n    y\n```",
        "| name | volts |\n| --- | --- |\n| a\\|b | 5 |",
        "A page's column.",
        "Another.",
        "",
    ]


def test_the_main_part_is_taken_where_there_is_one() -> None:
    article = "<p>" + "The article says something. " * 20 + "</p>"
    assert "Teaser" not in html(f"<body><div>Teaser</div><main>{article}</main></body>")
    assert "Teaser" in html("<body><div>Teaser</div><main>x</main></body>")
    assert "Second" in html(f"<body><article>{article}</article><article>Second</article></body>")


@pytest.mark.parametrize("charset", ["gb2312", "gbk", "big5", "utf-8", "shift_jis"])
def test_a_page_says_its_encoding(charset: str) -> None:
    page = f'<html><head><meta http-equiv="Content-Type" content="text/html; charset={charset}"></head><p>中文</p></html>'
    assert read_html(page.encode(charset))["text"].strip() == "中文"


@pytest.mark.parametrize(
    ("charset", "written", "text"),
    [
        ("utf-16", "utf-8", "中文 “a”"),
        ("iso-8859-1", "cp1252", "Don’t – 5 €"),
        ("ascii", "utf-8", "“é”"),
        ("latin1", "latin-1", "é\x81è"),
    ],
)
def test_a_page_is_read_as_browsers_understand_what_it_says(charset: str, written: str, text: str) -> None:
    page = f'<html><head><meta charset="{charset}"></head><p>{text}</p></html>'
    assert read_html(page.encode(written))["text"].strip() == text


@pytest.mark.parametrize("page", ["", "<", "<p", "&#x110000;&#0;", "<html></html>", "]]>", "<?xml version='1.0'?><p>a"])
def test_broken_pages_give_what_there_is(page: str) -> None:
    assert set(html(page)) <= set("a<&#x10;]> p\ufffd")


def test_a_page_that_is_nested_too_deep_is_refused() -> None:
    assert html("<div>" * 1500 + "deep" + "</div>" * 1500) == "deep"
    with pytest.raises(Unreadable, match="2048"):
        html("<div>" * 100_000 + "deep")


def test_markdown_becomes_words_with_its_structure() -> None:
    source = (
        "---\ntitle: 'The *manual*'\nlang: zh-CN\n---\n# Router\n\nIt *has* [two](http://x) `buttons`,\nand ![a lamp](u).  \n"
        "红灯\n亮了。\n\n"
        "重置\n---\n\n- one\n- two\n  - inner\n\n1. first\n2. second\n\n```py\n# no heading\n```\n\n"
        "a | b\n--|--\n1 | 2\n\n> quoted\n\n<!-- hidden -->\n<div>shown</div>\n\nend &amp; \\*done\\*\n"
    )
    found = read_markdown(source.encode())
    assert (found["title"], found["language"]) == ("The *manual*", "zh")
    assert found["text"].strip().split("\n\n") == [
        "# Router",
        "It has two buttons, and a lamp.\n红灯亮了。",
        "## 重置",
        "- one\n- two\n  - inner",
        "1. first\n2. second",
        "```\n# no heading\n```",
        "| a | b |\n| --|-- |\n| 1 | 2 |",
        "quoted",
        "shown",
        "end & *done*",
    ]
    titles = {"# Büro\n": "Büro", "## A\n# B\n": "B", "## A\n\ntext": "A", "text\n\n## A\n": ""}
    assert {source: read_markdown(source.encode())["title"] for source in titles} == titles
    assert read_markdown(b"---\n\nno front matter\n\n---\n")["text"].strip() == "no front matter"


def pdf(*pages: list[str]) -> str:
    return read_pdf(pdf_bytes(pages))["text"]


def test_lines_that_the_page_broke_are_joined() -> None:
    text = pdf(
        [
            "The router has a power supply that can be used inter-",
            "nationally, and a well-known lamp that shows it. It is a well-",
            "known lamp, which is green while it works without a fault.",
            "",
            "A second paragraph stands below a gap in the text here.",
        ]
    )
    assert text.split("\n\n") == [
        "The router has a power supply that can be used internationally, and a well-known lamp that shows it. It is a"
        " well-known lamp, which is green while it works without a fault.",
        "A second paragraph stands below a gap in the text here.",
    ]
    assert pdf(["我的银行卡在哪里请帮我找", "一找你好吗𠮷我们走吧。"]) == "我的银行卡在哪里请帮我找一找你好吗𠮷我们走吧。"
    assert pdf(["- one item of a list of items", "- another item of this list"]).split("\n\n") == [
        "- one item of a list of items",
        "- another item of this list",
    ]


def test_a_paragraph_goes_on_over_the_page() -> None:
    assert pdf(["A line of the first page that is full and"], ["goes on with the second."]).endswith(
        "full and goes on with the second."
    )


def test_headers_and_footers_go() -> None:
    pages = [["Router manual", "", f"What page {word} says is its own.", "", f"Page {i} of 4"] for i, word in enumerate("abcd")]
    assert pdf(*pages).split("\n\n") == [f"What page {word} says is its own." for word in "abcd"]
    assert "Router manual" in pdf(*pages[:2])  # twice may be chance


def test_large_print_is_a_heading() -> None:
    lines = ["This is the text of the body, set in its size.", "It has some more lines than the headings have."]
    assert pdf(["# Setup", *lines, "", "# Help", *lines]).count("# ") == 2
    assert "# Setup\n\nThis is" in pdf(["# Setup", *lines, *lines])
    assert "#" not in pdf(["# Most of this page", "# is set large.", "And a little of it is set smaller."])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "damaged"),
        (b"%PDF-1.4 nonsense", "damaged"),
        (pdf_bytes([[]]), "scanned"),
        (
            pdf_bytes(
                [["secret"]],
                trailer=f"/Encrypt << /Filter /Standard /V 1 /R 2 /O <{'41' * 32}> /U <{'42' * 32}> /P -4 >> /ID [<00> <00>]",
            ),
            "encrypted",
        ),
    ],
)
def test_pdfs_that_cannot_be_read_say_why(content: bytes, reason: str) -> None:
    with pytest.raises(Unreadable, match=reason):
        read_pdf(content)


def test_the_title_of_a_pdf_is_not_its_file() -> None:
    assert read_pdf(pdf_bytes([["x y"]], title="Router manual"))["title"] == "Router manual"
    assert read_pdf(pdf_bytes([["x y"]], title="Microsoft Word - final2.doc"))["title"] == ""


def test_a_page_in_no_encoding_is_undecodable() -> None:
    with pytest.raises(Undecodable):
        read_html("<p>déjà vu</p>".encode("latin-1"))
