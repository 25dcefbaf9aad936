#!/usr/bin/env python3
"""The peer of benches/gpu.py: image towers of published architectures with random weights, in PyTorch, as fast as it makes them.

A line of JSON for each batch size and way to run it, as soon as it is measured: `eager` (SDPA), `compiled` (each block by torch.compile), and on a
GPU `graph` (the compiled one in a CUDA graph). One that fails is a line with a reason.

Usage: gpu_torch.py ARCH DEVICE DTYPE BATCHES SECONDS      vit-h-14 cuda float16 1,8,32,128 3
"""
import json
import sys
import time

# As published by OpenAI (B/32, L/14) and LAION (H/14): width, layers, heads, patch, embedding, quick GELU.
ARCHS = {
    "vit-b-32": (768, 12, 12, 32, 512, True),
    "vit-b-16": (768, 12, 12, 16, 512, True),
    "vit-l-14": (1024, 24, 16, 14, 768, True),
    "vit-h-14": (1280, 32, 16, 14, 1024, False),
}
SIZE = 224


def answer(**values):
    print(json.dumps(values), flush=True)


def tower(torch, width, layers, heads, patch, dim, quick):
    nn, functional = torch.nn, torch.nn.functional

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x):
            batch, tokens, _ = x.shape
            q, k, v = self.qkv(self.norm1(x)).view(batch, tokens, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
            seen = functional.scaled_dot_product_attention(q, k, v)
            x = x + self.out(seen.transpose(1, 2).reshape(batch, tokens, width))
            y = self.fc1(self.norm2(x))
            return x + self.fc2(y * torch.sigmoid(1.702 * y) if quick else functional.gelu(y))

    class Tower(nn.Module):
        def __init__(self):
            super().__init__()
            self.patches = nn.Conv2d(3, width, patch, patch, bias=False)
            self.first = nn.Parameter(torch.randn(width) * 0.02)
            self.position = nn.Parameter(torch.randn((SIZE // patch) ** 2 + 1, width) * 0.02)
            self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
            self.blocks = nn.ModuleList(Block() for _ in range(layers))
            self.projection = nn.Linear(width, dim, bias=False)

        def forward(self, pixels):
            x = self.patches(pixels).flatten(2).transpose(1, 2)
            x = torch.cat([self.first.expand(len(x), 1, width), x], 1) + self.position
            x = self.before(x)
            for block in self.blocks:
                x = block(x)
            return self.projection(self.after(x[:, 0]))

    return Tower()


def graphed(torch, model, pixels):
    """The same in one launch: a CUDA graph over `pixels`, after the runs on another stream that capturing wants."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            model(pixels)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        embeddings = model(pixels)

    def replay(_):
        graph.replay()
        return embeddings

    return replay


def measured(run, host, pixels, seconds):
    """Images a second, each batch from the host's memory in 32 bits and back, as a session has it: what a camera gives is not on the GPU."""
    started, runs = None, -3
    while runs < 1 or time.perf_counter() - started < seconds:
        if runs == 0:
            started = time.perf_counter()
        pixels.copy_(host, non_blocking=True)
        run(pixels).cpu()  # waits for its end
        runs += 1
    return runs * len(pixels) / (time.perf_counter() - started)


def main():
    arch, device, dtype, batches, seconds = sys.argv[1:]
    try:
        import torch
    except ImportError as error:
        return answer(reason=f"no PyTorch: {error}")
    if device == "cuda" and not torch.cuda.is_available():
        return answer(reason=f"PyTorch {torch.__version__} sees no GPU")
    if arch not in ARCHS:
        return answer(reason=f"the peer does not know {arch}")
    on_gpu = device == "cuda"
    torch.manual_seed(20)
    model = tower(torch, *ARCHS[arch]).eval().to(device, getattr(torch, dtype))
    answer(what=f"PyTorch {torch.__version__}")
    ways = ["eager", "compiled"] + (["graph"] if on_gpu else [])
    with torch.inference_mode():
        for way in ways:
            if way == "compiled":
                # Block by block: they are alike, so that one compilation does for all of them.
                for block in model.blocks:
                    block.compile(dynamic=False)
            for batch in map(int, batches.split(",")):
                try:
                    host = torch.randn(batch, 3, SIZE, SIZE)
                    pixels = host.to(device, getattr(torch, dtype))
                    if on_gpu:
                        host = host.pin_memory()
                        torch.cuda.reset_peak_memory_stats()
                    run = graphed(torch, model, pixels) if way == "graph" else model
                    rate = measured(run, host, pixels, float(seconds))
                    memory = torch.cuda.max_memory_reserved() if on_gpu else None
                    answer(way=way, batch=batch, images_per_second=rate, gpu_bytes=memory)
                except Exception as error:  # one way that fails must not cost the others
                    answer(way=way, batch=batch, reason=(str(error).strip().splitlines() or [type(error).__name__])[0][:300])
    return None


if __name__ == "__main__":
    main()
