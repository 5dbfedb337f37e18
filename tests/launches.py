"""Triton's launches recorded instead of run: which compilations they would ask for on a GPU."""

from triton.backends.compiler import GPUTarget
from triton.compiler import make_backend
from triton.runtime.jit import JITFunction, create_function_from_signature


class Launches:
    """Stands in for Triton's launcher; the specialisation is Triton's own.

    Attributes:
        compiled: what was asked for, once each.
        count: of launches.
    """

    def __init__(self, monkeypatch, arch=90):
        self.compiled, self.count = set(), 0
        self._backend, self._binders = make_backend(GPUTarget("cuda", arch, 32)), {}
        monkeypatch.setattr(JITFunction, "run", lambda kernel, *args, **options: self._run(kernel, *args, **options))

    def _run(self, kernel, *args, grid, warmup, **options):
        if kernel not in self._binders:
            self._binders[kernel] = create_function_from_signature(kernel.signature, kernel.params, self._backend)
        _, specialization, left = self._binders[kernel](*args, **options)
        assert all(size > 0 for size in grid)
        self.count += 1
        self.compiled.add((kernel.fn.__name__, str(specialization), str(left)))

    def names(self):
        """Of the compiled kernels, sorted."""
        return sorted(name for name, *_ in self.compiled)
