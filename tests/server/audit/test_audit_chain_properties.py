"""Invariants of the chain and of redaction."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from taskloom.core.digest import canonical_json
from taskloom.server.audit.chain import FIELDS, canonical_record, record_digest
from taskloom.server.audit.redaction import redact, redact_text

NUMBERS = {"time_s", "duration_s"}
texts = st.text(alphabet=st.characters(exclude_categories=["Cs"]))
floats = st.floats(allow_nan=False, allow_infinity=False)
records = st.fixed_dictionaries(
    {f: floats if f in NUMBERS else st.integers(1, 2**60) if f == "sequence" else texts for f in FIELDS}
)


@given(records)
def test_the_fast_form_of_a_record_is_its_canonical_json(fields: dict[str, Any]) -> None:
    assert canonical_record(fields) == canonical_json(fields)


@given(records, st.sampled_from(FIELDS), st.data())
def test_a_change_of_any_field_changes_the_digest(fields: dict[str, Any], name: str, data: st.DataObject) -> None:
    other = data.draw(floats if name in NUMBERS else st.integers(1, 2**60) if name == "sequence" else texts)
    assume(repr(other) != repr(fields[name]))
    assert record_digest(fields | {name: other}) != record_digest(fields)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("mail ada.lovelace+x@example.co.uk now", "mail [EMAIL] now"),
        ("请联系zhang.san@example.cn，谢谢", "请联系[EMAIL]，谢谢"),
        ("我的手机是13800138000，请回电", "我的手机是[PHONE]，请回电"),
        ("手机+86 138 0013 8000", "手机[PHONE]"),
        ("手机１３８００１３８０００", "手机[PHONE]"),
        ("座机010-62345678", "座机[PHONE]"),
        ("call +44 20 7946 0958 or (415) 555-2671", "call [PHONE] or [PHONE]"),
        ("call 415-555-2671.", "call [PHONE]."),
        ("身份证11010519491231002X。", "身份证[ID]。"),
        ("身份证号码：110105194912310021", "身份证号码：[ID]"),
        ("my ssn is 078-05-1120", "my ssn is [ID]"),
        ("card 4111 1111 1111 1111 was charged", "card [CARD] was charged"),
        ("卡号6222-0212-3456-7890-128", "卡号[CARD]"),
        ("卡号6222-0212-3456-7890-129", "卡号[NUMBER]"),
        ("card 5500005555555559", "card [CARD]"),
        ("from 192.168.10.254:8080", "from [IP]:8080"),
        ("服务器地址是2001:db8::ff00:42:8329", "服务器地址是[IP]"),
        ("::1 is me", "[IP] is me"),
        ("order 123456789012", "order [NUMBER]"),
        ("订单12345678号", "订单[NUMBER]号"),
    ],
)
def test_what_identifies_is_marked(text: str, kept: str) -> None:
    assert redact_text(text) == kept


@pytest.mark.parametrize(
    "text",
    [
        "on 2026-11-21 at 10:30:00 I paid 123.45 for 2 cards",
        "版本1.2.3在2026年11月21日发布，价格９９元",
        "std::vector, 16:9, 3 x 4 = 12, call me @ noon",
        "",
    ],
)
def test_what_does_not_identify_stays(text: str) -> None:
    assert redact_text(text) == text or redact_text(text) == text.replace("９９", "99")


def test_nested_data_keeps_its_shape() -> None:
    data = {"a": [{"to": "x@example.org"}, 5, 13800138000, True, None, 0.9312849640846252], "y@example.org": "z"}
    assert redact(data) == {"a": [{"to": "[EMAIL]"}, 5, "[PHONE]", True, None, 0.9312849640846252], "[EMAIL]": "z"}


@pytest.mark.parametrize("payload", ["plain", "with params"])
def test_bytes_are_never_kept(payload: str) -> None:
    image = base64.b64encode(bytes(range(256)) * 12_000).decode()
    told = f"[BYTES 3072000 bytes, sha256 {hashlib.sha256(bytes(range(256)) * 12_000).hexdigest()}]"
    asked = {"image": image, "caption": "by an@example.org", "more": [image[:8]]}
    kept = {
        "image": told,
        "caption": "by [EMAIL]",
        "more": [f"[BYTES 6 bytes, sha256 {hashlib.sha256(bytes(range(6))).hexdigest()}]"],
    }
    if payload == "with params":
        asked, kept = {"input": asked, "params": {"image": "13800138000"}}, {"input": kept, "params": {"image": "[PHONE]"}}
    assert redact(asked, ["image", "more"]) == kept


def test_text_beyond_what_is_searched_is_told_by_its_digest() -> None:
    long = "an@example.org " * 20_000
    kept = redact({"a": "an@example.org", "b": long, "c": ["13800138000"]})
    digest = hashlib.sha256(long.encode()).hexdigest()
    assert kept == {"a": "[EMAIL]", "b": f"[TEXT {len(long)} characters, sha256 {digest}]", "c": ["[PHONE]"]}
    many = redact({"texts": ["x" * 100_000 + " an@example.org"] * 4})["texts"]
    assert [text[:6] for text in many] == ["xxxxxx", "xxxxxx", "[TEXT ", "[TEXT "]


json_data = st.recursive(
    st.none() | st.booleans() | st.integers() | floats | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


@given(json_data)
def test_redaction_takes_any_json_and_once_is_enough(data: Any) -> None:
    once = redact(data)
    json.dumps(once, allow_nan=False)
    assert redact(once) == once


@given(texts, st.from_regex(r"\A1[3-9][0-9]{9}\Z"), texts)
def test_a_mobile_number_never_survives(before: str, number: str, after: str) -> None:
    assert number not in redact_text(f"{before} {number} {after}")
