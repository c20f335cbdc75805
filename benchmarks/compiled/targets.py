"""Devices that are not there: what compiles for them, and their description for XLA."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from roml_jax.errors import ConfigError


class Target(NamedTuple):
    """A device to compile for.

    Attributes:
        title: for tables.
        platform: JAX's name of the platform.
        packages: what compiles for it, as requirements; ``{jax}`` is the installed version of JAX.
        topology: name of the topology with at least four devices, for meshes.
        single: name of the topology of one device, if it is another.
        environment: variables of the process that compiles.
        devices: largest number of devices of a mesh.
    """

    title: str
    platform: str
    packages: tuple[str, ...]
    topology: str
    environment: dict[str, str]
    devices: int


_CUDA = ("cuda-nvcc", "cuda-runtime", "cuda-nvrtc", "nvjitlink", "cublas", "cusolver", "cusparse", "cufft",
         "cudnn", "nccl", "cuda-cupti")  # fmt: skip

TARGETS = {
    "tpu-v5e": Target(
        "TPU v5e", "tpu", ("libtpu",), "v5e:2x2",
        {"TPU_ACCELERATOR_TYPE": "v5litepod-4", "TPU_WORKER_HOSTNAMES": "localhost", "JAX_PLATFORMS": "cpu"},
        4,
    ),
    "h100": Target(
        "NVIDIA H100", "cuda",
        ("jax-cuda12-plugin=={jax}", "jax-cuda12-pjrt=={jax}", *(f"nvidia-{name}-cu12" for name in _CUDA)),
        "1x1x1",
        {"JAX_PLATFORMS": "cpu"},
        1,
    ),
}  # fmt: skip

# An H100 (SXM, 80 GB), from NVIDIA's data sheets, in the words of XLA's GpuTargetConfigProto.
_H100 = {
    "threads_per_block_limit": 1024, "threads_per_warp": 32, "shared_memory_per_block": 49152,
    "shared_memory_per_core": 233472, "threads_per_core_limit": 2048, "core_count": 132, "fpus_per_core": 128,
    "block_dim_limit_x": 2**31 - 1, "block_dim_limit_y": 65535, "block_dim_limit_z": 65535,
    "memory_bandwidth": 3_352_320_000_000, "l2_cache_size": 50 * 2**20, "clock_rate_ghz": 1.98,
    "device_memory_size": 79 * 2**30, "shared_memory_per_block_optin": 232448,
    "registers_per_core_limit": 65536, "registers_per_block_limit": 65536,
}  # fmt: skip


def _requirement(package: str) -> str:
    """A package as a requirement, of the version that JAX names if it names one."""
    wanted = importlib.import_module("importlib.metadata").requires("jax") or []
    for line in wanted:
        if line.startswith(f"{package}=="):
            return line.partition(";")[0].strip()
    return package.format(jax=jax.__version__)


def packages(name: str, cache: Path, say: Any) -> Path:
    """The folder of a target's packages; installs them there if it is new. No environment is changed.

    Raises:
        ConfigError: if they cannot be installed; one line.
    """
    folder = cache / f"{name}-jax{jax.__version__}"
    if folder.is_dir():
        return folder
    wanted = [_requirement(package) for package in TARGETS[name].packages]
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    say(f"installing what compiles for {TARGETS[name].title} into {folder} (once)")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile"]
    done = subprocess.run([*command, "--target", str(part), *wanted], check=False)
    if done.returncode:
        raise ConfigError(f"pip could not install {', '.join(wanted)}; see its message above")
    part.rename(folder)
    return folder


def environment(name: str, folder: Path) -> dict[str, str]:
    """The environment of a process that compiles for a target."""
    root = str(Path(__file__).parent.parent.parent)
    path = os.pathsep.join(filter(None, [root, str(folder), os.environ.get("PYTHONPATH", "")]))
    settings = os.environ | TARGETS[name].environment | {"PYTHONPATH": path}
    if name == "h100":
        flags = (
            "--xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false "
            f"--xla_gpu_cuda_data_dir={folder / 'nvidia' / 'cuda_nvcc'}"
        )
        settings["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
    return settings


def _h100_config() -> str:
    """The text of XLA's GpuTargetConfigProto."""
    lines = [f"  {name}: {value}" for name, value in _H100.items()]
    return "\n".join([
        "gpu_device_info {", "  cuda_compute_capability { major: 9 minor: 0 }", *lines, "}",
        'platform_name: "CUDA"', "dnn_version_info { major: 9 minor: 7 }",
        "runtime_version { major: 12 minor: 8 patch: 0 }",
        'device_description_str: "NVIDIA H100 80GB HBM3"',
    ])  # fmt: skip


def devices(name: str) -> Sequence[Any]:
    """The devices of a target's topology. Call it in a process with the target's environment."""
    from jax.experimental import topologies

    target = TARGETS[name]
    if name != "h100":
        return topologies.get_topology_desc(platform=target.platform, topology_name=target.topology).devices
    from jax._src import xla_bridge  # the plugin registers itself there, and there is no public way

    importlib.import_module("jax_plugins.xla_cuda12").initialize()
    # without a GPU, JAX does not know that "gpu" means "cuda" (jax issue 23971)
    known = xla_bridge.expand_platform_alias
    xla_bridge.expand_platform_alias = lambda platform: ["cuda"] if platform == "gpu" else known(platform)
    return topologies.get_topology_desc(
        "h100", platform="cuda", topology=target.topology, target_config=_h100_config()
    ).devices
