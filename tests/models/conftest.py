"""A small random backbone of every family."""

import pytest
from small_models import BUILDERS, save_model

from serkd.features.backbone import Backbone, find_backbone


@pytest.fixture(scope="session", params=[*BUILDERS, "whisper"])
def family_backbone(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Backbone:
    folder = tmp_path_factory.mktemp(request.param)
    save_model(request.param, folder)
    return find_backbone(str(folder))
