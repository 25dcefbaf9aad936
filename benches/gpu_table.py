"""The report of benches/gpu.py as text: a block a model, a column a batch size, and what was not measured, with the reason."""


def table(told):
    rows, machine = told["rows"], told["machine"]
    where = f"{machine['gpu']}, driver {machine['driver']}" if "gpu" in machine else f"{machine['processor']}, {machine['cores']} cores"
    note = "" if told["device"] == "cuda" else "; a rehearsal without a GPU"
    lines = [f"{where}; {told['measured']}, {told['took_s']:.0f} s{note}"]
    measured = [row for row in rows if "images_per_second" in row]
    for model in dict.fromkeys(row["model"] for row in measured):
        lines += ["", *block(model, [row for row in measured if row["model"] == model])]
    probes = [f"{row['model']} {row['by']} {row['cosine']:.6f}" for row in rows if "cosine" in row]
    if probes:
        lines += ["", f"probe, cosine with the CPU: {', '.join(probes)}"]
    without = [row for row in rows if row["status"] != "measured"]
    if without:
        lines += ["", "not measured:"]
    for row in without:
        what = [row["step"], row.get("model"), row.get("by"), row.get("what"), f"batch {row['batch']}" if "batch" in row else None]
        lines.append(f"  {', '.join(filter(None, what))}: {row['status']}: {row['reason']}")
    return "\n".join(lines)


def block(model, rows):
    """Images/s of one model: who by batch size, then what share of the best PyTorch that is, and GPU memory."""
    batches = sorted({row["batch"] for row in rows})
    names = list(dict.fromkeys(row["by"] for row in rows))
    rate = {(row["by"], row["batch"]): row["images_per_second"] for row in rows}
    peers = [name for name in names if name.startswith("PyTorch")]
    best = {batch: max((rate[name, batch] for name in peers if (name, batch) in rate), default=None) for batch in batches}
    body = [(name, [number(rate.get((name, batch)), ".1f") for batch in batches]) for name in names]
    for name in names:
        if peers and name not in peers:
            ratios = [rate[name, batch] / best[batch] if (name, batch) in rate and best[batch] else None for batch in batches]
            body.append((f"{name}, of the best PyTorch", [number(ratio, ".2f") for ratio in ratios]))
    title = f"{model}, {rows[0]['precision']}, images/s"
    width = max(len(name) for name, _ in [(title, None), *body])
    lines = [f"{name:<{width}}" + "".join(f"{cell:>11}" for cell in cells)
             for name, cells in [(title, [f"batch {batch}" for batch in batches]), *body]]
    memory = {row["by"]: row["gpu_memory_most_mib"] for row in rows if row.get("gpu_memory_most_mib")}
    return lines + [f"{name}: {most} MiB of the GPU in use at most" for name, most in memory.items()]


def number(value, form):
    return "-" if value is None else format(value, form)
