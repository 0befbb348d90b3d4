"""What the compiled functions are made with: the compiler, and operations that numba lacks.

numba's cache looks at the file of each compiled function alone: after a change here, delete the caches.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

_Function = TypeVar("_Function", bound=Callable[..., Any])


def compiler(*freedoms: str) -> Callable[[_Function], _Function]:
    """Make a decorator that compiles a function on its first call, without the GIL.

    Args:
        freedoms: of LLVM with floating point numbers.

    Returns:
        The decorator; the result is kept on disk where that can be written.
    """

    def compile_later(function: _Function) -> _Function:
        settings: dict[str, Any] = {"nogil": True, "fastmath": set(freedoms), "error_model": "numpy"}
        try:
            return cast(_Function, njit(cache=True, **settings)(function))
        except RuntimeError:
            return cast(_Function, njit(**settings)(function))

    return compile_later


def _to_bits(context: Any, number: Any) -> tuple[Any, Any]:
    """Give a double's 64 bits as an integer."""
    return types.int64(types.float64), lambda _, builder, __, args: builder.bitcast(args[0], ir.IntType(64))


def _to_double(context: Any, bits: Any) -> tuple[Any, Any]:
    """Give the double that has these 64 bits."""
    return types.float64(types.int64), lambda _, builder, __, args: builder.bitcast(args[0], ir.DoubleType())


def _to_dot(context: Any, address: Any, size: Any, first: Any, second: Any) -> tuple[Any, Any]:
    """Call BLAS' ddot at an address: size (1,) int32, two vectors."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        integer, double = ir.IntType(32).as_pointer(), ir.DoubleType().as_pointer()
        kind = ir.FunctionType(ir.DoubleType(), [integer, double, integer, double, integer])
        size, first, second = (
            context.make_array(kind)(context, builder, value).data
            for kind, value in zip(signature.args[1:], args[1:], strict=True)
        )
        one = builder.gep(size, [ir.Constant(ir.IntType(32), 1)])
        call = builder.inttoptr(args[0], kind.as_pointer())
        return builder.call(call, [size, first, one, second, one])

    return types.float64(address, size, first, second), build


def _to_maximum(context: Any, first: Any, second: Any) -> tuple[Any, Any]:
    """Give the larger of two numbers, in a form that LLVM takes over a loop in vectors."""

    def build(_: Any, builder: Any, __: Any, args: Any) -> Any:
        double = ir.DoubleType()
        function = builder.module.declare_intrinsic("llvm.maxnum", [double], ir.FunctionType(double, [double] * 2))
        return builder.call(function, args, fastmath=("nnan", "nsz"))

    return types.float64(types.float64, types.float64), build


bits_of: Any = intrinsic(_to_bits)

double_of: Any = intrinsic(_to_double)

blas_dot: Any = intrinsic(_to_dot)

larger: Any = intrinsic(_to_maximum)
