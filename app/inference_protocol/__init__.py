"""The Open Inference Protocol, version 2, as KServe, Triton and MLServer speak it: the same predictions under /v2."""
