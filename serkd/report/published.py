"""Published results, and whether a number of ours may stand beside them.

Values in percent. A comparison needs the same corpus, classes, protocol and part: anything else is
refused with the reason.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Published:
    """A result in print. `protocol` None: it could not be verified, so nothing compares with it."""

    system: str
    source: str
    corpus: str
    num_classes: int
    protocol: str | None
    parameters_m: str
    wa: float | None = None
    ua: float | None = None
    wf1: float | None = None
    remark: str = ""


# utterances of the classes below that everybody uses; of MELD all but the two broken clips
_SIZES = {"iemocap": 5_531, "meld": 13_706}
_LOSO = "leave_one_session_out"
_SUPERB = "SUPERB (Yang et al., 2021)"
PUBLISHED = (
    Published("HuBERT-base, frozen, linear", _SUPERB, "iemocap", 4, _LOSO, "94.7", wa=64.92),
    Published("WavLM-base, frozen, linear", _SUPERB, "iemocap", 4, _LOSO, "94.7", wa=65.94),
    Published("HuBERT-large, frozen, linear", _SUPERB, "iemocap", 4, _LOSO, "317", wa=67.62),
    Published("WavLM-large, frozen, linear", _SUPERB, "iemocap", 4, _LOSO, "317", wa=70.03),
    Published(
        "Vesper-4",
        "Vesper (Chen et al., 2023)",
        "iemocap",
        4,
        _LOSO,
        "63.5",
        wa=68.40,
        remark="the held-out session also picks the epoch",
    ),
    Published(
        "Vesper-12",
        "Vesper (Chen et al., 2023)",
        "iemocap",
        4,
        _LOSO,
        "164.3",
        wa=70.70,
        remark="the held-out session also picks the epoch",
    ),
    Published("emotion2vec", "Ma et al., 2023", "iemocap", 4, _LOSO, "93.8", wa=71.79),
    Published(
        "Whisper-large-v3, frozen",
        "EmoBox (Ma et al., 2024)",
        "iemocap",
        4,
        _LOSO,
        "about 640",
        wa=72.86,
        ua=73.54,
    ),
    Published(
        "P-TAPT (wav2vec 2.0-base)", "Chen & Rudnicky, 2023", "iemocap", 4, _LOSO, "95", ua=74.3
    ),
    Published("DWFormer", "Chen et al., 2023", "iemocap", 4, _LOSO, "317+", wa=72.3, ua=73.9),
    Published("DST", "Chen et al., 2023", "iemocap", 4, _LOSO, "317+", wa=71.8, ua=73.6),
    Published(
        "KD-SER",
        "Zhao et al., IEEE TAFFC 16(3), 2025",
        "iemocap",
        4,
        None,
        "?",
        wa=70.25,
        ua=71.27,
        remark="protocol not known, as reported by others",
    ),
    Published(
        "GMP-TL",
        "Pan et al., arXiv 2405.02151",
        "iemocap",
        4,
        None,
        "about 95",
        wa=80.0,
        ua=82.0,
        remark="five folds; that speakers are disjoint could not be verified",
    ),
    Published(
        "HuBERT-large, fine-tuned",
        "as reported by emotion2vec",
        "meld",
        7,
        "official",
        "317",
        wf1=47.05,
    ),
    Published("emotion2vec", "Ma et al., 2023", "meld", 7, "official", "93.8", wf1=48.70),
    Published("DST", "Chen et al., 2023", "meld", 7, "official", "317+", wf1=48.8),
    Published(
        "KD-SER",
        "Zhao et al., IEEE TAFFC 16(3), 2025",
        "meld",
        7,
        "official",
        "?",
        wf1=46.96,
        remark="as reported by others",
    ),
    Published(
        "Whisper-large-v3, frozen",
        "EmoBox (Ma et al., 2024)",
        "meld",
        7,
        "official",
        "about 640",
        wa=51.89,
    ),
    Published(
        "majority class", "counted", "meld", 7, "official", "0", wa=48.12, ua=14.29, wf1=31.27
    ),
)


def compare_published(report: Mapping[str, Any]) -> dict[str, Any]:
    """`rows` that our test results may stand beside, and `refusals` that say why others may not.

    Only arms whose test split was opened on every fold of the protocol are compared.
    """
    stamp, test = report["stamp"], report["test"]
    refusals, rows = [], []
    general = _general_problem(stamp, test)
    for each in PUBLISHED:
        if each.corpus not in stamp["corpora"]:
            continue
        if problem := general or _problem(each, stamp):
            refusals.append({"system": each.system, "source": each.source, "why": problem})
            continue
        rows.append(
            {
                "system": each.system,
                "source": each.source,
                "parameters_m": each.parameters_m,
                "war": each.wa,
                "uar": each.ua,
                "wf1": each.wf1,
                "remark": each.remark,
            }
        )
    known = sorted({each.corpus for each in PUBLISHED})
    if not rows and not refusals:
        why = f"no published result on {', '.join(stamp['corpora'])} is known here, only on " + (
            " and ".join(known)
        )
        refusals.append({"system": "all", "source": "", "why": why})
    return {"rows": rows, "refusals": refusals}


def _general_problem(stamp: Mapping[str, Any], test: Mapping[str, Any] | None) -> str:
    if len(stamp["corpora"]) != 1:
        return f"ours is of {len(stamp['corpora'])} corpora together"
    if test is None:
        return "ours is on dev, which also chose the epochs; open test with `serkd test`"
    if set(test["folds"]) != set(stamp["all_folds"]):
        return f"ours is of {len(test['folds'])} of {len(stamp['all_folds'])} folds"
    if stamp["shares_speakers"] and stamp["protocol"] != "official":
        return "ours shares speakers between train and test"
    return ""


def _problem(each: Published, stamp: Mapping[str, Any]) -> str:
    if each.protocol is None:
        return f"its protocol is not known: {each.remark}"
    if len(stamp["class_names"]) != each.num_classes:
        return f"it has {each.num_classes} classes, ours {len(stamp['class_names'])}"
    size = _SIZES[each.corpus]
    if stamp["num_utterances"] != size:
        return f"it has {size:,} utterances, ours {stamp['num_utterances']:,}"
    if stamp["protocol"] != each.protocol:
        return f"its protocol is {each.protocol}, ours {stamp['protocol']}"
    return ""
