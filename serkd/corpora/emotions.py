"""One name for what corpora call differently, for training on some and testing on others."""

from collections.abc import Mapping

# excitement and frustration are emotions of their own in IEMOCAP; calm is not neutral in RAVDESS
COMMON_NAMES: Mapping[str, str] = {
    **dict.fromkeys(("ang", "angry", "anger"), "angry"),
    **dict.fromkeys(("hap", "happy", "happiness", "joy"), "happy"),
    **dict.fromkeys(("sad", "sadness"), "sad"),
    **dict.fromkeys(("neu", "neutral"), "neutral"),
    **dict.fromkeys(("fea", "fear", "fearful"), "fear"),
    **dict.fromkeys(("dis", "disgust"), "disgust"),
    **dict.fromkeys(("sur", "surprise", "surprised"), "surprise"),
}


def common_name(emotion: str, own: Mapping[str, str] | None = None) -> str:
    """What an emotion is called when corpora are compared; `own` names go first."""
    return (own or {}).get(emotion, COMMON_NAMES.get(emotion.lower(), emotion))
