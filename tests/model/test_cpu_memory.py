import platform
import subprocess
import sys


def test_takes_effect_with_glibc_in_a_process_of_its_own() -> None:
    code = "from carkp.model.cpu_memory import keep_freed_memory; print(keep_freed_memory())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(platform.libc_ver()[0] == "glibc")
