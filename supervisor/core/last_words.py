"""
Known last words: what a worker's last lines say of why it died. A table, and the look-up in it; no regular expressions.

Each row is a public error message, as its library writes it. The newest line that is in the table counts: what comes
after it in a trace is what others made of it.
"""

from __future__ import annotations

from dataclasses import dataclass

LINE_MAX = 2048
"""Of a line no more than so many characters is looked at."""


@dataclass(frozen=True, slots=True)
class Words:
    """
    One row.

    Args:
        pattern: Stands in the line, in these letters.
        cause: As CONTRACT section 4 calls it; empty where the way it ended is cause enough and *meaning* is told.
        meaning: For a person.
    """

    pattern: str
    cause: str
    meaning: str


_OOM = "CUDA out of memory"

TABLE: tuple[Words, ...] = (
    # PyTorch: c10/cuda/CUDACachingAllocator.cpp, c10/cuda/CUDAException.cpp.
    Words("CUDA out of memory", "cuda_oom", _OOM),
    Words("HIP out of memory", "cuda_oom", "HIP out of memory"),
    Words("CUDA error: out of memory", "cuda_oom", _OOM),
    # The driver's and the runtime's own names: cuda.h, driver_types.h.
    Words("CUDA_ERROR_OUT_OF_MEMORY", "cuda_oom", _OOM),
    Words("cudaErrorMemoryAllocation", "cuda_oom", _OOM),
    Words("CUDA driver error: out of memory", "cuda_oom", _OOM),
    # llama.cpp: ggml/src/ggml-cuda/ggml-cuda.cu.
    Words("cudaMalloc failed: out of memory", "cuda_oom", _OOM),
    # ONNX Runtime: core/providers/cuda/cuda_call.cc.
    Words("CUDA failure 2: out of memory", "cuda_oom", _OOM),
    # CuPy: cupy/cuda/memory.pyx.
    Words("cupy.cuda.memory.OutOfMemoryError", "cuda_oom", _OOM),
    # JAX and XLA: xla/tsl/framework/bfc_allocator.cc.
    Words("RESOURCE_EXHAUSTED: Out of memory", "cuda_oom", "out of memory on its device"),
    # CTranslate2: src/cuda/utils.h.
    Words("CUDA failed with error out of memory", "cuda_oom", _OOM),
    # TensorRT: resizingAllocator.cpp.
    Words("Cuda Runtime (out of memory)", "cuda_oom", _OOM),
    # RAPIDS: rmm/mr/cuda_memory_resource.hpp.
    Words("std::bad_alloc: out_of_memory: CUDA error", "cuda_oom", _OOM),
    # TensorFlow: core/framework/op_kernel.cc and its kernels; on the CPU it is another allocator.
    Words("by allocator GPU_", "cuda_oom", "TensorFlow found no memory on its GPU"),
    # cublas_api.h: there was none left for the library's own work space.
    Words("CUBLAS_STATUS_ALLOC_FAILED", "cuda_oom", "cuBLAS found no memory"),
    # vLLM: v1/worker/utils.py, v1/core/kv_cache_utils.py.
    Words("is less than desired GPU memory utilization", "cuda_oom", "vLLM found less memory free than it is to take"),
    Words("No available memory for the cache blocks", "cuda_oom", "vLLM found no memory for its cache"),
    # SGLang: srt/model_executor/pool_configurator.py.
    Words("Not enough memory. Please try to increase --mem-fraction-static", "cuda_oom", "SGLang found no memory"),
    # Others that are known, and are no cause of their own.
    Words("larger than the available KV cache memory", "", "vLLM's context is longer than its memory allows"),
    Words("uncorrectable ECC error encountered", "", "uncorrectable ECC error of its GPU"),
    Words("CUDA error: an illegal memory access", "", "illegal memory access on its GPU"),
    Words("CUDA error: device-side assert triggered", "", "device-side assert"),
    Words("CUDA error: no kernel image is available", "", "built for another kind of GPU"),
    Words("CUDA driver version is insufficient", "", "the driver is too old for its CUDA"),
    Words("No CUDA GPUs are available", "", "CUDA shows it no GPU"),
    Words("no CUDA-capable device is detected", "", "CUDA shows it no GPU"),
    Words("NCCL error", "", "NCCL error"),
    Words("ncclSystemError", "", "NCCL error"),
    Words("ncclUnhandledCudaError", "", "NCCL error"),
    Words("Watchdog caught collective operation timeout", "", "NCCL timeout"),
    Words("Address already in use", "", "its port is taken"),
    Words("address already in use", "", "its port is taken"),
    Words("No space left on device", "", "no space left on a disk"),
    Words("Bus error", "", "bus error, often a full /dev/shm"),
)


def find_words(tail: tuple[str, ...]) -> Words | None:
    """
    What the last lines of a process say.

    Args:
        tail: Oldest first, as many as are kept.

    Returns:
        The row of the newest line that has one; one that names a cause goes before those that do not.
    """
    found: Words | None = None
    for line in reversed(tail):
        words = next((one for one in TABLE if one.pattern in line[:LINE_MAX]), None)
        if words is not None and words.cause:
            return words
        found = found or words
    return found
