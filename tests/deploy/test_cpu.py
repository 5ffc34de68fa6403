from pathlib import Path

import pytest

from carkp.deploy import cpu, runtime


def described(tmp_path: Path, flags: str) -> cpu.CpuFeatures:
    path = tmp_path / "cpuinfo"
    path.write_text(f"processor\t: 0\nmodel name\t: A CPU\nflags\t\t: fpu {flags}\n\nprocessor\t: 1\nflags\t\t: none\n")
    return cpu.cpu_features(path)


@pytest.mark.parametrize(
    ("flags", "machine", "expected"),
    [
        ("avx2 avx512bw", "x86_64", True),
        ("avx2 avx512_vnni", "x86_64", False),
        ("avx2 avx_vnni", "AMD64", False),
        ("asimddp", "aarch64", False),
        ("", "x86_64", True),
    ],
)
def test_x86_without_vnni_lacks_exact_kernels(tmp_path, monkeypatch, flags, machine, expected):
    monkeypatch.setattr(cpu.platform, "machine", lambda: machine)
    assert described(tmp_path, flags).lacks_exact_kernels is expected


@pytest.mark.parametrize(("flags", "expected"), [("avx2", "1"), ("avx2 avx_vnni", None), ("avx2 amx_int8", None)])
def test_sessions_take_slow_kernels_only_where_the_fast_ones_may_saturate(tmp_path, monkeypatch, flags, expected):
    features = described(tmp_path, flags)
    monkeypatch.setattr(cpu.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(runtime, "cpu_features", lambda: features)
    options = runtime.session_options(num_threads=1)
    name, _ = runtime.EXACT_PRODUCTS
    assert _entry_or_none(options, name) == expected


def _entry_or_none(options, name):
    try:
        return options.get_session_config_entry(name)
    except RuntimeError:
        return None


def test_name_and_flags_are_those_of_the_first_processor(tmp_path):
    features = described(tmp_path, "avx2 sse")
    assert features.model == "A CPU"
    assert features.int8_flags == ("avx2",)


def test_a_system_that_does_not_tell_has_no_flags(tmp_path):
    assert cpu.cpu_features(tmp_path / "none").flags == frozenset()
