"""oneDNN's AVX2 kernels write beyond their memory: ONEDNN_MAX_CPU_ISA=AVX2 python benchmarks/onednn_crash.py."""

import torch

torch.set_num_threads(1)
conv = torch.nn.Conv2d(6, 6, 1, stride=2).to(memory_format=torch.channels_last)
images = torch.randn(128, 6, 32, 32).to(memory_format=torch.channels_last).requires_grad_()
[conv(images).sum().backward() for _ in range(10)]
print(torch.__version__, "no crash here")
