"""`vcrast doctor`: what this machine can do, and what it lacks."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REQUIRED_FREE_BYTES = 2 * 2**30


@dataclass
class Findings:
    """What is printed at the end: problems forbid a run, notes do not."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def add_parser(subparsers: Any) -> None:
    """Declare the verb."""
    parser = subparsers.add_parser(
        "doctor",
        help="what this machine can do, and what it lacks",
        description="Check Python, PyTorch, devices, packages, sound formats, disk and attention backends. "
        "Exit code 1 if something that every run needs is missing.",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:  # noqa: ARG001 (every verb has this signature)
    """Print the checks; 0 if this machine is ready."""
    findings = Findings()
    heading("Python and PyTorch")
    show("python", f"{platform.python_version()} ({platform.machine()}, {platform.system()})")
    has_torch = check_torch(findings)
    heading("Packages")
    check_packages(findings)
    heading("Sound")
    check_sound(findings)
    heading("Disk")
    check_disk(findings)
    if has_torch:
        heading("Attention")
        check_attention(findings)
    print()
    for note in findings.notes:
        print(f"note: {note}")
    for problem in findings.problems:
        print(f"problem: {problem}")
    print("not ready" if findings.problems else "ready")
    return 1 if findings.problems else 0


def heading(text: str) -> None:
    """A group of lines begins."""
    print(f"\n{text}")


def show(name: str, text: str) -> None:
    """One aligned line."""
    print(f"  {name:<22} {text}")


def check_torch(findings: Findings) -> bool:
    """PyTorch, the devices it sees, and the precision that `auto` means on each."""
    try:
        import torch
    except (ImportError, OSError) as error:
        findings.problems.append(f"torch does not import ({error}); pip install torch")
        return False
    from vcrast.training.device import resolve_precision

    show("torch", f"{torch.__version__} (CUDA {torch.version.cuda or 'none'}, {torch.get_num_threads()} CPU threads)")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    show("cpu", f"{cores} cores, precision=auto is {resolve_precision('auto', 'cpu')}")
    for number in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(number)
        capability = f"{gpu.major}.{gpu.minor}"
        # Not is_bf16_supported(): it says yes on a T4, which only emulates it.
        bf16 = "bf16" if gpu.major >= 8 else "no bf16 (needs capability 8.0)"
        precision = resolve_precision("auto", f"cuda:{number}")
        memory = f"{gpu.total_memory / 2**30:.1f} GiB"
        show(f"cuda:{number}", f"{gpu.name}, {memory}, capability {capability}, {bf16}, precision=auto is {precision}")
    if not torch.cuda.is_available():
        findings.notes.append("no CUDA device: everything runs on the CPU; `recipe=demo` is made for it")
    return True


def check_packages(findings: Findings) -> None:
    """Every requirement of this package and its extras, found or missing."""
    for name, wanted, extra in requirements():
        version = installed(name)
        fits = version is not None and wanted.contains(version, prereleases=True)
        if fits:
            show(name, str(version))
            continue
        state = "missing" if version is None else f"{version}, needs {wanted}"
        if extra is None:
            show(name, f"{state}: pip install '{name}{wanted}'")
            findings.problems.append(f"{name} {state}; pip install '{name}{wanted}'")
        else:
            show(name, f"{state} (optional: pip install 'vcrast[{extra}]')")


def requirements() -> Iterator[tuple[str, Any, str | None]]:
    """(package, versions, extra or None): what every run needs first, then the extras but for the developers'."""
    from packaging.requirements import Requirement

    found = []
    for line in declared():
        requirement = Requirement(line)
        extras = [str(requirement.marker).split("extra == ")[1].strip("'\"")] if "extra ==" in line else [None]
        found += [(requirement.name, requirement.specifier, extra) for extra in extras if extra != "dev"]
    yield from sorted(found, key=lambda item: (item[2] is not None, item[2] or "", item[0]))


def declared() -> list[str]:
    """The requirement lines of this package: of the installed one, or of `pyproject.toml` in a bare clone."""
    try:
        return importlib.metadata.requires("vcrast") or []
    except importlib.metadata.PackageNotFoundError:
        import tomllib

        path = Path(__file__).resolve().parents[2] / "pyproject.toml"
        project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
        extras = project["optional-dependencies"].items()
        return project["dependencies"] + [f"{line}; extra == '{name}'" for name, lines in extras for line in lines]


def installed(name: str) -> str | None:
    """Version of a package, None if it is missing."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_sound(findings: Findings) -> None:
    """The formats that the installed libsndfile reads."""
    try:
        import soundfile
    except (ImportError, OSError) as error:
        findings.problems.append(f"soundfile does not import ({error}); pip install soundfile")
        return
    from vcrast.data import ffmpeg

    known = soundfile.available_formats()
    inside_ogg = soundfile.available_subtypes("OGG") if "OGG" in known else {}
    formats = {name: name.upper() in known for name in ("wav", "flac", "ogg", "mp3", "aiff", "au", "caf", "w64")}
    formats["opus"] = "OPUS" in inside_ogg
    show("readable", ", ".join(name for name, can in formats.items() if can))
    by = ffmpeg.decoder()
    show("m4a, mp4, webm, wma", f"through {by}" if by else ffmpeg.INSTALL)
    lacking = [name for name, can in formats.items() if not can]
    if lacking:
        show("not readable", f"{', '.join(lacking)} (libsndfile {soundfile.__libsndfile_version__})")
        findings.notes.append(f"{', '.join(lacking)} files cannot be read; pip install -U soundfile")


def check_disk(findings: Findings) -> None:
    """The cache of decoded sound, and the space left for it and for runs."""
    from vcrast.data.cache import default_cache_dir

    cache = default_cache_dir()
    size = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file()) if cache.is_dir() else 0
    show("cache", f"{cache} ({size / 2**30:.2f} GiB; VCRAST_CACHE or data.cache_dir moves it)")
    for name, place in (("free for the cache", cache), ("free here", Path.cwd())):
        existing = next(folder for folder in (place, *place.parents) if folder.exists())
        free = shutil.disk_usage(existing).free
        show(name, f"{free / 2**30:.1f} GiB")
        if free < REQUIRED_FREE_BYTES:
            findings.notes.append(f"only {free / 2**30:.1f} GiB {name}: checkpoints of the base model need about 2 GiB")
        if not os.access(existing, os.W_OK):
            findings.notes.append(f"{existing} cannot be written ({name.removeprefix('free ')})")


def check_attention(findings: Findings) -> None:
    """Each backend of `configs/attention` on the device and in the precision that a run would use."""
    import torch

    from vcrast.config.files import options

    device = "cuda" if torch.cuda.is_available() else "cpu"
    show("attention=", f"{'kernel':<34} works on {device}")
    for name, _ in options("attention"):
        kernel, reason = try_attention(name, device)
        show(f"  {name}", f"{kernel:<34} {'yes' if not reason else f'no: {reason}'}")
        if reason:
            findings.notes.append(f"attention={name} does not work on {device}: {reason}")
    for kernel, reason in kernels(device):
        show("  kernel", f"{kernel:<34} {'yes' if not reason else f'no: {reason}'}")


def try_attention(name: str, device: str) -> tuple[str, str]:
    """(kernel, why it does not work or "") of a backend: forward and backward of 2 heads of width 64."""
    import torch
    from omegaconf import OmegaConf

    from vcrast.config.files import option_files
    from vcrast.config.registry import ATTENTIONS

    options = OmegaConf.to_container(OmegaConf.load(option_files("attention")[name]))
    assert isinstance(options, dict)
    text = {str(key): value for key, value in options.items()}
    try:
        backend = ATTENTIONS.build(text, num_heads=2, head_dim=64).to(device)
        q, k, v = torch.randn(3, 1, 2, 17, 64, device=device, dtype=_dtype(device), requires_grad=True)
        with torch.autocast(device, dtype=_dtype(device), enabled=device == "cuda"):
            backend(q, k, v).float().sum().backward()
    # A probe of optional code: whatever goes wrong is the answer.
    except Exception as error:
        return "-", str(error).splitlines()[0] if str(error) else type(error).__name__
    # A backend with several says which one these tensors get.
    return (backend.kernel_name(q) if hasattr(backend, "kernel_name") else "PyTorch operations"), ""


def kernels(device: str) -> Iterator[tuple[str, str]]:
    """(kernel, why it does not run here or "") of those that `memory_efficient` chooses from."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    from vcrast.models.attention_memory_efficient import FUSED, xformers_missing

    yield "xformers", "no CPU kernels" if device == "cpu" else xformers_missing()
    q = torch.randn(1, 2, 16, 64, device=device, dtype=_dtype(device))
    for backend in (*FUSED, SDPBackend.MATH):
        name = f"PyTorch {backend.name.lower().replace('_', ' ')}"
        try:
            with sdpa_kernel(backend):
                scaled_dot_product_attention(q, q, q)
        except RuntimeError:
            yield name, "does not take this device and precision"
        else:
            yield name, ""


def _dtype(device: str) -> Any:
    import torch

    from vcrast.training.device import resolve_precision

    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[resolve_precision("auto", device)]
