"""Instruction sets of the CPU for 8-bit integers."""

import platform
from dataclasses import dataclass
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
INT8_FLAGS = ("avx2", "avx_vnni", "avx512_vnni", "avx512bw", "amx_int8", "asimddp", "i8mm")
EXACT_FLAGS = ("avx_vnni", "avx512_vnni", "amx_int8")


@dataclass(frozen=True)
class CpuFeatures:
    """Name and instruction sets of the CPU; no flags if the system does not report them."""

    model: str
    flags: frozenset[str]

    @property
    def int8_flags(self) -> tuple[str, ...]:
        """The instruction sets that int8 kernels use."""
        return tuple(flag for flag in INT8_FLAGS if flag in self.flags)

    @property
    def lacks_exact_kernels(self) -> bool:
        """Whether ONNX Runtime's fast kernels for unsigned activations and signed weights may saturate in 16 bits.

        They do on x86 without VNNI; see :data:`carkp.deploy.runtime.EXACT_PRODUCTS`.
        """
        is_x86 = platform.machine().lower() in ("x86_64", "amd64")
        return is_x86 and not any(flag in self.flags for flag in EXACT_FLAGS)


def cpu_features(cpuinfo: Path = CPUINFO) -> CpuFeatures:
    """Return the features of this machine's CPU, from Linux' ``/proc/cpuinfo``."""
    if not cpuinfo.is_file():
        return CpuFeatures(platform.processor() or platform.machine(), frozenset())
    fields: dict[str, str] = {}
    for line in cpuinfo.read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    flags = fields.get("flags", fields.get("Features", ""))
    return CpuFeatures(fields.get("model name", platform.machine()), frozenset(flags.split()))
