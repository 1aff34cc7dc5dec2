"""A CUDA device that is not there: its tensors say cuda:0, keep their numbers on the CPU, and obey the rules of CUDA.

- Operands are on one device; only a CPU tensor without dimensions may meet those on CUDA, as in torch.
- While a graph is captured, the host must not wait for the device, copy to or from it, draw random numbers, or pass the
  value of a CPU tensor, which would be fixed in the graph.
- Captured kernels do not run: what they would have returned is poisoned. A replay runs them on the memory that they
  were captured with, so that a number that was fixed, or a tensor that was replaced, gives wrong results.

What it cannot show: wrong kernels, races between streams, and memory that is used after it was freed.
"""

import contextlib
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

CUDA = torch.device("cuda", 0)

WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "equal", "is_nonzero"}
"""Operators whose results the host needs."""
RANDOM = {"rand", "randn", "randint", "randperm", "bernoulli", "bernoulli_", "normal_", "uniform_"}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
ALLOCATIONS = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}
"""Operators without a kernel, whose results hold anything."""


class NotCapturable(RuntimeError):  # noqa: N818
    """CUDA would have refused this while a graph is captured, or fixed it in the graph."""


class OnCuda(torch.Tensor):
    """A tensor on the pretended device; `held` has its numbers."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> "OnCuda":
        like = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype}
        made = torch.Tensor._make_wrapper_subclass(cls, held.size(), **like, device=CUDA)
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return Device.present.run(function, args, kwargs or {})

    def __repr__(self, **_: Any) -> str:
        return f"OnCuda({self.held!r})"

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.held.untyped_storage()

    def tolist(self) -> Any:
        Device.present.wait("tolist")
        return self.held.tolist()

    def __deepcopy__(self, memo: Any) -> "OnCuda":
        return OnCuda(self.held.clone(memory_format=torch.preserve_format))

    def __reduce_ex__(self, protocol: Any) -> Any:
        """As torch.save writes it, to be loaded with map_location="cpu"."""
        return self.held.clone(memory_format=torch.preserve_format).__reduce_ex__(protocol)


def inner(t: Any) -> Any:
    return t.held if isinstance(t, OnCuda) else t


def outer(t: Any) -> Any:
    return OnCuda(t) if type(t) is torch.Tensor else t


class Device(TorchDispatchMode):
    """Runs the operators of tensors on the pretended device.

    Attributes:
        present: the device that is pretended at the moment.
        kernels: kernels that ran, by name; those of a replay too.
        waits: how often the host waited, by the reason.
        graphs: stream and pool of each capture.
        replays: of all graphs.
        capturing: what has been captured of the graph that is being captured: operators, their operands, their results.
    """

    present: "Device"

    def __init__(self) -> None:
        super().__init__()
        self.kernels, self.waits = Counter[str](), Counter[str]()
        self.graphs: list[tuple[object, object]] = []
        self.replays = 0
        self.capturing: list[tuple[Callable[[], Any], Any]] | None = None

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        asked = kwargs.get("device")
        to_cuda = asked is not None and torch.device(asked).type == "cuda"
        if to_cuda or any(isinstance(t, OnCuda) for t in tree_leaves((args, kwargs))):
            return self.run(function, args, kwargs)
        return function(*args, **kwargs)

    def run(self, function: Any, args: Any, kwargs: Any) -> Any:
        """One operator, at least one of whose tensors is or will be on the device."""
        name = function._schema.name.split("::")[1]
        with _disable_current_modes():
            if name in ("_to_copy", "copy_"):
                return self._copy(function, name, args, kwargs)
            if name in WAITS:
                self.wait(name)
                return tree_map(outer, function(*tree_map(inner, args), **tree_map(inner, kwargs)))
            self._check(name, args, kwargs)
            return self._compute(function, name, args, kwargs)

    def wait(self, why: str) -> None:
        if self.capturing is not None:
            raise NotCapturable(f"{why}: the host would wait for the device, or reach into its memory")
        self.waits[why] += 1

    def _check(self, name: str, args: Any, kwargs: Any) -> None:
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        host = [t for t in tensors if not isinstance(t, OnCuda)]
        if name in INDEXING:
            indices = [i for i in args[1] if i is not None]
            if any(i.dtype == torch.bool or not isinstance(i, OnCuda) for i in indices):
                self.wait(f"{name} by a mask, or by indices of the host")
            host = [t for t in host if all(t is not i for i in indices)]
        if any(t.dim() for t in host):
            raise RuntimeError(f"{name}: operands on cuda:0 and on cpu, {[tuple(t.shape) for t in host]}")
        if self.capturing is not None and host:
            raise NotCapturable(f"{name}: a number of the host would be fixed in the graph")
        if self.capturing is not None and name in RANDOM:
            raise NotCapturable(f"{name}: random numbers")

    def _copy(self, function: Any, name: str, args: Any, kwargs: Any) -> Any:
        if name == "copy_":
            target, source = args[:2]
            if isinstance(target, OnCuda) == isinstance(source, OnCuda):
                return self._compute(function, name, args, kwargs)
            self.wait("a copy between host and device")
            inner(target).copy_(inner(source))
            return target
        source, asked = args[0], kwargs.get("device")
        to_cuda = isinstance(source, OnCuda) if asked is None else torch.device(asked).type == "cuda"
        if isinstance(source, OnCuda) == to_cuda:
            return self._compute(function, name, args, kwargs)
        self.wait("a copy between host and device")
        copied = function(inner(source), **(kwargs | {"device": "cpu"}))
        copied = copied.clone() if copied.data_ptr() == inner(source).data_ptr() else copied
        return OnCuda(copied) if to_cuda else copied

    def _compute(self, function: Any, name: str, args: Any, kwargs: Any) -> Any:
        fixed = {"device": torch.device("cpu"), "pin_memory": False}
        kwargs = {key: fixed.get(key, value) if value is not None else value for key, value in kwargs.items()}
        call = lambda: function(*tree_map(inner, args), **tree_map(inner, kwargs))  # noqa: E731
        aliases = [result.alias_info for result in function._schema.returns if result.alias_info is not None]
        if aliases and not any(alias.is_write for alias in aliases):
            return tree_map(outer, call())  # a view, which is no kernel
        if name not in ALLOCATIONS:
            self.kernels[name] += 1
        if aliases:  # it writes into an operand
            if self.capturing is None:
                call()
            else:
                self.capturing.append((call, None))
            return kwargs.get("out", args[0])
        made = tree_map(outer, call())
        if self.capturing is not None:
            for t in tree_leaves(made):
                if isinstance(t, OnCuda) and name not in ALLOCATIONS:
                    t.held.fill_(math.nan if t.is_floating_point() else 1)
            self.capturing.append((call, made))
        return made


class Graph:
    """torch.cuda.CUDAGraph."""

    def __init__(self) -> None:
        self.captured: list[tuple[Callable[[], Any], Any]] = []

    def replay(self) -> None:
        Device.present.replays += 1
        with _disable_current_modes():
            for call, made in self.captured:
                found = call()
                for target, source in zip(tree_leaves(made), tree_leaves(found), strict=False):
                    if isinstance(target, OnCuda):
                        target.held.copy_(source)


@contextlib.contextmanager
def capture(graph: Graph, pool: object = None, stream: object = None) -> Iterator[None]:
    """torch.cuda.graph; one that is not given is that of all who give none."""
    device = Device.present
    assert device.capturing is None
    device.graphs.append((stream, pool))
    device.capturing = graph.captured
    try:
        yield
    finally:
        device.capturing = None


@contextlib.contextmanager
def pretended(free: int = 8 << 30, total: int = 80 << 30) -> Iterator[Device]:
    """As if this machine had one CUDA device, with so many bytes of memory."""
    device, numbers = Device(), itertools.count()
    Device.present = device
    properties = SimpleNamespace(
        name="a pretended GPU",
        major=9,
        minor=0,
        multi_processor_count=132,
        total_memory=total,
        shared_memory_per_multiprocessor=228 << 10,
    )
    of_cuda = {
        "_lazy_init": lambda: None,
        "is_initialized": lambda: True,
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda _: None,
        "get_device_name": lambda _=None: properties.name,
        "get_device_capability": lambda _=None: (properties.major, properties.minor),
        "get_device_properties": lambda _=None: properties,
        "mem_get_info": lambda _=None: (free, total),
        "empty_cache": lambda: None,
        "synchronize": lambda _=None: device.wait("synchronize"),
        "Stream": lambda _=None: ("stream", next(numbers)),
        "graph_pool_handle": lambda: ("pool", next(numbers)),
        "is_current_stream_capturing": lambda: device.capturing is not None,
        "CUDAGraph": Graph,
        "graph": capture,
        "get_rng_state_all": list,
        "set_rng_state_all": lambda _: None,
        "manual_seed_all": lambda _: None,
    }
    of_torch = {"_cuda_clearCublasWorkspaces": lambda: None, "_cuda_getDevice": lambda: 0}
    torch._C._ensureCUDADeviceGuardSet()
    # Then torch.tensor(..., device="cuda") and x[[0, 1]] make tensors on the CPU, and move them by an operator.
    lifted = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)
    try:
        with contextlib.ExitStack() as stack:
            for module, replaced in ((torch.cuda, of_cuda), (torch._C, of_torch)):
                for name, value in replaced.items():
                    stack.enter_context(mock.patch.object(module, name, value, create=True))
            stack.enter_context(device)
            yield device
    finally:
        torch._C._set_only_lift_cpu_tensors(lifted)
