"""oneDNN leaves part of a bfloat16 gradient unwritten: python benchmarks/onednn_gradient.py, on a CPU with AVX-512.

Of a strided convolution with a kernel larger than 1 on maps of one pixel. What stood in the memory before is taken for
the gradient; here it is NaN. Seen with PyTorch 2.9.0 and 2.14.1.
"""

import torch

torch.set_num_threads(1)
for stride, side in ((2, 1), (1, 1), (2, 2)):
    conv = torch.nn.Conv2d(64, 64, 3, stride, 1, bias=False).to(memory_format=torch.channels_last)
    images = torch.randn(32, 64, side, side).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = conv(images)
    filled = [torch.full((count,), float("nan")) for count in (4096, 16384, 65536, 262144, 1 << 20) * 8]
    del filled  # its memory is given to what comes next
    outputs.float().square().mean().backward()
    written = "whole" if torch.isfinite(conv.weight.grad).all() else "partly unwritten"
    print(torch.__version__, f"stride {stride}, maps of {side}x{side}: the gradient is {written}")
