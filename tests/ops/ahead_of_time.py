"""Compiles the Triton kernels for cards that are not here, and reads what they came to. Needs Triton; needs no GPU."""

import inspect
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from lora_mm.ops.triton import kernels as triton_kernels
from lora_mm.ops.triton.launch import TILES, Tile

ARCHITECTURES = (80, 86, 89, 90, 120)
SHARED_LIMIT = {80: 163 * 1024, 86: 99 * 1024, 89: 99 * 1024, 90: 227 * 1024, 120: 99 * 1024}
"""Bytes of shared memory that one program may have."""

DTYPES = ("bf16", "fp16")
_FLOATS = {"eps", "scale"}
_FULL = {"expand": {"HAS_BASE": True, "INDEXED": True}, "shrink": {"INDEXED": True}, "outer": {"INDEXED": True},
         "residual": {"NORM": True, "BIAS": True, "WEIGHTS": True, "KEEP": True},
         "nf4": {"NESTED": True, "BLOCK": 64, "BLOCK2": 256}}  # fmt: skip
_FULL["residual_bwd"] = _FULL["residual"]
_FP32 = {"rstd", "absmax2", "offset", "code", "code8"}


@dataclass(frozen=True)
class Usage:
    """What a compiled kernel takes: registers a thread, bytes of stack, of local memory (spills) and shared memory."""

    registers: int
    stack: int
    local: int
    shared: int
    instructions: int


def configurations(kernel: str) -> Iterator[tuple[str, int, Tile]]:
    """Every dtype, padded number of columns and tile that :mod:`lora_mm.ops.triton.launch` launches ``kernel`` with."""
    for columns, tile in TILES[kernel].items():
        for dtype in DTYPES:
            yield dtype, columns, tile


def compiled(kernel: str, architecture: int, dtype: str, columns: int, tile: Tile) -> Any:
    """The kernel with every option on, for 16-byte aligned tensors."""
    name = "nf4_merged_kernel" if kernel == "nf4" else f"{kernel}_kernel"
    function = getattr(triton_kernels, name)
    size = {"BM" if kernel == "nf4" else "BT": tile.tokens, "BD": tile.width, "BC": columns}
    constants = {**_FULL[kernel], **size}
    signature: dict[str, str] = {}
    for parameter in inspect.signature(function.fn).parameters:
        if parameter == "UPCAST":
            constants["UPCAST"] = False
        signature[parameter] = _type(kernel, parameter, dtype, constants)
    aligned = {(n,): [["tt.divisibility", 16]] for n, kind in enumerate(signature.values()) if kind.startswith("*")}
    names = list(signature)
    for wide in {"width", "s_e"} & set(names):
        aligned[(names.index(wide),)] = [["tt.divisibility", 16]]
    source = ASTSource(
        function, signature, constexprs={(names.index(n),): v for n, v in constants.items()}, attrs=aligned
    )
    return triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=tile.options)


def _type(kernel: str, parameter: str, dtype: str, constants: dict[str, Any]) -> str:
    if parameter in constants:
        return "constexpr"
    if parameter == "index":
        return "*i64"
    if parameter in ("packed", "absmax"):
        return "*u8"
    if (
        parameter in _FP32
        or (kernel == "nf4" and parameter in ("up", "down"))
        or (kernel, parameter) == ("outer", "out")
    ):
        return "*fp32"
    if parameter in _FLOATS:
        return "fp32"
    pointers = {
        "base",
        "z",
        "w",
        "y",
        "x",
        "h",
        "norm",
        "down",
        "bias",
        "up",
        "weights",
        "keep",
        "dy",
        "dx",
        "dz",
        "out",
    }
    return f"*{dtype}" if parameter in pointers else "i32"


def usage(kernel: Any) -> Usage:
    """Read off the machine code by the tools in Triton's wheel."""
    cubin = Path(tempfile.mkstemp(suffix=".cubin")[1])
    try:
        cubin.write_bytes(kernel.asm["cubin"])
        resources = _tool("cuobjdump", "--dump-resource-usage", str(cubin))
        code = _tool("nvdisasm", "-c", str(cubin))
    finally:
        cubin.unlink()
    figures = {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL|SHARED):(\d+)", resources)}
    count = len(re.findall(r"^\s*/\*[0-9a-f]{4,}\*/", code, flags=re.MULTILINE))
    shared = max(figures["SHARED"], kernel.metadata.shared)
    return Usage(figures["REG"], figures["STACK"], figures["LOCAL"], shared, count)


def _tool(name: str, *arguments: str) -> str:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    done = subprocess.run([str(tool), *arguments], capture_output=True, text=True, check=True)
    return done.stdout


def faults(usage: Usage, architecture: int) -> list[str]:
    """Why a kernel may not ship; empty when it may."""
    found = []
    if usage.stack or usage.local:
        found.append(f"{usage.stack} bytes of stack and {usage.local} of spills")
    if usage.shared > SHARED_LIMIT[architecture]:
        found.append(f"{usage.shared} bytes of shared memory, of {SHARED_LIMIT[architecture]}")
    if not 100 <= usage.instructions <= 20_000:  # an oversized kernel once compiled to a stub
        found.append(f"{usage.instructions} instructions")
    return found


def main() -> int:
    """Compile the whole matrix and print it as a table; 1 if something may not ship."""
    print(
        f"| Triton {triton.__version__} | card | dtype | columns | registers | stack | spills | shared | instructions |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    bad = 0
    for kernel in TILES:
        for architecture in ARCHITECTURES:
            for dtype, columns, tile in configurations(kernel):
                took = usage(compiled(kernel, architecture, dtype, columns, tile))
                cells = (kernel, f"sm_{architecture}", dtype, columns, took.registers, took.stack, took.local,
                         took.shared, took.instructions, *faults(took, architecture))  # fmt: skip
                print("| " + " | ".join(map(str, cells)) + " |", flush=True)
                bad += bool(faults(took, architecture))
    return min(bad, 1)


if __name__ == "__main__":
    raise SystemExit(main())
