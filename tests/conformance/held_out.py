#!/usr/bin/env python3
"""Writes checkpoints that no test in the repository holds, and what the reference implementations answer for them.

Every folder is saved as Transformers or OpenCLIP would save it, changed where its line in this file says so, and loaded
again by the same library: what that answers is expected. A folder that must be refused says the word to look for.

Needs: torch, torchvision, transformers 5, open-clip-torch, safetensors, tokenizers, pillow. Nothing is downloaded.
Usage: held_out.py OUT_DIR [NAME…], then VTAGD_CHECKPOINTS=OUT_DIR cargo nextest run --test import import_command::
"""
import gzip, json, os, shutil, sys
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
import open_clip
from open_clip.push_to_hf_hub import save_for_hf
from open_clip.transform import PreprocessCfg, image_transform_v2
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from functools import partial
import timm
from timm.layers import LayerNorm
from timm.models import _registry
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from transformers import (AutoImageProcessor, AutoTokenizer, BertTokenizer, ChineseCLIPConfig, ChineseCLIPImageProcessor,
                          ChineseCLIPModel, CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer,
                          MetaClip2Config, MetaClip2Model, PreTrainedTokenizerFast, SiglipConfig, SiglipImageProcessor,
                          SiglipModel)

HERE = os.path.dirname(os.path.abspath(__file__))
OUT, ONLY = sys.argv[1], sys.argv[2:]
PLACES = [os.path.join(HERE, "../data/preprocess"), os.path.join(HERE, "../../../shared/conformance/images")]
IMAGES = ["chelsea.png", "astronaut.png", "coffee.png", "rocket.jpg"]
PROMPTS = ["a photo of a cat", "a cup of coffee on a table", "A photo of A CAT", "no people", "une voiture rouge",
           "forklift blocking a fire exit", "it's a dog and they'll run 12 km"]
IMAGES = [n for n in IMAGES if any(os.path.exists(os.path.join(p, n)) for p in PLACES)]
DONE = []


def pictures():
    found = [next(p for p in (os.path.join(place, n) for place in PLACES) if os.path.exists(p)) for n in IMAGES]
    return [Image.open(p).convert("RGB") for p in found]


def edit(folder, name, change):
    path = os.path.join(folder, name)
    data = json.load(open(path)) if os.path.exists(path) else {}
    data = change(data) or data
    json.dump(data, open(path, "w"), indent=1)


def expect(folder, **more):
    json.dump(dict({"images": IMAGES, "prompts": PROMPTS}, **more), open(os.path.join(folder, "expected.json"), "w"), indent=1)
    DONE.append(os.path.basename(folder))


def answer(folder, image, text, ids, scale, bias=0.0, sigmoid=False):
    image, text = F.normalize(image.float(), dim=-1), F.normalize(text.float(), dim=-1)
    logits = scale * image @ text.T + bias
    probs = logits.sigmoid() if sigmoid else logits.softmax(-1)
    save_file({"image_embeds": image.contiguous(), "text_embeds": text.contiguous(), "probs": probs.contiguous(),
               "input_ids": ids.long().contiguous()}, os.path.join(folder, "expected.safetensors"))
    expect(folder, activation="sigmoid" if sigmoid else "softmax", logit_scale=float(scale), logit_bias=float(bias))


def stir(model, gain=2.0):
    """Makes every parameter matter, biases and norms included."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() <= 1 and p.numel() > 1:
                p.add_(0.1 * torch.randn_like(p))
            elif p.dim() > 1:
                p.mul_(gain)


def folder_for(name):
    if ONLY and not any(name.startswith(o) for o in ONLY):
        return None
    folder = os.path.join(OUT, name)
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    torch.manual_seed(sum(map(ord, name)))
    return folder


def clip_tokenizer(n_merges=486, length=77):
    codes = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    chars, extra = codes[:], 0
    for b in range(256):
        if b not in codes:
            codes.append(b); chars.append(256 + extra); extra += 1
    chars = [chr(c) for c in chars]
    path = os.path.join(os.path.dirname(open_clip.__file__), "bpe_simple_vocab_16e6.txt.gz")
    merges = [tuple(l.split()) for l in gzip.open(path).read().decode().split("\n")[1:n_merges + 1]]
    words = chars + [c + "</w>" for c in chars] + ["".join(m) for m in merges] + ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={t: i for i, t in enumerate(words)}, merges=merges, model_max_length=length)


V = dict(hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=96, image_size=64, patch_size=16, hidden_act="gelu")
T = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, hidden_act="gelu")
PP = dict(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})


def says(work):
    """Runs one line of this file; where the reference itself cannot do it, any refusal will do."""
    def run(name, *args, **fields):
        try:
            work(name, *args, **fields)
        except Exception as e:
            print("  reference fails:", name, type(e).__name__, str(e).split("\n")[0][:150])
            expect(os.path.join(OUT, name), refused="")
    return run


@says
def clip(name, vision=None, text=None, proc=None, dim=40, change=None, refused=None, context=77, eos=None, save=None, pillow=False):
    folder = folder_for(name)
    if folder is None:
        return
    tokenizer = clip_tokenizer(length=context)
    vocab = len(tokenizer)
    text = {**T, "vocab_size": vocab, "bos_token_id": vocab - 2, "eos_token_id": vocab - 1 if eos is None else eos,
            "pad_token_id": 1, "max_position_embeddings": context, **(text or {})}
    vision = {**V, **(vision or {})}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=dim)).eval()
    stir(model)
    (save or (lambda m, d: m.save_pretrained(d)))(model, folder)
    if not os.path.exists(os.path.join(folder, "config.json")):
        model.config.save_pretrained(folder)
    CLIPImageProcessor(**{**PP, **(proc or {})}).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if change:
        change(folder)
    if refused is not None:
        return expect(folder, refused=refused)
    m = CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()
    ids = AutoTokenizer.from_pretrained(folder)(PROMPTS, padding="max_length", max_length=context, truncation=True, return_tensors="pt")["input_ids"]
    # Without torchvision Transformers takes Pillow; only that has every filter.
    processor = CLIPImageProcessorPil.from_pretrained(folder) if pillow else AutoImageProcessor.from_pretrained(folder)
    pixels = processor(images=pictures(), return_tensors="pt")["pixel_values"].float()
    with torch.no_grad():
        out = m(pixel_values=pixels, input_ids=ids)
        answer(folder, out.image_embeds, out.text_embeds, ids, m.logit_scale.exp().item())


def pp(**fields):
    return lambda d: edit(d, "preprocessor_config.json", lambda j: j.update(fields))


def pp_without(*names, **fields):
    return lambda d: edit(d, "preprocessor_config.json", lambda j: {**{k: v for k, v in j.items() if k not in names}, **fields})


def config(change):
    return lambda d: edit(d, "config.json", change)


def tensors(change, name="model.safetensors"):
    def run(folder):
        path = os.path.join(folder, name)
        all_ = load_file(path)
        all_ = change(all_) or all_
        save_file({k: v.clone().contiguous() for k, v in all_.items()}, path, metadata={"format": "pt"})
    return run


def pickled(dtype=None, legacy=False, wrap=None, name="pytorch_model.bin"):
    def run(model, folder):
        state = model.state_dict()
        if dtype:
            state = {k: v.to(dtype) for k, v in state.items()}
        state = wrap(state) if wrap else state
        torch.save(state, os.path.join(folder, name), _use_new_zipfile_serialization=not legacy)
    return run


def pickled_shards(model, folder):
    state = model.state_dict(); keys = list(state); half = len(keys) // 2
    index = {}
    for n, part in enumerate((keys[:half], keys[half:]), 1):
        file = f"pytorch_model-0000{n}-of-00002.bin"
        torch.save({k: state[k] for k in part}, os.path.join(folder, file))
        index.update({k: file for k in part})
    json.dump({"metadata": {}, "weight_map": index}, open(os.path.join(folder, "pytorch_model.bin.index.json"), "w"))


def mixed(model, folder):
    kinds = [torch.float32, torch.float16, torch.bfloat16]
    save_file({k: v.to(kinds[i % 3]) for i, (k, v) in enumerate(model.state_dict().items())}, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})


def views(state):
    """One storage for several tensors, and tensors that are stored transposed."""
    out = dict(state)
    q = [k for k in state if k.endswith("q_proj.weight")]
    both = torch.cat([state[k] for k in q if state[k].shape == state[q[0]].shape])
    n = state[q[0]].shape[0]
    for i, k in enumerate([k for k in q if state[k].shape == state[q[0]].shape]):
        out[k] = both[i * n:(i + 1) * n]
    for k in state:
        if k.endswith("fc1.weight"):
            out[k] = state[k].t().contiguous().t()
    return out


def slow_files(folder):
    whole = json.load(open(os.path.join(folder, "tokenizer.json")))["model"]
    json.dump(whole["vocab"], open(os.path.join(folder, "vocab.json"), "w"), ensure_ascii=False)
    open(os.path.join(folder, "merges.txt"), "w").write("#version: 0.2\n" + "\n".join(" ".join(m) if isinstance(m, list) else m for m in whole["merges"]) + "\n")
    os.remove(os.path.join(folder, "tokenizer.json"))


# --- Hugging Face CLIP: sizes, activations, configuration
clip("hf-heads-12-and-8", vision=dict(hidden_size=60, num_attention_heads=5, layer_norm_eps=1e-6), text=dict(hidden_size=40, num_attention_heads=5, layer_norm_eps=1e-3), dim=24)
clip("hf-one-head", vision=dict(hidden_size=40, num_attention_heads=1), text=dict(num_attention_heads=1))
clip("hf-odd-widths", vision=dict(hidden_size=54, num_attention_heads=6, intermediate_size=77), text=dict(hidden_size=30, num_attention_heads=6, intermediate_size=33), dim=17)
clip("hf-one-layer", vision=dict(num_hidden_layers=1), text=dict(num_hidden_layers=1))
clip("hf-gelu-tanh-new", vision=dict(hidden_act="gelu_pytorch_tanh"), text=dict(hidden_act="gelu_new"))
clip("hf-gelu-fast-python", vision=dict(hidden_act="gelu_fast"), text=dict(hidden_act="gelu_python"))
clip("hf-quick-and-tanh", vision=dict(hidden_act="quick_gelu"), text=dict(hidden_act="gelu_python_tanh"))
clip("hf-gelu-accurate", vision=dict(hidden_act="gelu_accurate"))
clip("hf-relu", text=dict(hidden_act="relu"), refused="relu")
clip("hf-silu", vision=dict(hidden_act="silu"), refused="silu")
clip("hf-eos-legacy", eos=2)
clip("hf-eos-absent", eos=513, change=config(lambda c: c["text_config"].pop("eos_token_id") and None), refused="eos_token_id")
clip("hf-vocabulary-larger-than-tokenizer", text=dict(vocab_size=9000))
clip("hf-context-32", context=32)
clip("hf-context-32-tokenizer-77", context=32, change=lambda d: edit(d, "tokenizer_config.json", lambda j: j.update(model_max_length=77)))
clip("hf-size-not-a-multiple", vision=dict(image_size=75, patch_size=16), proc=dict(size={"shortest_edge": 75}, crop_size={"height": 75, "width": 75}))
clip("hf-rectangular", change=config(lambda c: c["vision_config"].update(image_size=[64, 96])), refused="image_size")
clip("hf-rectangular-patch", change=config(lambda c: c["vision_config"].update(patch_size=[16, 32])), refused="patch_size")
clip("hf-noise", change=config(lambda c: c.update(return_dict=True, _name_or_path="x", transformers_version="4.5.0", architectures=None, logit_scale_init_value=9.0)))
clip("hf-position-ids", change=tensors(lambda t: t.update({"text_model.embeddings.position_ids": torch.arange(77)[None], "vision_model.embeddings.position_ids": torch.arange(17)[None]})))
clip("hf-default-text", text=dict(hidden_size=512, num_attention_heads=8, intermediate_size=2048, hidden_act="quick_gelu"), dim=512,
     change=config(lambda c: c.update(text_config={k: v for k, v in c["text_config"].items() if k in ("num_hidden_layers", "vocab_size", "eos_token_id", "bos_token_id")}, projection_dim=512)))
clip("hf-default-vision", vision=dict(hidden_size=768, num_attention_heads=12, intermediate_size=3072, hidden_act="quick_gelu", image_size=224, patch_size=32), dim=512, proc=dict(size={"shortest_edge": 224}, crop_size=224),
     change=lambda d: (edit(d, "config.json", lambda c: {**{k: v for k, v in c.items() if k != "projection_dim"}, "vision_config": {"num_hidden_layers": 2}}), edit(d, "preprocessor_config.json", lambda j: {"image_processor_type": "CLIPImageProcessor"})))
clip("hf-projection-dim-in-towers", dim=24, text=dict(projection_dim=11), vision=dict(projection_dim=13))
clip("hf-config-dicts", dim=24, text=dict(hidden_size=512, num_attention_heads=8, intermediate_size=2048, hidden_act="quick_gelu"),
     change=config(lambda c: c.update(text_config_dict={k: c["text_config"][k] for k in ("num_hidden_layers", "vocab_size", "eos_token_id", "hidden_size")}, text_config={"hidden_size": 1, "projection_dim": 5}, vision_config_dict=dict(c["vision_config"]))))
clip("hf-config-dict-null", change=config(lambda c: c.update(text_config_dict=None, vision_config_dict=None)))
clip("hf-attention-dropout", text=dict(attention_dropout=0.3), vision=dict(attention_dropout=0.5))
clip("hf-deep-quick", vision=dict(num_hidden_layers=12, hidden_act="quick_gelu"), text=dict(num_hidden_layers=8, hidden_act="quick_gelu"))
# --- weights
clip("hf-mixed-types", save=mixed)
clip("hf-bin-half", save=pickled(torch.float16))
clip("hf-bin-bfloat", save=pickled(torch.bfloat16))
clip("hf-bin-legacy", save=pickled(legacy=True))
clip("hf-bin-legacy-views", save=pickled(legacy=True, wrap=views))
clip("hf-bin-views", save=pickled(wrap=views))
clip("hf-bin-parameters", save=pickled(wrap=lambda s: {k: torch.nn.Parameter(v) for k, v in s.items()}))
clip("hf-bin-shards", save=pickled_shards)
clip("hf-bin-double", save=pickled(torch.float64), refused="float32")
clip("hf-safetensors-shards", save=lambda m, d: m.save_pretrained(d, max_shard_size="60KB"))
clip("hf-left-over", change=tensors(lambda t: t.update({"vision_model.extra.weight": torch.ones(3)})), refused="vision_model.extra.weight")
clip("hf-missing", change=tensors(lambda t: t.pop("visual_projection.weight") is None), refused="visual_projection.weight")
# --- preprocessing
clip("pp-crop-int-size-int", change=pp(crop_size=64, size=64))
clip("pp-size-larger-than-crop", change=pp(size={"shortest_edge": 91}))
clip("pp-size-smaller-than-crop", change=pp(size={"shortest_edge": 50}))
clip("pp-size-odd-smaller", change=pp(size={"shortest_edge": 39}))
clip("pp-exact-and-crop", change=pp(size={"height": 80, "width": 71}))
clip("pp-exact-no-crop", change=pp(size={"height": 64, "width": 64}, do_center_crop=False))
clip("pp-size-list", change=pp(size=[80, 70]))
clip("pp-default-to-square", change=pp(size=64, default_to_square=True))
clip("pp-shortest-no-crop", change=pp(do_center_crop=False), refused="size")
clip("pp-no-resize", change=pp(do_resize=False))
for n in range(6):
    clip(f"pp-resample-{n}", change=pp(resample=n), pillow=n > 3)
clip("pp-resample-9", change=pp(resample=9), refused="resample")
clip("pp-no-rescale", change=pp(do_rescale=False, image_mean=[120.0, 110.0, 100.0], image_std=[60.0, 61.0, 62.0]))
clip("pp-rescale-factor", change=pp(rescale_factor=1 / 127.5, image_mean=[1.0, 1.0, 1.0], image_std=[1.0, 1.0, 1.0]))
clip("pp-no-normalise", change=pp(do_normalize=False))
clip("pp-mean-number", change=pp(image_mean=0.5, image_std=0.25))
clip("pp-no-rgb", change=pp(do_convert_rgb=False))
clip("pp-nulls", change=pp(do_pad=None, pad_size=None, data_format="channels_first", input_data_format=None, device=None, disable_grouping=None, image_seq_length=None))
clip("pp-pad-same", change=pp(do_pad=True, pad_size={"height": 64, "width": 64}))
clip("pp-pad-larger", vision=dict(image_size=80), change=pp(do_pad=True, pad_size={"height": 80, "width": 80}), refused="pad")
clip("pp-longest-edge", change=pp(size={"shortest_edge": 64, "longest_edge": 70}), refused="longest_edge")
clip("pp-longest-edge-only", change=pp(size={"longest_edge": 64}), refused="size")
clip("pp-max-height", change=pp(size={"max_height": 64, "max_width": 64}), refused="size")
clip("pp-wrong-size", change=pp(crop_size=96), refused="96")
clip("pp-old-extractor", change=pp_without("image_processor_type", feature_extractor_type="CLIPFeatureExtractor", size=64, crop_size=64))
clip("pp-fast-name", change=pp(image_processor_type="CLIPImageProcessorFast"))
clip("pp-pil-name", change=pp(image_processor_type="CLIPImageProcessorPil"))
clip("pp-defaults-left-out", vision=dict(image_size=224, patch_size=32), change=pp_without("size", "crop_size", "resample", "image_mean", "image_std", "do_center_crop", "do_resize", "rescale_factor"))
clip("pp-siglip-processor", change=pp_without("crop_size", "do_center_crop", image_processor_type="SiglipImageProcessor", size={"height": 64, "width": 64}))
clip("pp-vit-processor", change=pp_without("crop_size", "do_center_crop", image_processor_type="ViTImageProcessor", size={"height": 64, "width": 64}))


def nested(folder):
    """What `CLIPProcessor.save_pretrained` writes today."""
    p = CLIPProcessor(CLIPImageProcessor.from_pretrained(folder), AutoTokenizer.from_pretrained(folder))
    os.remove(os.path.join(folder, "preprocessor_config.json"))
    p.save_pretrained(folder)


def nested_beside_old(folder):
    """The nested object counts where both are there."""
    nested(folder)
    json.dump({"image_processor_type": "CLIPImageProcessor", "size": 64, "crop_size": 64, "resample": 2, "image_mean": [0, 0, 0]}, open(os.path.join(folder, "preprocessor_config.json"), "w"))


clip("pp-nested", change=nested)
clip("pp-nested-beside-old", change=nested_beside_old)
clip("pp-processor-config-without-images", change=lambda d: json.dump({"processor_class": "CLIPProcessor"}, open(os.path.join(d, "processor_config.json"), "w")))
clip("pp-gone", change=lambda d: os.remove(os.path.join(d, "preprocessor_config.json")), refused="preprocessor_config.json")
# --- CLIP tokenizers
clip("tok-slow-files", change=lambda d: slow_files(d))
clip("tok-pad-zero", change=lambda d: edit(d, "tokenizer_config.json", lambda j: j.update(pad_token="!")))
clip("tok-left", change=lambda d: edit(d, "tokenizer_config.json", lambda j: j.update(padding_side="left")), refused="padding_side")


# --- SigLIP
def sentence_tokenizer(lower=True, bpe=True, eos="<eos>", length=64):
    t = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    steps = [normalizers.Replace(" ", "\u2581")]
    t.normalizer = normalizers.Sequence([normalizers.Lowercase()] + steps) if lower else steps[0]
    t.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    t.decoder = decoders.Replace("\u2581", " ")
    corpus = [p.lower() for p in PROMPTS] * 4 + PROMPTS
    t.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=120, special_tokens=["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]))
    t.post_processor = TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=t, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", unk_token="<unk>", mask_token="<mask>", model_max_length=length)


SV = dict(hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=96, image_size=64, patch_size=16)
ST = dict(hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=64, max_position_embeddings=64)


@says
def siglip(name, vision=None, text=None, change=None, refused=None, lower=True, proc=None, config_class=SiglipConfig):
    folder = folder_for(name)
    if folder is None:
        return
    text = {**ST, **(text or {})}
    vision = {**SV, **(vision or {})}
    context = text["max_position_embeddings"]
    tok = sentence_tokenizer(lower, length=context)
    m = SiglipModel(SiglipConfig(text_config=dict(text, vocab_size=len(tok), pad_token_id=0, eos_token_id=1, bos_token_id=2), vision_config=vision)).eval()
    stir(m, 1.5)
    with torch.no_grad():
        m.logit_scale.fill_(2.0); m.logit_bias.fill_(-3.0)
    m.save_pretrained(folder)
    SiglipImageProcessor(**{**dict(size={"height": vision["image_size"], "width": vision["image_size"]}), **(proc or {})}).save_pretrained(folder)
    tok.save_pretrained(folder)
    if change:
        change(folder)
    if refused is not None:
        return expect(folder, refused=refused)
    m = SiglipModel.from_pretrained(folder, dtype=torch.float32).eval()
    tok = AutoTokenizer.from_pretrained(folder)
    ids = tok(PROMPTS, padding="max_length", max_length=context, truncation=True, return_tensors="pt")["input_ids"]
    pixels = AutoImageProcessor.from_pretrained(folder)(images=pictures(), return_tensors="pt")["pixel_values"].float()
    with torch.no_grad():
        out = m(pixel_values=pixels, input_ids=ids)
        answer(folder, out.image_embeds, out.text_embeds, ids, m.logit_scale.exp().item(), m.logit_bias.item(), True)


def tok_config(**fields):
    return lambda d: edit(d, "tokenizer_config.json", lambda j: j.update(fields))


siglip("sig-plain")
siglip("sig-size-not-a-multiple", vision=dict(image_size=75, patch_size=14))
siglip("sig-context-16", text=dict(max_position_embeddings=16))
siglip("sig-widths-differ", text=dict(hidden_size=30, projection_size=48, num_attention_heads=5, intermediate_size=70))
siglip("sig-projection-does-not-fit", text=dict(projection_size=20), refused="projection")
siglip("sig-gelu-eps", vision=dict(hidden_act="gelu", layer_norm_eps=1e-5), text=dict(hidden_act="quick_gelu", layer_norm_eps=1e-4))
siglip("sig-one-head", vision=dict(num_attention_heads=1), text=dict(num_attention_heads=1))
siglip("sig-no-head", vision=dict(vision_use_head=False), refused="vision_use_head")
siglip("sig-bias-absent", change=tensors(lambda t: t.pop("logit_bias") is None), refused="logit_bias")
siglip("sig-scale-scalar", change=tensors(lambda t: t.update({"logit_scale": t["logit_scale"].reshape(1), "logit_bias": t["logit_bias"].reshape(1)})))
siglip("sig-siglip2-tokenizer", lower=False, change=tok_config(tokenizer_class="Siglip2Tokenizer", padding_side="right"))
siglip("sig-siglip2-tokenizer-left", lower=False, change=tok_config(tokenizer_class="Siglip2Tokenizer", padding_side="left"))
siglip("sig-siglip2-tokenizer-no-side", lower=False, change=lambda d: edit(d, "tokenizer_config.json", lambda j: {**{k: v for k, v in j.items() if k != "padding_side"}, "tokenizer_class": "Siglip2Tokenizer"}))
siglip("sig-gemma-tokenizer", lower=False, change=tok_config(tokenizer_class="GemmaTokenizer", padding_side="right"))
siglip("sig-gemma-tokenizer-fast", lower=False, change=tok_config(tokenizer_class="GemmaTokenizerFast", padding_side="right"))
siglip("sig-gemma-do-lower-case", lower=False, change=tok_config(tokenizer_class="GemmaTokenizer", padding_side="right", do_lower_case=True))
siglip("sig-tokenizer-left", change=tok_config(padding_side="left"))
siglip("sig-truncation-left", text=dict(max_position_embeddings=6), change=tok_config(truncation_side="left"))
siglip("sig-naflex", change=config(lambda c: c.update(model_type="siglip2")), refused="naflex")


# --- OpenCLIP, saved and loaded by itself
OV = dict(image_size=64, layers=2, width=48, head_width=16, patch_size=16)
OT = dict(width=32, heads=2, layers=2)


@says
def oclip(name, vision=None, text=None, model=None, preprocess=None, refused=None, hf_tokenizer=False, change=None, pickle=False, save=True):
    folder = folder_for(name)
    if folder is None:
        return
    tok = clip_tokenizer()
    context = (text or {}).get("context_length", 77)
    cfg = {"embed_dim": 40, "vision_cfg": {**OV, **(vision or {})}, "text_cfg": {**OT, "vocab_size": len(tok), "context_length": context, **(text or {})}, **(model or {})}
    pre = {"mean": [0.48, 0.45, 0.40], "std": [0.26, 0.26, 0.27], "interpolation": "bicubic", "resize_mode": "shortest", **(preprocess or {})}
    json.dump({"model_cfg": cfg, "preprocess_cfg": pre}, open(os.path.join(folder, "open_clip_config.json"), "w"), indent=1)
    tok.save_pretrained(folder)
    if save:
        m = open_clip.create_model("local-dir:" + folder, load_weights=False).eval()
        stir(m)
        save_for_hf(m, tok, cfg, folder, safe_serialization=not pickle)
        # As it was given, not as this library version fills it in.
        json.dump({"model_cfg": cfg, "preprocess_cfg": pre}, open(os.path.join(folder, "open_clip_config.json"), "w"), indent=1)
    if change:
        change(folder)
    if refused is not None:
        return expect(folder, refused=refused)
    m, transform = open_clip.create_model_from_pretrained("local-dir:" + folder)
    m = m.eval()
    if hf_tokenizer:
        ids = open_clip.get_tokenizer("local-dir:" + folder)(PROMPTS)
    else:
        ids = torch.zeros(len(PROMPTS), context, dtype=torch.long)
        for i, row in enumerate(tok(PROMPTS, truncation=True, max_length=context)["input_ids"]):
            ids[i, :len(row)] = torch.tensor(row)
    with torch.no_grad():
        image, text_out = m.encode_image(torch.stack([transform(p) for p in pictures()])), m.encode_text(ids)
        image, text_out = (x[0] if isinstance(x, tuple) else x for x in (image, text_out))
        bias = getattr(m, "logit_bias", None)
        answer(folder, image, text_out, ids, m.logit_scale.exp().item(), 0.0 if bias is None else bias.item(), bias is not None)


def stub(folder):
    """Tensors by whose names it is a model's, where the configuration is to be refused before any is read."""
    save_file({"logit_scale": torch.ones(1), "visual.conv1.weight": torch.ones(1)}, os.path.join(folder, "open_clip_model.safetensors"))


END = len(clip_tokenizer()) - 1
for custom in ({}, {"custom_text": True}):
    c = "-custom" if custom else ""
    oclip("oc-plain" + c, model=custom)
    oclip("oc-quick" + c, model={"quick_gelu": True, **custom})
    oclip("oc-no-ln-pre" + c, vision=dict(no_ln_pre=True), model=custom)
    oclip("oc-final-ln-after-pool" + c, vision=dict(final_ln_after_pool=True), text=dict(final_ln_after_pool=True), model=custom)
    oclip("oc-no-causal" + c, text=dict(no_causal_mask=True), model=custom)
    oclip("oc-text-eos" + c, text=dict(pool_type="eos", eos_id=END), model=custom)
    oclip("oc-text-last" + c, text=dict(pool_type="last"), model=custom)
    oclip("oc-text-first" + c, text=dict(pool_type="first"), model=custom, refused="first")
    oclip("oc-proj-bias" + c, text=dict(proj_bias=True), model=custom)
    oclip("oc-proj-none" + c, text=dict(proj_type="none", width=40), model=custom, refused="none")
    oclip("oc-bias" + c, model={"init_logit_bias": -10.0, **custom})
    oclip("oc-nonscalar" + c, model={"nonscalar_logit_scale": True, **custom})
    oclip("oc-avg" + c, vision=dict(pool_type="avg"), model=custom, refused="avg")
    oclip("oc-avg-after" + c, vision=dict(pool_type="avg", final_ln_after_pool=True), model=custom, refused="avg")
    oclip("oc-layer-scale" + c, vision=dict(ls_init_value=0.1), model=custom, refused="ls_init_value")
    oclip("oc-layer-scale-text" + c, text=dict(ls_init_value=0.1), model=custom, refused="ls_init_value")
oclip("oc-named-quickgelu")
oclip("oc-patch-dropout", vision=dict(patch_dropout=0.5))
oclip("oc-sincos", vision=dict(pos_embed_type="sin_cos_2d"))
oclip("oc-output-tokens", vision=dict(output_tokens=True), text=dict(output_tokens=True))
oclip("oc-attentional", vision=dict(attentional_pool=True, attn_pooler_heads=4), refused="attentional")
oclip("oc-pool-none", vision=dict(pool_type="none"), refused="none")
oclip("oc-head-width-no-divisor", vision=dict(width=48, head_width=20))
oclip("oc-mlp-ratio", vision=dict(mlp_ratio=2.7), text=dict(mlp_ratio=4.9231))
oclip("oc-context-20", text=dict(context_length=20))
oclip("oc-context-7", text=dict(context_length=7))
oclip("oc-pad-id", text=dict(pad_id=5))
oclip("oc-norm-eps", vision=dict(norm_kwargs={"eps": 1e-3}), text=dict(norm_kwargs={"eps": 1e-3}))
oclip("oc-act-tanh", vision=dict(act_kwargs={"approximate": "tanh"}), text=dict(act_kwargs={}))
oclip("oc-not-a-multiple", vision=dict(image_size=75))
oclip("oc-square-lists", vision=dict(image_size=[64, 64]))
oclip("oc-rectangular", vision=dict(image_size=[64, 96]), refused="square")
oclip("oc-rectangular-patch", vision=dict(patch_size=[16, 32]), refused="square")
for flag in ("qk_norm", "scale_heads", "scale_attn_inner", "scale_attn", "scale_fc", "scaled_cosine_attn"):
    oclip("oc-" + flag.replace("_", "-"), vision={flag: True}, refused=flag, save=False,
          change=stub)
oclip("oc-block-custom", vision=dict(block_type="custom"), refused="block_type")
oclip("oc-embed-cls", text=dict(embed_cls=True), model={"custom_text": True}, refused="embed_cls")
oclip("oc-coca", vision=dict(attentional_pool=True, attn_pooler_heads=4), text=dict(embed_cls=True, output_tokens=True), model={"multimodal_cfg": {"width": 32}, "custom_text": True}, refused="not supported", save=False,
      change=stub)
oclip("oc-hf-tokenizer", text=dict(hf_tokenizer_name="somewhere/else"), hf_tokenizer=True)
oclip("oc-hf-tokenizer-eos", text=dict(hf_tokenizer_name="somewhere/else", pool_type="eos", eos_id=END), hf_tokenizer=True)
oclip("oc-tokenizer-clips", text=dict(hf_tokenizer_name="somewhere/else", tokenizer_mode="clips"), refused="tokenizer_mode")
oclip("oc-tokenizer-kwargs", text=dict(hf_tokenizer_name="somewhere/else", tokenizer_kwargs={"strip_sep_token": True}), refused="tokenizer_kwargs")
oclip("oc-longest", preprocess=dict(resize_mode="longest"))
oclip("oc-longest-fill", preprocess=dict(resize_mode="longest", fill_color=127))
oclip("oc-squash-bilinear", preprocess=dict(resize_mode="squash", interpolation="bilinear"))
oclip("oc-random", preprocess=dict(interpolation="random"))
oclip("oc-pickle", pickle=True)
oclip("oc-heads-8", vision=dict(width=64, head_width=8), text=dict(width=40, heads=5))
oclip("oc-one-layer", vision=dict(layers=1), text=dict(layers=1))


# --- timm's image towers in OpenCLIP. Their names stand for sizes of hundreds of megabytes: small ones are put in their place.
def timm_towers():
    siglip = dict(patch_size=16, embed_dim=24, depth=2, num_heads=12, class_token=False, global_pool="map", img_size=64)
    plain = dict(patch_size=16, embed_dim=24, depth=2, num_heads=12, img_size=64)
    eva = dict(patch_size=16, embed_dim=48, depth=2, num_heads=12, qkv_fused=False, mlp_ratio=4 * 2 / 3, swiglu_mlp=True, scale_mlp=True,
               scale_attn_inner=True, use_rot_pos_emb=True, ref_feat_shape=(16, 16), global_pool="token", img_size=64)
    core = dict(patch_size=16, embed_dim=24, depth=2, num_heads=3, global_pool="map", attn_type="rope", use_pre_transformer_norm=True,
                use_rot_pos_emb=True, ref_feat_shape=(4, 4), rope_grid_offset=1., rope_grid_indexing="xy", attn_pool_num_heads=8,
                attn_pool_mlp_ratio=4., norm_layer=partial(LayerNorm, eps=1e-5), img_size=64)
    clip_norm = dict(pre_norm=True, norm_layer=partial(LayerNorm, eps=1e-5))
    for name, cls, kwargs in [
        ("vit_base_patch16_siglip_224", VisionTransformer, siglip),
        ("vit_so400m_patch16_siglip_256", VisionTransformer, dict(siglip, embed_dim=32, num_heads=16, mlp_ratio=3.7362, act_layer="gelu_tanh")),
        ("vit_base_patch16_224", VisionTransformer, plain),
        ("vit_base_patch16_clip_224", VisionTransformer, dict(plain, **clip_norm)),
        ("vit_base_patch16_clip_quickgelu_224", VisionTransformer, dict(plain, act_layer="quick_gelu", **clip_norm)),
        ("eva_giant_patch14_224", Eva, dict(patch_size=16, embed_dim=32, depth=2, num_heads=16, mlp_ratio=2.5, img_size=64)),
        ("eva02_large_patch14_clip_224", Eva, dict(eva, embed_dim=64, num_heads=16)),
        # Smaller still: those that lie in tests/conformance/checkpoints.
        ("vit_base_patch32_siglip_256", VisionTransformer, dict(siglip, patch_size=8, img_size=32, act_layer="gelu_tanh")),
        ("eva02_base_patch16_clip_224", Eva, dict(eva, depth=1, mlp_ratio=1.3, patch_size=4, img_size=16)),
        ("eva02_large_patch14_clip_336", Eva, dict(eva, embed_dim=64, num_heads=16, img_size=96)),
        ("vit_pe_core_tiny_patch16_64", Eva, core),
        ("vit_pe_core_gigantic_patch14_56", Eva, dict(core, embed_dim=64, num_heads=16, class_token=False, rope_grid_offset=0., patch_size=14, img_size=56)),
    ]:
        def make(pretrained=False, cls=cls, kwargs=kwargs, name=name, **more):
            for key in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
                more.pop(key, None)
            model = cls(**{**kwargs, **more})
            model.default_cfg = model.pretrained_cfg = {"input_size": (3, 64, 64)}
            return model
        _registry._model_entrypoints[name] = make
        _registry._model_to_module[name] = "vision_transformer"


timm_towers()


def tower(name, pool="token", proj=None, size=64, **more):
    return dict(image_size=size, timm_model_name=name, timm_model_pretrained=False, timm_pool=pool, timm_proj=proj, layers=None, width=None,
                head_width=None, patch_size=None, **more)


@says
def timm_clip(name, vision, text=None, model=None, dim=40, refused=None, sentences=False, bias=False, save=True):
    folder = folder_for(name)
    if folder is None:
        return
    tok = sentence_tokenizer(lower=False, length=64) if sentences else clip_tokenizer()
    text = {**OT, "vocab_size": len(tok), "context_length": 64 if sentences else 77, **(text or {})}
    vision = {k: v for k, v in vision.items() if v is not None or k == "timm_proj"}
    cfg = {"embed_dim": dim, "vision_cfg": vision, "text_cfg": text, "custom_text": True, **(model or {})}
    if bias:
        cfg["init_logit_bias"] = -10
    pre = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic", "resize_mode": "squash"}
    config = lambda: json.dump({"model_cfg": cfg, "preprocess_cfg": pre}, open(os.path.join(folder, "open_clip_config.json"), "w"), indent=1)
    config()
    tok.save_pretrained(folder)
    if not save:
        save_file({"logit_scale": torch.ones(1), "visual.trunk.stem.weight": torch.ones(1)}, os.path.join(folder, "open_clip_model.safetensors"))
        return expect(folder, refused=refused)
    m = open_clip.create_model("local-dir:" + folder, load_weights=False).eval()
    stir(m, 1.5)
    # timm begins with a projection of almost nothing and with zeros for the class token's like.
    with torch.no_grad():
        for key, p in m.named_parameters():
            if key.endswith(("trunk.head.weight", "latent", "cls_token", "pos_embed")):
                p.copy_(0.3 * torch.randn_like(p))
        if bias:
            m.logit_scale.fill_(2.0); m.logit_bias.fill_(-3.0)
    save_for_hf(m, tok, cfg, folder)
    for left in os.listdir(folder):
        if left.endswith(".bin"):
            os.remove(os.path.join(folder, left))
    config()
    if refused is not None:
        return expect(folder, refused=refused)
    m, transform = open_clip.create_model_from_pretrained("local-dir:" + folder)
    m = m.eval()
    if text.get("hf_tokenizer_name"):
        ids = open_clip.get_tokenizer("local-dir:" + folder)(PROMPTS)
    else:
        ids = torch.zeros(len(PROMPTS), text["context_length"], dtype=torch.long)
        for i, row in enumerate(tok(PROMPTS, truncation=True, max_length=text["context_length"])["input_ids"]):
            ids[i, :len(row)] = torch.tensor(row)
    with torch.no_grad():
        image, words = m.encode_image(torch.stack([transform(p) for p in pictures()])), m.encode_text(ids)
        offset = m.logit_bias.item() if bias else 0.0
        answer(folder, image, words, ids, m.logit_scale.exp().item(), offset, bias)


SIG_TEXT = dict(hf_tokenizer_name="somewhere/else", tokenizer_kwargs={"clean": "canonicalize"}, no_causal_mask=True, proj_bias=True,
                pool_type="last", norm_kwargs={"eps": 1e-6})
timm_clip("timm-siglip", tower("vit_base_patch16_siglip_224", "map", "none"), SIG_TEXT, dim=24, sentences=True, bias=True)
timm_clip("timm-siglip2", tower("vit_so400m_patch16_siglip_256", "map", "none"), {**SIG_TEXT, "act_kwargs": {"approximate": "tanh"}}, dim=32, sentences=True, bias=True)
timm_clip("timm-siglip-lower", tower("vit_base_patch16_siglip_224", "map", "none"), {**SIG_TEXT, "tokenizer_kwargs": {"clean": "lower"}}, dim=24, sentences=True, bias=True)
timm_clip("timm-siglip-projected", tower("vit_base_patch16_siglip_224", "map", "linear"), SIG_TEXT, sentences=True)
timm_clip("timm-vit", tower("vit_base_patch16_224", "", "linear"))
timm_clip("timm-vit-bias", tower("vit_base_patch16_224", "token", "linear", timm_proj_bias=True))
timm_clip("timm-vit-clip", tower("vit_base_patch16_clip_224", "token"))
timm_clip("timm-vit-quickgelu", tower("vit_base_patch16_clip_quickgelu_224", "token"))
timm_clip("timm-vit-avg", tower("vit_base_patch16_224", "avg", "linear"), refused="avg")
timm_clip("timm-vit-mlp", tower("vit_base_patch16_224", "token", "mlp"), refused="timm_proj")
timm_clip("timm-eva-giant", tower("eva_giant_patch14_224", "token"))
timm_clip("timm-eva02", tower("eva02_large_patch14_clip_224", "token"))
timm_clip("timm-eva02-larger-grid", tower("eva02_large_patch14_clip_336", "token", size=96))
timm_clip("timm-pe-core", tower("vit_pe_core_tiny_patch16_64", "map"), dict(context_length=32))
timm_clip("timm-pe-core-gigantic", tower("vit_pe_core_gigantic_patch14_56", "map", size=56), dict(context_length=72))
for other in ("convnext_base", "fastvit_mci2", "vit_base_mci_224", "eva02_enormous_patch14_clip_224", "vitamin_large_224", "resnet50"):
    timm_clip("timm-" + other.replace("_", "-"), tower(other, ""), refused=other, save=False)


SMALL_TEXT = dict(width=16, heads=2, layers=1)
timm_clip("openclip-timm-siglip", tower("vit_base_patch32_siglip_256", "map", "none", size=32), {**SIG_TEXT, **SMALL_TEXT}, dim=24, sentences=True, bias=True)
timm_clip("openclip-timm-eva02", tower("eva02_base_patch16_clip_224", "token", size=16), SMALL_TEXT)


# --- MetaCLIP 2: CLIP's towers, the end of a text at id 2
@says
def metaclip2(name):
    folder = folder_for(name)
    if folder is None:
        return
    tok = Tokenizer(models.BPE(unk_token="<unk>"))
    tok.pre_tokenizer = pre_tokenizers.Metaspace()
    tok.train_from_iterator(PROMPTS * 3, trainers.BpeTrainer(vocab_size=150, special_tokens=["<s>", "<pad>", "</s>", "<unk>"]))
    tok.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    tok = PreTrainedTokenizerFast(tokenizer_object=tok, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>", model_max_length=77)
    text = {**T, "vocab_size": len(tok), "eos_token_id": 2, "bos_token_id": 0, "pad_token_id": 1}
    m = MetaClip2Model(MetaClip2Config(text_config=text, vision_config=V, projection_dim=40)).eval()
    stir(m)
    m.save_pretrained(folder)
    CLIPImageProcessor(**PP).save_pretrained(folder)
    tok.save_pretrained(folder)
    m = MetaClip2Model.from_pretrained(folder, dtype=torch.float32).eval()
    ids = AutoTokenizer.from_pretrained(folder)(PROMPTS, padding="max_length", max_length=77, truncation=True, return_tensors="pt")["input_ids"]
    pixels = AutoImageProcessor.from_pretrained(folder)(images=pictures(), return_tensors="pt")["pixel_values"].float()
    with torch.no_grad():
        out = m(pixel_values=pixels, input_ids=ids)
        answer(folder, out.image_embeds, out.text_embeds, ids, m.logit_scale.exp().item())


metaclip2("hf-metaclip2")

# --- Chinese CLIP: BERT for texts
CHINESE = ["一只猫", "桌上的一杯咖啡", "没有人", "a photo of a cat", "Une Voiture rouge", "叉车 blocking 消防出口!", "it's 12 km"]


@says
def chinese(name, text=None, vision=None, change=None, refused=None, whole=False, pickle=False, size=64):
    folder = folder_for(name)
    if folder is None:
        return
    global PROMPTS
    kept, PROMPTS = PROMPTS, CHINESE
    try:
        letters = sorted({c for p in CHINESE for c in p.lower() if not c.isspace()})
        vocab = ["[PAD]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + letters + ["##" + c for c in letters if c.isascii()] + ["photo", "##hoto", "cat", "red"]
        open(os.path.join(folder, "vocab.txt"), "w").write("\n".join(vocab) + "\n")
        text = {**dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, max_position_embeddings=64), "vocab_size": len(vocab), **(text or {})}
        m = ChineseCLIPModel(ChineseCLIPConfig(text_config=text, vision_config={**V, "hidden_act": "quick_gelu", **(vision or {})}, projection_dim=40)).eval()
        stir(m)
        if pickle:
            m.config.save_pretrained(folder)
            torch.save(m.state_dict(), os.path.join(folder, "pytorch_model.bin"))
        else:
            m.save_pretrained(folder)
        json.dump({"do_center_crop": False, "do_normalize": True, "do_resize": True, "feature_extractor_type": "ChineseCLIPFeatureExtractor",
                   "image_processor_type": "ChineseCLIPImageProcessor", "image_mean": [0.48145466, 0.4578275, 0.40821073],
                   "image_std": [0.26862954, 0.26130258, 0.27577711], "resample": 3, "size": {"height": size, "width": size}},
                  open(os.path.join(folder, "preprocessor_config.json"), "w"), indent=1)
        tok = BertTokenizer(os.path.join(folder, "vocab.txt"))
        if whole:
            tok.save_pretrained(folder)
            os.remove(os.path.join(folder, "vocab.txt"))
        if change:
            change(folder)
        if refused is not None:
            return expect(folder, refused=refused)
        m = ChineseCLIPModel.from_pretrained(folder, dtype=torch.float32).eval()
        context = min(52, text["max_position_embeddings"])
        t = tok(CHINESE, padding="max_length", max_length=context, truncation=True, return_tensors="pt")
        pixels = ChineseCLIPImageProcessor.from_pretrained(folder)(images=pictures(), return_tensors="pt")["pixel_values"].float()
        with torch.no_grad():
            out = m(pixel_values=pixels, input_ids=t["input_ids"], attention_mask=t["attention_mask"])
            answer(folder, out.image_embeds, out.text_embeds, t["input_ids"], m.logit_scale.exp().item())
    finally:
        PROMPTS = kept


chinese("hf-chinese-clip", text=dict(hidden_size=24), vision=dict(hidden_size=24, num_attention_heads=3, intermediate_size=48, patch_size=8, image_size=32), size=32)
chinese("chinese-clip")
chinese("chinese-clip-tokenizer-json", whole=True)
chinese("chinese-clip-bin", pickle=True)
chinese("chinese-clip-context-20", text=dict(max_position_embeddings=20))
chinese("chinese-clip-segments", text=dict(type_vocab_size=3))
chinese("chinese-clip-cased", change=lambda d: edit(d, "tokenizer_config.json", lambda j: j.update(do_lower_case=True)))
chinese("chinese-clip-no-separator", change=lambda d: open(os.path.join(d, "vocab.txt"), "r+").write("[PAD]\n[unused1]\n[UNK]\n[CLS]\n[SEQ]"), refused="[SEP]")
print(len(DONE), "checkpoints in", OUT)
