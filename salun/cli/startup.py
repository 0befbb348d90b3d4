"""Imports that take seconds and are of no use yet: torch's compiler, and wandb inside timm.

`torch._dynamo` takes longer to import than all the rest of torch. torchvision imports it for one function that it
never calls here, and torch's optimisers for two that do nothing while nothing is compiled. Those three can be answered
without it. So the first import of `torch._dynamo` gives a stand-in that knows them, and that puts the real module in
its own place as soon as anything else is asked of it: another attribute, or a submodule. `torch.compile` asks for
others at once. What was decorated in the meantime is then decorated by the real module, so that code that compiles
finds everything as it would have been.
"""

import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from threading import RLock
from types import FunctionType, ModuleType
from typing import Any, cast

_COMPILER = "torch._dynamo"
_TOOLS = "torch._dynamo.utils"
_TRIED = ("2.15.",)


class _StandIn(ModuleType):
    """A module that answers what it can, and has the real one answer the rest."""

    def __init__(self, name: str, real: Callable[[str], ModuleType]) -> None:
        super().__init__(name)
        vars(self)["_real"] = real

    def __getattr__(self, name: str) -> Any:
        # Whoever looks through all modules (inspect, warnings) asks for such names; none of them is the compiler's.
        if name.startswith("__") and name != "__all__":
            raise AttributeError(f"module '{self.__name__}' has no attribute '{name}'")
        return getattr(self._real(self.__name__), name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("__") or isinstance(value, _StandIn):
            super().__setattr__(name, value)
        else:
            setattr(self._real(self.__name__), name, value)

    def __dir__(self) -> list[str]:
        return dir(self._real(self.__name__))


class _Present(Loader):
    """Loads a submodule that is there already, because the real compiler brought it along."""

    def __init__(self, module: ModuleType) -> None:
        self.module, self.spec = module, module.__spec__
        # Python takes the specification of a module that came in while it looked for it, and would run it once more.
        vars(module)["__spec__"] = ModuleSpec(module.__name__, self)

    def create_module(self, _spec: ModuleSpec) -> ModuleType:
        """Give the module itself."""
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        """Leave the module as it is."""
        vars(module)["__spec__"] = self.spec


class _Postponed(MetaPathFinder, Loader):
    """Finds the stand-in where the compiler is looked for, and nothing where timm looks for wandb."""

    def __init__(self) -> None:
        self.lock = RLock()
        self.loaded = False
        self.disabled: list[Callable[[], None]] = []

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module, as Python's import system asks it of everything in `sys.meta_path`."""
        if name == "wandb" and _is_being_imported("timm.utils.summary"):
            raise ModuleNotFoundError("timm does without wandb", name=name)
        if name == _COMPILER and not _was_tried():
            self.loaded = True
        if self.loaded:
            return None
        if name in (_COMPILER, _TOOLS):
            return self.stand_in_for(PathFinder.find_spec(name, path))
        if name.startswith(f"{_COMPILER}."):
            self.load()
            return ModuleSpec(name, _Present(sys.modules[name])) if name in sys.modules else None
        return None

    def stand_in_for(self, real: ModuleSpec | None) -> ModuleSpec | None:
        """Describe a stand-in like the module that it stands in for."""
        if real is None or real.origin is None:
            return real
        spec = ModuleSpec(real.name, self, origin=real.origin)
        spec.submodule_search_locations = real.submodule_search_locations
        spec.has_location = True
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Make a stand-in."""
        return _StandIn(spec.name, self.real)

    def exec_module(self, module: ModuleType) -> None:
        """Give a stand-in what it answers itself."""
        if module.__name__ == _COMPILER:
            vars(module).update(disable=self.disable, graph_break=self.graph_break)
        else:
            vars(module).update(is_compile_supported=_is_compile_supported)

    def real(self, name: str) -> ModuleType:
        """Give the compiler, loading it on first need."""
        self.load()
        return import_module(name)

    def load(self) -> None:
        """Load the compiler in place of the stand-ins, and let it disable what they were asked to."""
        with self.lock:
            if self.loaded:
                return
            self.loaded = True
            sys.modules.pop(_TOOLS, None)
            if sys.modules.pop(_COMPILER, None) is not None:
                del sys.modules["torch"]._dynamo
            import_module(_COMPILER)
            for disable in self.disabled:
                disable()
            self.disabled.clear()

    def disable(
        self, fn: Any = None, recursive: bool = True, *, reason: str | None = None, wrapping: bool = True
    ) -> Any:
        """Keep the compiler out of a function: nothing to do until it is loaded."""
        if self.loaded or not isinstance(fn, FunctionType):
            return self.real(_COMPILER).disable(fn, recursive, reason=reason, wrapping=wrapping)
        current: Callable[..., Any] = fn

        @wraps(fn)
        def call(*args: Any, **kwargs: Any) -> Any:
            return current(*args, **kwargs)

        def disable() -> None:
            nonlocal current
            compiler = import_module(_COMPILER)
            compiler.eval_frame.skip_code(cast(FunctionType, call).__code__)
            current = compiler.disable(fn, recursive, reason=reason, wrapping=wrapping)
            vars(call).update(vars(current))

        self.disabled.append(disable)
        return call

    def graph_break(self, msg: str = "") -> None:
        """Break the graph that is being compiled; there is none until the compiler is loaded."""
        if self.loaded:
            self.real(_COMPILER).graph_break(msg)


def _is_compile_supported(device_type: Any) -> Any:
    """Ask the compiler whether it supports a device."""
    import_module(f"{_COMPILER}.eval_frame")  # brings the real modules in
    return import_module(_TOOLS).is_compile_supported(device_type)


vars(_is_compile_supported).update(_dynamo_marked_constant=True)  # as the compiler says of its own


def _is_being_imported(name: str) -> bool:
    """Tell whether a module's import has begun and not ended."""
    spec = getattr(sys.modules.get(name), "__spec__", None)
    return bool(getattr(spec, "_initializing", False))


def _was_tried() -> bool:
    """Tell whether the stand-in was tried with the torch that is being imported; with others its imports stay."""
    return str(getattr(sys.modules.get("torch"), "__version__", "")).startswith(_TRIED)


def _is_postponed() -> bool:
    """Tell whether the compiler waits until it is asked for, or did."""
    return any(isinstance(finder, _Postponed) for finder in sys.meta_path)


def postpone() -> None:
    """Let the compiler wait until it is asked for, unless it is there already."""
    if _COMPILER not in sys.modules and not _is_postponed():
        sys.meta_path.insert(0, _Postponed())


@contextmanager
def uncollected() -> Iterator[None]:
    """Import torch and what stands on it without looking for garbage, of which imports leave none worth the time.

    Yields:
        Nothing. What was imported is never looked through again; where torch is there already, nothing changes.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
