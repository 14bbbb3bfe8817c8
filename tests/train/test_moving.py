"""A teacher that moves: what is cut off is the teacher, and its steps are what they say."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import BUILDERS, NUM_LAYERS, save_model
from torch import Tensor, nn

from serkd import config
from serkd.features.backbone import Backbone, find_backbone
from serkd.features.store import part_path, write_part
from serkd.models.teacher import EmotionTeacher
from serkd.models.trunk import Trunk
from serkd.train.moving import MovingTeacher
from serkd.train.stored_teacher import EmbeddingInputs, Head, StateInputs, cut_top
from serkd.train.teacher import build_teacher

LENGTHS = (7, 12, 4)


def _teacher(backbone: Backbone, first: int, *, layer_mix: bool = False) -> EmotionTeacher:
    trunk = Trunk(backbone, first, layer_mix)
    stage2 = config.Stage2(pooling="attentive_statistics")
    return build_teacher(stage2, trunk.build_suffix(), trunk, 4).eval()


def _trained(backbone: Backbone, first: int, *, layer_mix: bool = False) -> EmotionTeacher:
    """All weights elsewhere than in the pre-trained model, statistics too."""
    torch.manual_seed(5)
    teacher = _teacher(backbone, first, layer_mix=layer_mix)
    with torch.no_grad():
        for weight in teacher.parameters():
            weight += 0.1 * torch.randn(weight.shape)
        teacher.standardise.mean.fill_(0.3)
        teacher.standardise.deviation.fill_(2.0)
    return teacher


def _hidden() -> tuple[Tensor, Tensor]:
    torch.manual_seed(3)
    mask = torch.arange(max(LENGTHS))[None, :] < torch.tensor(LENGTHS)[:, None]
    return torch.randn(len(LENGTHS), max(LENGTHS), 16) * mask[..., None], mask


@pytest.fixture(scope="module")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Backbone]:
    found: dict[str, Backbone] = {}

    def find(name: str) -> Backbone:
        if name not in found:
            folder = tmp_path_factory.mktemp(name)
            save_model(name, folder)
            found[name] = find_backbone(str(folder))
        return found[name]

    return find


@pytest.mark.parametrize("name", [*BUILDERS, "whisper"])
@pytest.mark.parametrize(("frozen", "first"), [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2)])
def test_the_last_layers_on_the_states_below_them_are_the_whole_teacher(
    backbones: Callable[[str], Backbone], name: str, frozen: int, first: int
) -> None:
    """For WavLM as well, whose layers share what the first one makes of positions."""
    backbone = backbones(name)
    whole, (hidden, mask) = _trained(backbone, frozen), _hidden()
    top = _teacher(backbone, first)
    is_wavlm = backbone.family == "wavlm"
    top.load_state_dict(cut_top(whole.state_dict(), first - frozen, is_wavlm=is_wavlm))
    with torch.no_grad():
        expected = whole(hidden, mask)
        below = whole.suffix(hidden, mask)[first - frozen]
        found = top(below, mask)
    assert len(top.suffix.body.layers) == NUM_LAYERS - first
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.embedding, expected.embedding, atol=1e-5, rtol=1e-5)


def test_a_mixture_of_all_layers_moves_with_them(backbones: Callable[[str], Backbone]) -> None:
    backbone, (hidden, mask) = backbones("hubert_group"), _hidden()
    whole = _trained(backbone, 1, layer_mix=True)
    top = _teacher(backbone, 1, layer_mix=True)
    top.load_state_dict(cut_top(whole.state_dict(), 0, is_wavlm=False))
    with torch.no_grad():
        torch.testing.assert_close(top(hidden, mask).logits, whole(hidden, mask).logits)
    assert top.mix is not None
    assert top.mix.scores.requires_grad


@pytest.fixture
def stored_states(tmp_path: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """Three parts of four utterances each, of 5 to 16 frames."""
    rng = np.random.default_rng(0)
    frames = {f"u{i:02d}": rng.standard_normal((5 + i, 16)).astype(np.float16) for i in range(12)}
    for part in range(3):
        ids = [f"u{i:02d}" for i in range(part, 12, 3)]
        write_part(part_path(tmp_path, part), ids, {"layer_2": [frames[i] for i in ids]})
    return tmp_path, frames


@pytest.mark.parametrize("max_bytes", [1.0, 1e9])
def test_stored_states_are_read_in_any_order_and_few_are_held(
    stored_states: tuple[Path, dict[str, np.ndarray]], max_bytes: float
) -> None:
    folder, frames = stored_states
    ids = sorted(frames, reverse=True)
    inputs = StateInputs(folder, "layer_2", ids, max_bytes)
    for index in (np.array([3, 0, 7]), np.array([11, 11, 2, 5])):
        hidden, mask = inputs(index, None)
        for row, i in enumerate(index):
            expected = frames[ids[i]].astype(np.float32)
            assert int(mask[row].sum()) == inputs.lengths[i] == len(expected)
            np.testing.assert_array_equal(hidden[row, : len(expected)].numpy(), expected)
            assert float(hidden[row, len(expected) :].abs().sum()) == 0.0
    held = len(inputs.cache.blocks)
    assert held == (1 if max_bytes == 1.0 else 3)


def _moving(
    stored_states: tuple[Path, dict[str, np.ndarray]], backbone: Backbone, max_frames: int | None
) -> MovingTeacher:
    folder, frames = stored_states
    inputs = StateInputs(folder, "layer_2", sorted(frames), 1e9)
    return MovingTeacher(_trained(backbone, 2), inputs, 0.1, torch.device("cpu"), max_frames)


def test_pieces_of_a_batch_give_what_the_batch_gives(
    stored_states: tuple[Path, dict[str, np.ndarray]], backbones: Callable[[str], Backbone]
) -> None:
    """In the order that was asked for, and with the gradient of one backward pass by hand."""
    backbone, index = backbones("whisper"), np.array([9, 1, 4, 0, 11])
    whole, cut = (_moving(stored_states, backbone, count) for count in (None, 20))
    says, pieces = whole.read(index), cut.read(index)
    for ours, expected in zip(pieces, says, strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)
    torch.manual_seed(0)
    upstream = [torch.randn_like(output) for output in says]
    output = whole.model(*whole.inputs(index, None))
    value = sum(
        (a * b).sum() for a, b in zip((output.logits, output.embedding), upstream, strict=True)
    )
    assert isinstance(value, Tensor)
    by_hand = torch.autograd.grad(value, whole.weights(), materialize_grads=True, allow_unused=True)
    for teacher in (whole, cut):
        found = teacher.pull_back(index, upstream)
        for ours, expected in zip(found, by_hand, strict=True):
            torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-3)
    np.testing.assert_allclose(cut.predict(index), says.logits.numpy(), atol=1e-5, rtol=1e-4)


def _head(lr: float = 0.1) -> MovingTeacher:
    torch.manual_seed(0)
    embedding = np.random.default_rng(0).standard_normal((9, 5)).astype(np.float32)
    head = Head(nn.Linear(5, 3), 2.0)
    return MovingTeacher(head, EmbeddingInputs(embedding), lr, torch.device("cpu"))


def test_a_step_is_that_of_adam_on_the_clipped_gradient() -> None:
    """Clipped to norm 1 as a whole, and left as it is where it is shorter."""
    teacher = _head()
    reference = [w.detach().clone().requires_grad_() for w in teacher.weights()]
    optimizer = torch.optim.Adam(reference, 0.1)
    generator = torch.Generator().manual_seed(1)
    for size in (100.0, 0.01, 3.0):
        drawn = [size * torch.randn(w.shape, generator=generator) for w in reference]
        for weight, part in zip(reference, drawn, strict=True):
            weight.grad = part.clone()
        torch.nn.utils.clip_grad_norm_(reference, 1.0)
        optimizer.step()
        teacher.descend(drawn)
    for ours, expected in zip(teacher.weights(), reference, strict=True):
        torch.testing.assert_close(ours.detach(), expected.detach())


def test_where_nothing_is_to_be_learned_moments_do_not_move_the_teacher() -> None:
    teacher = _head()
    teacher.descend([torch.ones_like(w) for w in teacher.weights()])
    before = [w.detach().clone() for w in teacher.weights()]
    teacher.descend([torch.zeros_like(w) for w in teacher.weights()])
    assert all(torch.equal(a, b) for a, b in zip(before, teacher.weights(), strict=True))


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_stops_before_the_teacher_moves(broken: float) -> None:
    teacher = _head()
    gradient = [torch.full_like(w, broken) for w in teacher.weights()]
    with pytest.raises(FloatingPointError, match="must be finite"):
        teacher.descend(gradient)
    assert teacher.drift() == 0.0


def test_drift_is_the_distance_from_the_start_over_its_norm() -> None:
    teacher = _head()
    assert teacher.drift() == 0.0
    with torch.no_grad():
        for weight in teacher.weights():
            weight.mul_(1.5)
    assert teacher.drift() == pytest.approx(0.5, rel=1e-6)


def test_a_loaded_state_goes_on_with_the_moments_and_the_drift() -> None:
    first, second = _head(), _head()
    gradient = [torch.full_like(w, 0.1) for w in first.weights()]
    first.descend(gradient)
    second.load_state(first.state())
    assert second.drift() == first.drift() > 0
    for teacher in (first, second):
        teacher.descend([-3 * part for part in gradient])
    pairs = zip(first.weights(), second.weights(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
