"""A text that says no where it said yes, in English and Chinese, by a few rules; a text that no rule fits stays as it is.

After the negation tests of CheckList (Ribeiro et al. 2020, "Beyond Accuracy: Behavioral Testing of NLP Models with CheckList"),
which parse the sentence; here the first verb that a rule knows is denied, or the first denial is taken back.
"""

from __future__ import annotations

import re
from collections.abc import Callable

CONTRACTIBLE = "is are was were could would should do does did has have had must need"
PRESENT = (
    "accept|agree|believe|buy|care|expect|feel|find|get|go|have|hear|hope|know|like|live|look|love|mean|need|own|pay|play|prefer"
    "|receive|recommend|remember|see|seem|send|speak|think|trust|understand|use|want|work"
)
PAST = (
    "accepted:accept added:add asked:ask believed:believe bought:buy canceled:cancel cancelled:cancel changed:change "
    "checked:check expected:expect forgot:forget found:find gave:give got:get had:have knew:know left:leave liked:like "
    "looked:look lost:lose loved:love made:make moved:move needed:need noticed:notice ordered:order paid:pay played:play "
    "received:receive requested:request said:say saw:see sent:send thought:think took:take transferred:transfer tried:try "
    "used:use wanted:want went:go withdrew:withdraw"
)
"""Past tenses and their verbs."""
ORDERS = (
    "add|block|book|buy|call|cancel|change|check|close|explain|find|get|give|help|let|make|open|order|pay|play|put|remind|remove"
    "|reset|send|set|show|start|stop|take|tell|turn"
)
PRONOUNS = r"(?:I|you|we|they|he|she|it|there)"
HELPERS = "is|are|was|were|can|could|will|would|should|must"
PARTICIPLE = r"(?=\s+(?:\w+ly\s+|just\s+|already\s+)?(?:been|had|got|lost|paid|made|sent|bought|found|taken|\w{2,}ed)\b)"

SHORT = r"I[’']m|(?:it|that|he|she|there)[’']s|(?:you|we|they)[’']re"
CONTRACTED = {verb: f"{verb}n't" for verb in CONTRACTIBLE.split()} | {"can": "can't", "will": "won't"}
AFFIRMED = {denied: verb for verb, denied in CONTRACTED.items()} | {"cannot": "can"}
PRESENTS = dict(pair.split(":") for pair in PAST.split())
AUXILIARIES = f"am|{HELPERS}|do|does|did|has|have|had"
DENIED = re.compile(r"\b(?:(\w+n[’']t)|(cannot))\b", re.IGNORECASE)
NOT = re.compile(rf"(\b(?:{AUXILIARIES})(?: {PRONOUNS})?|[’'](?:m|s|re|ve|ll)) not\b", re.IGNORECASE)
OTHER_DENIALS = re.compile(r"\b(?:not?|never|none|nothing|nobody|neither|nor|without)\b", re.IGNORECASE)

Rule = tuple[re.Pattern[str], Callable[[re.Match[str]], str]]


def _contracted(match: re.Match[str]) -> str:
    verb = match[1]
    denied = CONTRACTED[verb.lower()]
    return verb[0] + denied[1:]


def _not_behind(match: re.Match[str]) -> str:
    return f"{match[1]} not"


def _ordered(match: re.Match[str]) -> str:
    return f"{_cased('don', match[1])}'t {match[1].lower()}"


ENGLISH: tuple[Rule, ...] = (
    (re.compile(rf"\b((?:{HELPERS}|do|does|did|have|has) {PRONOUNS})\b", re.IGNORECASE), _not_behind),
    (re.compile(rf"\b({SHORT}|I am)\b", re.IGNORECASE), _not_behind),
    (re.compile(rf"\b({HELPERS}|does|did)\b", re.IGNORECASE), _contracted),
    (re.compile(rf"\b(has|have|had)\b{PARTICIPLE}", re.IGNORECASE), _contracted),
    (
        re.compile(rf"\b(I|you|we|they) (?!have{PARTICIPLE})({PRESENT})\b", re.IGNORECASE),
        lambda found: f"{found[1]} don't {found[2]}",
    ),
    (
        re.compile(rf"\b(I|you|we|they|he|she|it) (?!had{PARTICIPLE})({'|'.join(PRESENTS)})\b", re.IGNORECASE),
        lambda found: f"{found[1]} didn't {PRESENTS[found[2].lower()]}",
    ),
    (re.compile(rf"(?:^|(?<=[.!?] ))({ORDERS})\b", re.IGNORECASE), _ordered),
    (re.compile(rf"\b(please) ({ORDERS})\b", re.IGNORECASE), lambda found: f"{found[1]} don't {found[2]}"),
)


def _cased(word: str, like: str) -> str:
    return word.capitalize() if like[0].isupper() else word


QUESTION_ZH = re.compile(r"(.)[不没]\1|是否|能否|可否|有没有")
"""Asks for yes or no, with both in it: there is nothing to deny."""
KEPT_ZH = re.compile(
    r"不过|不同|不断|不仅|不但|不论|不管|不少|不久|不好意思|对不起|不错|了不起|不然|不得不|差不多|只不过|不如|特别|别人|个别|区别|级别|类别|性别|别的"
)
"""Words with a character that denies elsewhere."""
VERBS_ZH = "可以|能够|应该|应当|需要|愿意|打算|喜欢|知道|希望|允许|支持|同意|相信|认为|记得|想要"
BEGUN_ZH = "收到|找到|看到|听到|买到|得到|拿到|达到"
DONE_ZH = "丢失|丢|忘记|忘|付款|付|买|取|转|退|办|完成|取消|成功|失败|收|下单|下|交|还|改|用"
MODALS_ZH = (
    r"(?<![但可还于总就只而或若要凡便更都像真正算乃即既凡自])是(?!否|的话|非)"
    r"|(?<![可功性才只智职效机潜技节动产核本万])能(?![力量源够耗干效])"
    r"|(?<![社机工大协国学宴晚议都约聚体开商误一])会(?![议员场计谈话晤])"
    r"|(?<![主重需只首必摘简纲就快将想])要(?![求素点是闻么害塞])"
    r"|(?<![思理梦感幻设猜联构料])想(?![法象念像到起要])"
)
DENIED_ZH = re.compile(rf"不({VERBS_ZH}|{MODALS_ZH}|让|行)|没(有|{BEGUN_ZH})")
CHINESE: tuple[Rule, ...] = (
    (re.compile(rf"({VERBS_ZH})"), lambda found: f"不{found[1]}"),
    (re.compile(rf"({MODALS_ZH})"), lambda found: f"不{found[1]}"),
    (re.compile(rf"({BEGUN_ZH})了?"), lambda found: f"没{found[1]}"),
    (re.compile(rf"({DONE_ZH})了"), lambda found: f"没{found[1]}"),
    (re.compile(r"(?<![没所只具拥还含享持占富])(有)(?![限效关些点人的时趣所机着名利权害])"), lambda found: f"没{found[1]}"),
    (re.compile(r"(?<![申邀聘])(请)(?![求假教问客柬])"), lambda found: f"{found[1]}不要"),
    (re.compile(r"(帮我|给我)"), lambda found: f"别{found[1]}"),
)
CHINESE_LETTER = re.compile(r"[\u4e00-\u9fff]")


def negated(text: str) -> str:
    """The text with its first verb denied, or with its first denial taken back; the same text where no rule fits.

    >>> negated("My card is blocked."), negated("I can't log in."), negated("我可以退款吗")
    ("My card isn't blocked.", 'I can log in.', '我不可以退款吗')
    """
    return _negated_chinese(text) if CHINESE_LETTER.search(text) else _negated_english(text)


def _negated_english(text: str) -> str:
    if found := DENIED.search(text):
        verb = AFFIRMED.get(found[0].lower().replace("’", "'"))
        if verb is not None:
            return text[: found.start()] + _cased(verb, found[0]) + text[found.end() :]
    if NOT.search(text):
        return NOT.sub(r"\1", text, count=1)
    return text if found or OTHER_DENIALS.search(text) else _first(text, ENGLISH)


def _negated_chinese(text: str) -> str:
    if QUESTION_ZH.search(text):
        return text
    if found := DENIED_ZH.search(text):
        return text[: found.start()] + text[found.start() + 1 :]
    return text if re.search(r"[不没未无别]", KEPT_ZH.sub("", text)) else _first(text, CHINESE)


def _first(text: str, rules: tuple[Rule, ...]) -> str:
    """With the change of the rule that fits first in the text; of two at one place, the one that comes first."""
    places = [(match.start(), i, match) for i, (pattern, _) in enumerate(rules) if (match := pattern.search(text))]
    if not places:
        return text
    _, i, match = min(places, key=lambda place: place[:2])
    return text[: match.start()] + rules[i][1](match) + text[match.end() :]
