"""cluster.yaml without a cloud: Ray's own checks, and what those let pass."""

import copy
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import botocore.session
import pytest
import yaml
from botocore.validate import ParamValidator
from ray.autoscaler._private.util import prepare_config, validate_config

import serkd

ROOT = Path(serkd.__file__).parent.parent
CONFIG = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))
RESOURCES = {"CPU", "GPU", "memory", "object_store_memory"}
# those of RunInstances that the launcher itself sets, and its own plural
LAUNCHER = {"MinCount": 1, "MaxCount": 1}


def find_problems(config: dict[str, Any]) -> list[str]:
    """What Ray's schema refuses, and what its documentation says and no check of it does."""
    try:
        validate_config(prepare_config(copy.deepcopy(config)))
    except Exception as error:
        return [str(error)]
    types = config["available_node_types"]
    most = sum(t["max_workers"] for n, t in types.items() if n != config["head_node_type"])
    problems = [] if most <= config["max_workers"] else ["max_workers exceed the total"]
    run_instances = (
        botocore.session.get_session()
        .get_service_model("ec2")
        .operation_model("RunInstances")
        .input_shape
    )
    for name, node in types.items():
        problems += [f"{name}: {r} is no resource" for r in set(node["resources"]) - RESOURCES]
        asked = {**LAUNCHER, **node["node_config"]}
        if report := ParamValidator().validate(asked, run_instances).generate_report():
            problems.append(f"{name}: {report}")
    return problems


def test_the_cluster_that_is_shipped_has_no_problem() -> None:
    assert find_problems(CONFIG) == []


_GPU_WORKER = ("available_node_types", "gpu_worker")


def _set(config: dict[str, Any], value: object, *path: str) -> None:
    *parents, last = path
    for name in parents:
        config = config[name]
    config[last] = value


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            lambda c: _set(c, {"gpu": 1}, "available_node_types", "gpu_worker", "resources"),
            "gpu is",
        ),
        (lambda c: _set(c, 40, "available_node_types", "gpu_worker", "max_workers"), "exceed"),
        (
            lambda c: _set(c, "m", "available_node_types", "head", "node_config", "InstanceTyp"),
            'Unknown parameter in input: "InstanceTyp"',
        ),
        (
            lambda c: _set(
                c, {"MarketTyp": "spot"}, *_GPU_WORKER, "node_config", "InstanceMarketOptions"
            ),
            "MarketTyp",
        ),
        (lambda c: _set(c, "gpu", "head_node_type"), "head_node_type"),
        (lambda c: _set(c, [], "setup_command"), "setup_command"),
    ],
)
def test_what_is_wrong_is_seen(change: Callable[[dict[str, Any]], None], problem: str) -> None:
    config = copy.deepcopy(CONFIG)
    change(config)
    assert problem in "\n".join(find_problems(config))


def test_the_head_runs_no_work_and_a_worker_is_always_there_for_entry_points() -> None:
    types = CONFIG["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0}
    assert any("--num-cpus=0" in line for line in CONFIG["head_start_ray_commands"])
    assert types["cpu_worker"]["min_workers"] >= 1
    assert "InstanceMarketOptions" not in types["cpu_worker"]["node_config"]
    assert types["gpu_worker"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}


def test_every_machine_installs_the_checkout_and_what_the_launcher_needs() -> None:
    """Ray's defaults install boto3 with the system's pip, which refuses on this Ubuntu."""
    prepared = prepare_config(copy.deepcopy(CONFIG))
    for kind in ("head", "worker"):
        assert prepared[f"{kind}_setup_commands"] == CONFIG["setup_commands"]
    assert '"$HOME/serkd[aws]"' in CONFIG["setup_commands"][-1]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert any(name.startswith("boto3") for name in project["optional-dependencies"]["aws"])
    assert CONFIG["file_mounts"]["~/serkd"] == "."


def test_every_node_asks_for_the_token_and_may_use_the_bucket() -> None:
    assert CONFIG["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    for kind in ("head", "worker"):
        (start,) = (c for c in CONFIG[f"{kind}_start_ray_commands"] if "ray start" in c)
        assert "RAY_AUTH_MODE=token" in start
    for node in CONFIG["available_node_types"].values():
        assert "IamInstanceProfile" in node["node_config"]  # Ray gives one to the head only


# json names of KubeRay's v1 types; fields of pods are Kubernetes' own
_JOB = {
    *("activeDeadlineSeconds", "backoffLimit", "rayClusterSpec", "submitterPodTemplate"),
    *("metadata", "clusterSelector", "submitterConfig", "managedBy", "deletionStrategy"),
    *("entrypoint", "runtimeEnvYAML", "jobId", "submissionMode", "entrypointResources"),
    *("entrypointNumCpus", "entrypointNumGpus", "ttlSecondsAfterFinished"),
    *("shutdownAfterJobFinishes", "suspend"),
}
_CLUSTER = {
    *("headGroupSpec", "workerGroupSpecs", "rayVersion", "enableInTreeAutoscaling"),
    *("autoscalerOptions", "headServiceAnnotations", "suspend", "authOptions"),
}
_GROUP = {
    *("groupName", "replicas", "minReplicas", "maxReplicas", "numOfHosts"),
    *("rayStartParams", "template", "scaleStrategy"),
}


def _manifest() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "jobs/kuberay/rayjob.yaml").read_text(encoding="utf-8"))


def test_the_kuberay_manifest_has_only_fields_that_there_are() -> None:
    manifest = _manifest()
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", "RayJob")
    spec, cluster = manifest["spec"], manifest["spec"]["rayClusterSpec"]
    assert spec.keys() <= _JOB
    assert cluster.keys() <= _CLUSTER
    assert cluster["headGroupSpec"].keys() <= {"rayStartParams", "template", "serviceType"}
    for group in cluster["workerGroupSpecs"]:
        assert group.keys() <= _GROUP
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        mounts = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
        assert mounts == {volume["name"] for volume in pod["volumes"]}
    assert yaml.safe_load(spec["runtimeEnvYAML"])["working_dir"] == "/home/ray/serkd"


def test_the_kuberay_manifest_is_the_same_cluster() -> None:
    cluster, types = _manifest()["spec"]["rayClusterSpec"], CONFIG["available_node_types"]
    assert cluster["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}
    assert cluster["autoscalerOptions"]["idleTimeoutSeconds"] == 60 * CONFIG["idle_timeout_minutes"]
    groups = {group["groupName"].replace("-", "_"): group for group in cluster["workerGroupSpecs"]}
    assert groups.keys() == types.keys() - {"head"}
    for name, group in groups.items():
        assert group["minReplicas"] == types[name]["min_workers"]
        assert group["maxReplicas"] == types[name]["max_workers"]
        asked = group["template"]["spec"]["containers"][0]["resources"]["requests"]
        assert int(asked["cpu"]) == types[name]["resources"]["CPU"]
        assert asked.get("nvidia.com/gpu", 0) == types[name]["resources"].get("GPU", 0)


def test_the_manifest_starts_what_there_is() -> None:
    words = _manifest()["spec"]["entrypoint"].split()
    assert words[0] == "python"
    assert (ROOT / words[1]).is_file()
    assert (ROOT / words[2]).is_file()
