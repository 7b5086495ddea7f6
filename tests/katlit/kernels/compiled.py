"""Compiles the kernels of one operation for an H100, without any GPU: the interpreter lets more pass."""

import sys

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from katlit.kernels import jsd_triton, log_prob_triton

FLOATS = {"temperature", "beta"}
STATISTICS = {"tops", "log_totals", "teacher_tops", "teacher_log_totals", "means", "upstream", "of_teacher"}


def signature(kernel: triton.JITFunction, logits: str, out: str) -> dict[str, str]:
    """Types of the arguments, by their names."""
    types = {"targets": "*i64"} | dict.fromkeys(FLOATS, "fp32") | dict.fromkeys(STATISTICS, "*fp32")
    types |= {"out": f"*{out}"} | dict.fromkeys(("logits", "student", "teacher"), f"*{logits}")
    return {name: "constexpr" if name.isupper() else types.get(name, "i32") for name in kernel.arg_names}


def compile_for_h100(kernel: triton.JITFunction, beta: float, *, in_place: bool = False) -> None:
    """For logits of both types; a gradient is float32, and in place of the logits of their type."""
    constants = {"BLOCK": 4096, "BETA_IS_ZERO": beta == 0, "BETA_IS_ONE": beta == 1}
    constants = {name: constants[name] for name in kernel.arg_names if name.isupper()}
    for logits, out in [("fp32", "fp32"), ("bf16", "fp32"), *([("bf16", "bf16")] if in_place else [])]:
        source = ASTSource(kernel, signature(kernel, logits, out), constexprs=constants)
        made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 8})
        assert "ptx" in made.asm


if __name__ == "__main__":
    if sys.argv[1] == "log_prob":
        compile_for_h100(log_prob_triton._forward, 0.5)
        compile_for_h100(log_prob_triton._backward, 0.5, in_place=True)
    else:
        for beta in (0, 0.5, 1):
            compile_for_h100(jsd_triton._forward, beta)
            compile_for_h100(jsd_triton._add_gradient, beta)
